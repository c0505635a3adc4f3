//! What a run does, logs and writes, against the Trainer's rules.

use super::toy::*;
use crate::{Ending, Row};
use serde_json::{Value, json};

fn run(arguments: Value) -> (tempfile::TempDir, Ran) {
    let folder = tempfile::tempdir().unwrap();
    let ran = Setup::new(arguments).run(folder.path(), json!({}), Notes::default());
    (folder, ran)
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_log_entry_is_the_mean_since_the_last_and_the_rate_before_the_step() {
    let (_folder, ran) = run(
        json!({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "num_train_epochs": 2, "logging_steps": 2, "learning_rate": 0.02}),
    );
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
fn a_checkpoint_has_the_trainers_files_without_pickles() {
    let (folder, ran) = run(json!({"max_steps": 7, "save_steps": 3, "logging_steps": 1}));
    assert_eq!(ran.result.unwrap().ending, Ending::Complete);
    assert_eq!(
        names(folder.path()),
        [
            ".lock",
            "adapter_model.safetensors",
            "checkpoint-3",
            "checkpoint-6",
            "checkpoint-7",
            "loss.svg",
            "metrics.jsonl",
            "trainer_state.json"
        ]
    );
    assert_eq!(
        names(&folder.path().join("checkpoint-6")),
        [
            "adapter_model.safetensors",
            "manifest.json",
            "optimizer.safetensors",
            "resume_state.json",
            "trainer_state.json"
        ]
    );
}

#[test]
fn trainer_state_has_the_trainers_keys_in_its_layout() {
    let (folder, _ran) = run(json!({"max_steps": 2, "logging_steps": 1, "learning_rate": 0.02}));
    let text =
        std::fs::read_to_string(folder.path().join("checkpoint-2/trainer_state.json")).unwrap();
    assert!(text.starts_with("{\n  \"best_global_step\": null,\n  \"best_metric\": null,\n"));
    assert!(text.ends_with("\n  \"trial_params\": null\n}\n"));
    assert!(
        text.contains("\n      \"learning_rate\": 0.01,\n"),
        "{text}"
    );
    let state: Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<_> = state
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "best_global_step",
            "best_metric",
            "best_model_checkpoint",
            "epoch",
            "eval_steps",
            "global_step",
            "is_hyper_param_search",
            "is_local_process_zero",
            "is_world_process_zero",
            "log_history",
            "logging_steps",
            "max_steps",
            "num_input_tokens_seen",
            "num_train_epochs",
            "save_steps",
            "stateful_callbacks",
            "total_flos",
            "train_batch_size",
            "trial_name",
            "trial_params"
        ]
    );
    assert_eq!(
        state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"],
        true
    );
}

#[test]
fn a_token_budget_bounds_a_pass_and_changes_only_rounding() {
    let arguments = json!({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "max_steps": 8, "learning_rate": 0.02});
    let (_one, wide) = run(arguments.clone());
    let mut narrow = arguments;
    narrow["max_tokens_per_pass"] = json!(10);
    let (_two, narrow) = run(narrow);
    assert!(wide.toy.widest > 20 && narrow.toy.widest <= 10);
    for (a, b) in wide.toy.values().iter().zip(narrow.toy.values()) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn losses_are_weighted_by_tokens_or_by_micro_batches() {
    let arguments = json!({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3,
        "max_steps": 1, "train_sampling_strategy": "sequential"});
    let rows = Rows::some(3).0;
    let toy = Toy::new(0.0);
    let losses: Vec<Vec<f32>> = rows
        .iter()
        .map(|row| {
            let one = crate::passes::Passes::new(
                &[vec![row.clone()]],
                crate::LossNormalization::Tokens,
                99,
                false,
            );
            crate::Learner::losses(&toy, &one.passes[0].batch).unwrap()
        })
        .collect();
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (_one, by_tokens) = run(arguments.clone());
    let found = by_tokens.notes.updates[0].loss;
    assert!((found - f64::from(mean(&losses.concat()))).abs() < 1e-7);
    let mut arguments = arguments;
    arguments["loss_normalization"] = json!("mean_of_micro_batches");
    let (_two, by_batches) = run(arguments);
    let found = by_batches.notes.updates[0].loss;
    let means: Vec<f32> = losses.iter().map(|losses| mean(losses)).collect();
    assert!((found - f64::from(mean(&means))).abs() < 1e-7);
    assert!((mean(&means) - mean(&losses.concat())).abs() > 1e-4);
}

#[test]
fn an_update_of_masked_rows_learns_nothing_and_drifts_nowhere() {
    let mut setup = Setup::new(json!({"per_device_train_batch_size": 1, "max_steps": 4,
        "train_sampling_strategy": "sequential", "learning_rate": 0.02, "weight_decay": 0.5,
        "save_strategy": "steps", "save_steps": 1, "logging_steps": 1}));
    for row in &mut setup.rows.0[1..3] {
        row.labels.fill(-100);
    }
    let folder = tempfile::tempdir().unwrap();
    let ran = setup.run(folder.path(), json!({}), Notes::default());
    ran.result.unwrap();
    let masked = &ran.notes.updates[1];
    assert_eq!((masked.loss, masked.grad_norm), (0.0, 0.0));
    let adapter = |step: u64| {
        let path = folder
            .path()
            .join(format!("checkpoint-{step}/adapter_model.safetensors"));
        std::fs::read(path).unwrap()
    };
    assert_eq!(adapter(1), adapter(2));
    assert_eq!(adapter(1), adapter(3));
    assert_ne!(adapter(3), adapter(4));
}

#[test]
fn the_evaluation_loss_is_the_mean_over_rows_of_their_batches_token_means() {
    let mut setup = Setup::new(json!({"max_steps": 1, "eval_on_start": true,
        "per_device_eval_batch_size": 2, "max_tokens_per_pass": 7}));
    setup.eval = Some(Rows::some(5));
    let folder = tempfile::tempdir().unwrap();
    let ran = setup.run(folder.path(), json!({}), Notes::default());
    let toy = Toy::new(0.0);
    let batch = |rows: &[Row]| -> f64 {
        let one = crate::passes::Passes::new(
            &[rows.to_vec()],
            crate::LossNormalization::Tokens,
            99,
            false,
        );
        let losses = crate::Learner::losses(&toy, &one.passes[0].batch).unwrap();
        f64::from(losses.iter().sum::<f32>()) / losses.len() as f64
    };
    let rows = Rows::some(5).0;
    let want = (2.0 * batch(&rows[0..2]) + 2.0 * batch(&rows[2..4]) + batch(&rows[4..])) / 5.0;
    let entry = &ran.notes.logs[0];
    assert!((entry["eval_loss"].as_f64().unwrap() - want).abs() < 1e-7);
    assert_eq!(
        (&entry["step"], entry["epoch"].as_f64()),
        (&json!(0), Some(0.0))
    );
}

#[test]
fn the_best_checkpoint_is_kept_and_loaded_at_the_end() {
    let mut setup = Setup::new(
        json!({"max_steps": 30, "eval_strategy": "steps", "eval_steps": 3,
        "save_steps": 3, "learning_rate": 3.0, "lr_scheduler_type": "constant",
        "save_total_limit": 2, "load_best_model_at_end": true, "logging_steps": 3}),
    );
    setup.eval = Some(Rows::some(5));
    let folder = tempfile::tempdir().unwrap();
    let ran = setup.run(folder.path(), json!({}), Notes::default());
    ran.result.unwrap();
    let losses: Vec<(u64, f64)> = ran
        .notes
        .logs
        .iter()
        .filter_map(|log| Some((log["step"].as_u64()?, log.get("eval_loss")?.as_f64()?)))
        .collect();
    let best = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert!(
        best < 30,
        "the test wants a best that is not the last: {losses:?}"
    );
    let best = format!("checkpoint-{best}");
    let left: Vec<String> = names(folder.path())
        .into_iter()
        .filter(|name| name.starts_with("checkpoint"))
        .collect();
    assert_eq!(left.len(), 2);
    assert!(
        left.contains(&best) && left.contains(&"checkpoint-30".to_owned()),
        "{left:?}"
    );
    let final_adapter = std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
    let best_adapter =
        std::fs::read(folder.path().join(&best).join("adapter_model.safetensors")).unwrap();
    assert!(final_adapter == best_adapter);
}

#[test]
fn save_strategy_best_saves_only_gains() {
    let mut setup = Setup::new(
        json!({"max_steps": 30, "eval_strategy": "steps", "eval_steps": 3,
        "save_strategy": "best", "learning_rate": 3.0, "lr_scheduler_type": "constant"}),
    );
    setup.eval = Some(Rows::some(5));
    let folder = tempfile::tempdir().unwrap();
    let ran = setup.run(folder.path(), json!({}), Notes::default());
    ran.result.unwrap();
    let mut best = f64::INFINITY;
    let mut want = Vec::new();
    for log in &ran.notes.logs {
        if let Some(loss) = log.get("eval_loss").and_then(Value::as_f64)
            && loss < best
        {
            best = loss;
            want.push(format!("checkpoint-{}", log["step"]));
        }
    }
    want.sort();
    let left: Vec<String> = names(folder.path())
        .into_iter()
        .filter(|name| name.starts_with("checkpoint"))
        .collect();
    assert_eq!(left, want);
    assert!(want.len() < 10);
}
