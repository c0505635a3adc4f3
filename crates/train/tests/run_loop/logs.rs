//! What a run does, logs and writes, against the Trainer's rules.

use durable::faults::SimFs;
use lowrank_train::{Ending, Learner, Row};
use serde_json::{Value, json};

use crate::toy::*;

fn names(sim: &SimFs, folder: &str) -> Vec<String> {
    contents(sim, folder).into_keys().collect()
}

#[test]
fn a_log_entry_is_the_mean_since_the_last_and_the_rate_before_the_step() {
    let (_, ran) = Setup::new(json!({"per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "num_train_epochs": 2, "logging_steps": 2,
        "learning_rate": 0.02}))
    .fresh();
    // 11 rows: 6 micro-batches, 3 updates an epoch.
    let updates = &ran.notes.updates;
    assert_eq!(updates.len(), 6);
    let log = &ran.notes.logs[1];
    let mean = (updates[2].loss + updates[3].loss) / 2.0;
    assert_eq!(log["loss"].as_f64().unwrap(), mean);
    assert_eq!(log["grad_norm"].as_f64().unwrap(), updates[3].grad_norm);
    assert_eq!(log["learning_rate"].as_f64().unwrap(), 0.02 * (3.0 / 6.0));
    assert_eq!(log["epoch"].as_f64().unwrap(), 1.0 + 2.0 / 6.0);
    assert_eq!(log["step"], 4);
    let keys: Vec<_> = log.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["loss", "grad_norm", "learning_rate", "epoch", "step"]
    );
    let summary = ran.notes.logs.last().unwrap();
    let total: f64 = updates.iter().map(|update| update.loss).sum();
    assert!((summary["train_loss"].as_f64().unwrap() - total / 6.0).abs() < 1e-12);
    let epoch = |range: std::ops::Range<usize>| -> f64 {
        updates[range].iter().map(|update| update.loss).sum()
    };
    assert!(epoch(3..6) < epoch(0..3));
}

#[test]
fn a_run_and_its_checkpoints_have_the_trainers_files_without_pickles() {
    let (sim, ran) =
        Setup::new(json!({"max_steps": 7, "save_steps": 3, "logging_steps": 1})).fresh();
    assert_eq!(ran.result.unwrap().ending, Ending::Complete);
    assert_eq!(
        names(&sim, ""),
        [
            "adapter_model.safetensors",
            "loss.svg",
            "metrics.jsonl",
            "trainer_state.json"
        ]
    );
    assert_eq!(
        checkpoints(&sim),
        ["checkpoint-3", "checkpoint-6", "checkpoint-7"]
    );
    assert_eq!(
        names(&sim, "checkpoint-6"),
        [
            "adapter_model.safetensors",
            "manifest.json",
            "optimizer.safetensors",
            "resume_state.json",
            "trainer_state.json"
        ]
    );
    let metrics = String::from_utf8(file(&sim, "metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 8);
    assert!(metrics.starts_with("{\"loss\": 0."), "{metrics}");
}

#[test]
fn the_same_run_twice_gives_the_same_bytes() {
    let setup = Setup::new(json!({"max_steps": 7, "save_steps": 3, "logging_steps": 1}));
    let ((one, _), (other, _)) = (setup.fresh(), setup.fresh());
    for folder in ["", "checkpoint-3", "checkpoint-6", "checkpoint-7"] {
        assert!(
            contents(&one, folder) == contents(&other, folder),
            "{folder}"
        );
    }
}

#[test]
fn trainer_state_has_the_trainers_keys_in_its_layout() {
    let (sim, _) =
        Setup::new(json!({"max_steps": 2, "logging_steps": 1, "learning_rate": 0.02})).fresh();
    let text = String::from_utf8(file(&sim, "checkpoint-2/trainer_state.json")).unwrap();
    assert!(text.starts_with("{\n  \"best_global_step\": null,\n  \"best_metric\": null,\n"));
    assert!(text.ends_with("\n  \"trial_params\": null\n}\n"));
    assert!(
        text.contains("\n      \"learning_rate\": 0.01,\n"),
        "{text}"
    );
    let state: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(state["max_steps"], 2);
    assert_eq!(
        state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"],
        true
    );
}

#[test]
fn a_token_budget_bounds_a_pass_and_changes_only_rounding() {
    for dropout in [0.0, 0.4] {
        let mut arguments = json!({"per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2, "max_steps": 8, "learning_rate": 0.02});
        let run = |arguments: &Value| {
            let mut setup = Setup::new(arguments.clone());
            setup.dropout = dropout;
            setup.fresh().1
        };
        let wide = run(&arguments);
        arguments["max_tokens_per_pass"] = json!(10);
        let narrow = run(&arguments);
        assert!(wide.toy.widest > 20 && narrow.toy.widest <= 10);
        for (a, b) in wide.toy.values().iter().zip(narrow.toy.values()) {
            assert!((a - b).abs() < 1e-6, "dropout {dropout}: {a} {b}");
        }
    }
}

fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64
}

#[test]
fn losses_are_weighted_by_tokens_or_by_micro_batches() {
    let mut arguments = json!({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3,
        "max_steps": 1, "train_sampling_strategy": "sequential"});
    let (_, by_tokens) = Setup::new(arguments.clone()).fresh();
    arguments["loss_normalization"] = json!("mean_of_micro_batches");
    let (_, by_batches) = Setup::new(arguments).fresh();
    let toy = Toy::new(disk(&SimFs::new()), 0.0);
    let rows = Rows::some(3).0;
    let loss = |row: &Row| toy.losses(&batch_of(std::slice::from_ref(row))).unwrap();
    let losses: Vec<Vec<f32>> = rows.iter().map(loss).collect();
    let of_tokens = mean(&losses.concat());
    let of_means = losses.iter().map(|losses| mean(losses)).sum::<f64>() / 3.0;
    assert!((by_tokens.notes.updates[0].loss - of_tokens).abs() < 1e-7);
    assert!((by_batches.notes.updates[0].loss - of_means).abs() < 1e-7);
    assert!(
        (of_means - of_tokens).abs() > 1e-4,
        "the two must differ for this to show anything"
    );
}

#[test]
fn an_update_of_masked_rows_learns_nothing_and_drifts_nowhere() {
    let mut setup = Setup::new(json!({"per_device_train_batch_size": 1, "max_steps": 4,
        "train_sampling_strategy": "sequential", "learning_rate": 0.02, "weight_decay": 0.5,
        "save_steps": 1, "logging_steps": 1}));
    for row in &mut setup.rows.0[1..3] {
        row.labels.fill(-100);
    }
    let (sim, ran) = setup.fresh();
    ran.result.unwrap();
    let masked = &ran.notes.updates[1];
    assert_eq!((masked.loss, masked.grad_norm), (0.0, 0.0));
    for name in ["adapter_model.safetensors", "optimizer.safetensors"] {
        let at = |step: u64| file(&sim, &format!("checkpoint-{step}/{name}"));
        assert!(at(1) == at(2) && at(2) == at(3), "{name}");
        assert!(at(3) != at(4), "{name}");
    }
}

#[test]
fn the_evaluation_loss_is_the_mean_over_rows_of_their_batches_token_means() {
    let mut setup = Setup::new(json!({"max_steps": 1, "eval_on_start": true,
        "per_device_eval_batch_size": 2, "max_tokens_per_pass": 7}));
    setup.eval = Some(Rows::some(5));
    let (_, ran) = setup.fresh();
    let toy = Toy::new(disk(&SimFs::new()), 0.0);
    let batch = |rows: &[Row]| mean(&toy.losses(&batch_of(rows)).unwrap());
    let rows = Rows::some(5).0;
    let want = (2.0 * batch(&rows[0..2]) + 2.0 * batch(&rows[2..4]) + batch(&rows[4..])) / 5.0;
    let entry = &ran.notes.logs[0];
    assert!((entry["eval_loss"].as_f64().unwrap() - want).abs() < 1e-7);
    assert_eq!(
        (&entry["step"], entry["epoch"].as_f64()),
        (&json!(0), Some(0.0))
    );
}

/// A rate at which the loss climbs after its first fall, so that the best is not the last.
fn climbing(more: Value) -> Setup {
    let mut arguments = json!({"max_steps": 30, "eval_strategy": "steps", "eval_steps": 3,
        "learning_rate": 3.0, "lr_scheduler_type": "constant", "logging_steps": 3});
    arguments
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Setup {
        eval: Some(Rows::some(5)),
        ..Setup::new(arguments)
    }
}

fn evaluations(ran: &Ran) -> Vec<(u64, f64)> {
    let loss = |log: &Value| Some((log["step"].as_u64()?, log.get("eval_loss")?.as_f64()?));
    ran.notes.logs.iter().filter_map(loss).collect()
}

#[test]
fn the_best_checkpoint_is_kept_and_loaded_at_the_end() {
    let (sim, ran) =
        climbing(json!({"save_steps": 3, "save_total_limit": 2, "load_best_model_at_end": true}))
            .fresh();
    let losses = evaluations(&ran);
    let best = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert!(
        best < 30,
        "the test wants a best that is not the last: {losses:?}"
    );
    let best = format!("checkpoint-{best}");
    let mut left = checkpoints(&sim);
    left.sort();
    let mut want = [best.clone(), "checkpoint-30".to_owned()];
    want.sort();
    assert_eq!(left, want);
    let weights = |folder: &str| file(&sim, &format!("{folder}adapter_model.safetensors"));
    assert!(weights("") == weights(&format!("{best}/")));
    assert!(weights("") != weights("checkpoint-30/"));
}

#[test]
fn save_strategy_best_saves_only_gains() {
    let (sim, ran) = climbing(json!({"save_strategy": "best"})).fresh();
    let (mut best, mut want) = (f64::INFINITY, Vec::new());
    for (step, loss) in evaluations(&ran) {
        if loss < best {
            best = loss;
            want.push(format!("checkpoint-{step}"));
        }
    }
    want.sort();
    assert_eq!(checkpoints(&sim), want);
    assert!(want.len() < 10);
}
