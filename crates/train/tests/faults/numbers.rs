//! D33, D36 to D38, D41: steps that are resumed, losses and gradients that are not finite, rows with nothing to learn.

use durable::faults::{SimFs, Tally};
use lowrank_train::{Ending, TrainError};
use serde_json::{Value, json};

use crate::finish;
use crate::toy::*;

/// A run that was stopped after `step`, and the one that goes on from there.
fn parted(setup: &Setup, step: u64) -> (SimFs, Ran) {
    let sim = SimFs::new();
    let notes = Notes {
        stop_after: Some(step),
        ..Notes::default()
    };
    let stopped = setup.run(&disk(&sim), json!({}), notes);
    let more = match stopped.result.map(|output| output.ending) {
        Ok(Ending::Interrupted { .. }) => json!({"resume_from_checkpoint": "latest"}),
        other => panic!("not stopped after {step}: {other:?}"),
    };
    let ran = setup.run(&disk(&sim), more, Notes::default());
    (sim, ran)
}

fn first_difference(whole: &SimFs, parted: &SimFs) -> Option<String> {
    let folders = checkpoints(whole).into_iter().chain([String::new()]);
    let differs = |folder: &String| contents(whole, folder) != contents(parted, folder);
    folders.into_iter().find(differs)
}

/// With and without dropout, accumulation 1 and 3, across epochs of six and two updates.
#[test]
fn resume_after_every_step_gives_the_same_bytes() {
    let mut tally = Tally::new();
    for (dropout, accumulation) in [(0.0, 1), (0.0, 3), (0.4, 1), (0.4, 3)] {
        let mut setup = Setup::new(json!({"per_device_train_batch_size": 2, "max_steps": 42,
            "gradient_accumulation_steps": accumulation, "logging_steps": 3, "save_steps": 1,
            "learning_rate": 0.02, "weight_decay": 0.1, "warmup_steps": 4}));
        setup.dropout = dropout;
        let (whole, never_stopped) = setup.fresh();
        never_stopped.result.unwrap();
        for step in 1..=41 {
            let (parted, resumed) = parted(&setup, step);
            tally.inject();
            let what = format!("dropout {dropout}, accumulation {accumulation}, step {step}");
            match resumed.result {
                Err(error) => tally.lose(format!("{what}: {error}")),
                Ok(_) => {
                    if let Some(folder) = first_difference(&whole, &parted) {
                        tally.differ(format!("{what}: `{folder}`"));
                    }
                }
            }
        }
    }
    finish(33, "resume after every step", &tally, 164);
}

/// Rows 0, 1, 2, … one an update; the rows `at` end in a poisoned token.
fn poisoned(at: &[usize], poison: u32, more: Value) -> Setup {
    let mut arguments = json!({"per_device_train_batch_size": 1, "max_steps": 11, "logging_steps": 1,
        "train_sampling_strategy": "sequential", "learning_rate": 0.02, "save_steps": 2});
    let more = more.as_object().unwrap().clone();
    arguments.as_object_mut().unwrap().extend(more);
    let mut setup = Setup::new(arguments);
    for &at in at {
        let row = &mut setup.rows.0[at];
        row.input_ids.push(poison);
        row.labels.push(poison as i32);
    }
    setup
}

fn is_finite(ran: &Ran) -> bool {
    ran.toy.values().iter().all(|value| value.is_finite())
}

#[test]
fn a_number_that_is_not_finite_stops_the_run_at_any_step() {
    let (mut losses, mut gradients) = (Tally::new(), Tally::new());
    for at in 0..11 {
        for (poison, tally) in [(POISON, &mut losses), (POISON_GRADIENT, &mut gradients)] {
            let (sim, ran) = poisoned(&[at], poison, json!({})).fresh();
            tally.inject();
            let error = ran.result.as_ref().err().map(ToString::to_string);
            let named = error.as_ref().is_some_and(|text| {
                text.contains(&format!("update {}", at + 1)) && text.ends_with(&format!("row {at}"))
            });
            if !named || !is_finite(&ran) || checkpoints(&sim).len() != at / 2 {
                tally.differ(format!("row {at}: {error:?}, left {:?}", checkpoints(&sim)));
            }
        }
    }
    finish(37, "loss that is not finite", &losses, 10);
    finish(38, "gradient that is not finite", &gradients, 5);
}

/// What is left out changes no weight and no moment: the run learns what it would have from the other rows.
#[test]
fn updates_that_are_not_finite_are_left_out_counted_and_end_the_run_in_a_row() {
    let mut tally = Tally::new();
    for poison in [POISON, POISON_GRADIENT] {
        let setup = poisoned(
            &[2, 5, 6],
            poison,
            json!({"max_skipped_updates": 2, "save_steps": 1}),
        );
        let (whole, ran) = setup.fresh();
        tally.inject();
        let told = ran
            .notes
            .notices
            .iter()
            .filter(|text| text.contains("left out"))
            .count();
        let same = |one: u64, other: u64| {
            let of = |step: u64| {
                let file = |name| file(&whole, &format!("checkpoint-{step}/{name}.safetensors"));
                (file("adapter_model"), file("optimizer"))
            };
            of(one) == of(other)
        };
        let steps = ran
            .result
            .as_ref()
            .map(|output| output.global_step)
            .unwrap_or(0);
        let skipped = same(2, 3) && same(5, 6) && same(6, 7) && !same(3, 4) && !same(7, 8);
        if (steps, told) != (11, 3) || !skipped || !is_finite(&ran) {
            tally.differ(format!(
                "{poison}: {steps} steps, {told} told: {:?}",
                ran.result
            ));
        }
        for step in [1, 2, 4, 5, 8, 9, 10] {
            let (parted, resumed) = parted(&setup, step);
            tally.inject();
            let difference = first_difference(&whole, &parted);
            if resumed.result.is_err() || difference.is_some() {
                tally.differ(format!("{poison}, resumed after {step}: {difference:?}"));
            }
        }
        let ended = poisoned(&[2, 5, 6, 7], poison, json!({"max_skipped_updates": 2}))
            .fresh()
            .1;
        tally.inject();
        match ended.result {
            Err(
                TrainError::LossNotFinite { step: 8, .. }
                | TrainError::GradientNotFinite { step: 8, .. },
            ) => {}
            other => tally.differ(format!("{poison}, three in a row: {other:?}")),
        }
    }
    finish(38, "updates left out", &tally, 18);
}

#[test]
fn an_update_that_is_left_out_has_no_loss_in_the_log() {
    let more = json!({"max_skipped_updates": 2, "logging_steps": 2});
    // Of entry 1 the last update, of entry 3 both.
    let (_, ran) = poisoned(&[1, 4, 5], POISON, more).fresh();
    ran.result.unwrap();
    let has = |entry: &Value| ["loss", "grad_norm"].map(|name| entry[name].is_number());
    let logs = &ran.notes.logs;
    assert_eq!(
        logs[..4].iter().map(has).collect::<Vec<_>>(),
        [[true, false], [true, true], [false, false], [true, true],]
    );
    assert!(
        logs[..4]
            .iter()
            .all(|entry| entry["learning_rate"].is_number())
    );
}

#[test]
fn an_update_of_masked_rows_drifts_nowhere_at_any_step() {
    let mut tally = Tally::new();
    for at in 0..10 {
        let mut setup = poisoned(&[], POISON, json!({"weight_decay": 0.5, "save_steps": 1}));
        setup.rows.0[at].labels.fill(-100);
        let (sim, ran) = setup.fresh();
        tally.inject();
        let masked = &ran.notes.updates[at];
        let files = |step: usize| {
            let of = |name| file(&sim, &format!("checkpoint-{step}/{name}.safetensors"));
            (of("adapter_model"), of("optimizer"))
        };
        let still = at == 0 || files(at) == files(at + 1);
        if (masked.loss, masked.grad_norm) != (0.0, 0.0) || !still || ran.result.is_err() {
            tally.differ(format!("row {at}"));
        }
    }
    finish(41, "labels that are all masked", &tally, 5);
}

/// Evaluations, early stop and best state, stopped at every step.
#[test]
fn early_stop_and_best_metric_go_on_from_every_step() {
    let mut tally = Tally::new();
    for schedule in ["constant", "cosine"] {
        let mut setup = Setup::new(json!({"per_device_train_batch_size": 2, "max_steps": 40,
            "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 3,
            "learning_rate": 3.0, "load_best_model_at_end": true, "lr_scheduler_type": schedule,
            "early_stopping_patience": 3}));
        setup.eval = Some(Rows::some(5));
        let (whole, never_stopped) = setup.fresh();
        let want = never_stopped.result.unwrap();
        for step in 1..want.global_step {
            let (parted, resumed) = parted(&setup, step);
            tally.inject();
            let what = format!("{schedule}, step {step}");
            let Ok(found) = resumed.result else {
                tally.lose(what);
                continue;
            };
            let same = (&found.ending, found.global_step) == (&want.ending, want.global_step);
            let top = |sim: &SimFs| {
                let mut files = contents(sim, "");
                let metrics = files.remove("metrics.jsonl").unwrap_or_default();
                (files, String::from_utf8(metrics).unwrap().lines().count())
            };
            if !same || top(&whole) != top(&parted) {
                tally.differ(what);
            }
        }
    }
    finish(36, "early stop and best metric", &tally, 20);
}
