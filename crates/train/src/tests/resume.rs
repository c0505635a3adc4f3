//! A run that was stopped and goes on leaves what a run that never stopped leaves.

use super::toy::*;
use crate::{Ending, TrainError};
use serde_json::{Value, json};
use std::path::Path;

fn stop_after(step: u64) -> Notes {
    Notes {
        stop_after: Some(step),
        ..Notes::default()
    }
}

fn stopped_and_resumed(setup: &Setup, folder: &Path, step: u64) -> Ran {
    let first = setup.run(folder, json!({}), stop_after(step));
    let output = first.result.unwrap();
    let Ending::Interrupted {
        signal: 15,
        checkpoint,
    } = output.ending
    else {
        panic!("stopped at {step}: {:?}", output.ending)
    };
    assert_eq!(
        (output.global_step, checkpoint),
        (step, folder.join(format!("checkpoint-{step}")))
    );
    let resumed = setup.run(
        folder,
        json!({"resume_from_checkpoint": "latest"}),
        Notes::default(),
    );
    assert_eq!(resumed.notes.updates.first().unwrap().step, step + 1);
    resumed
}

/// Every step of runs with and without dropout, with accumulation 1 and 3, across epochs.
#[test]
fn resume_after_every_step_gives_the_same_bytes() {
    for (dropout, accumulation) in [(0.0, 1), (0.0, 3), (0.4, 1), (0.4, 3)] {
        let mut setup = Setup::new(json!({"per_device_train_batch_size": 2, "max_steps": 13,
            "gradient_accumulation_steps": accumulation, "logging_steps": 3, "save_steps": 5,
            "learning_rate": 0.02, "weight_decay": 0.1, "warmup_steps": 4}));
        setup.dropout = dropout;
        let whole = tempfile::tempdir().unwrap();
        let never_stopped = setup.run(whole.path(), json!({}), Notes::default());
        never_stopped.result.unwrap();
        for step in 1..13 {
            let parted = tempfile::tempdir().unwrap();
            let resumed = stopped_and_resumed(&setup, parted.path(), step);
            resumed.result.unwrap();
            assert_eq!(
                resumed.toy.values(),
                never_stopped.toy.values(),
                "stopped at {step}"
            );
            for folder in ["", "checkpoint-13"] {
                let (want, found) = (
                    contents(&whole.path().join(folder)),
                    contents(&parted.path().join(folder)),
                );
                assert_eq!(
                    want.keys().collect::<Vec<_>>(),
                    found.keys().collect::<Vec<_>>()
                );
                for (name, bytes) in &want {
                    assert!(
                        found[name] == *bytes,
                        "`{folder}/{name}` differs, stopped at {step}"
                    );
                }
            }
        }
    }
}

#[test]
fn dropout_does_make_a_difference_to_the_toy() {
    let arguments = json!({"max_steps": 5, "learning_rate": 0.02});
    let plain = Setup::new(arguments.clone());
    let dropped = Setup {
        dropout: 0.4,
        ..Setup::new(arguments)
    };
    let values = |setup: &Setup| {
        let folder = tempfile::tempdir().unwrap();
        setup
            .run(folder.path(), json!({}), Notes::default())
            .toy
            .values()
    };
    assert_ne!(values(&plain), values(&dropped));
    assert_eq!(values(&dropped), values(&dropped));
}

fn evaluating() -> Setup {
    let mut setup = Setup::new(json!({"per_device_train_batch_size": 2, "max_steps": 12,
        "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 3,
        "learning_rate": 0.05, "load_best_model_at_end": true}));
    setup.eval = Some(Rows::some(5));
    setup
}

/// The best checkpoint's path has the run's folder in it, and the manifest a digest of that.
fn compare_logs(want: &Path, found: &Path) {
    let log = |folder: &Path| -> Vec<Value> {
        let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        let parse = |line: &str| {
            let mut entry: Value = serde_json::from_str(line).unwrap();
            let entry_map = entry.as_object_mut().unwrap();
            entry_map.retain(|name, _| !name.contains("runtime") && !name.contains("per_second"));
            entry
        };
        text.lines().map(parse).collect()
    };
    assert_eq!(log(want), log(found));
}

#[test]
fn a_run_stopped_inside_an_evaluation_makes_it_up() {
    let setup = evaluating();
    let whole = tempfile::tempdir().unwrap();
    let never_stopped = setup.run(whole.path(), json!({}), Notes::default());
    never_stopped.result.unwrap();
    for evaluation in 1..=4 {
        let parted = tempfile::tempdir().unwrap();
        let notes = Notes {
            stop_in_evaluation: Some(evaluation),
            ..Notes::default()
        };
        let stopped = setup.run(parted.path(), json!({}), notes).result.unwrap();
        let step = evaluation as u64 * 3;
        assert_eq!(stopped.global_step, step);
        assert!(matches!(
            stopped.ending,
            Ending::Interrupted { signal: 2, .. }
        ));
        let resumed = setup.run(
            parted.path(),
            json!({"resume_from_checkpoint": "latest"}),
            Notes::default(),
        );
        assert_eq!(resumed.result.unwrap().ending, Ending::Complete);
        assert_eq!(resumed.toy.values(), never_stopped.toy.values());
        compare_logs(whole.path(), parted.path());
    }
}

#[test]
fn early_stopping_goes_on_counting() {
    let mut setup = evaluating();
    // A rate at which the loss climbs after its first fall.
    setup.arguments["learning_rate"] = json!(3.0);
    setup.arguments["lr_scheduler_type"] = json!("constant");
    setup.arguments["max_steps"] = json!(60);
    setup.arguments["early_stopping_patience"] = json!(2);
    let whole = tempfile::tempdir().unwrap();
    let never_stopped = setup.run(whole.path(), json!({}), Notes::default());
    let output = never_stopped.result.unwrap();
    assert_eq!(output.ending, Ending::EarlyStop);
    assert!(
        output.global_step < 60 && output.global_step > 6,
        "{}",
        output.global_step
    );
    for step in 1..output.global_step {
        let parted = tempfile::tempdir().unwrap();
        let resumed = stopped_and_resumed(&setup, parted.path(), step);
        let again = resumed.result.unwrap();
        assert_eq!(
            (again.ending, again.global_step),
            (Ending::EarlyStop, output.global_step)
        );
        compare_logs(whole.path(), parted.path());
    }
}

#[test]
fn changed_settings_and_data_are_refused_with_the_list_unless_named() {
    let setup = Setup::new(json!({"max_steps": 6, "learning_rate": 0.02, "logging_steps": 2}));
    let folder = tempfile::tempdir().unwrap();
    setup
        .run(folder.path(), json!({}), stop_after(3))
        .result
        .unwrap();
    let mut other = Setup::new(json!({"max_steps": 6, "learning_rate": 0.01, "logging_steps": 1}));
    other.identity.insert("dataset".into(), "xyz".into());
    let resume = |more: Value| {
        let mut arguments = json!({"resume_from_checkpoint": "latest"});
        arguments
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        other.run(folder.path(), arguments, Notes::default())
    };
    let error = resume(json!({})).result.unwrap_err();
    let TrainError::Changed { changed, .. } = &error else {
        panic!("{error}")
    };
    let names: Vec<&str> = changed.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["dataset", "learning_rate"]);
    assert!(
        error
            .to_string()
            .contains("`learning_rate` was 0.02, is 0.01"),
        "{error}"
    );
    assert!(
        resume(json!({"resume_with_changed": "dataset"}))
            .result
            .is_err()
    );
    let useless = resume(json!({"resume_with_changed": "dataset,learning_rate,seed"}));
    assert!(matches!(useless.result, Err(TrainError::NotChanged { name }) if name == "seed"));
    let ran = resume(json!({"resume_with_changed": "dataset,learning_rate"}));
    assert_eq!(ran.result.unwrap().global_step, 6);
    assert_eq!(
        ran.notes
            .notices
            .iter()
            .filter(|text| text.contains(" was "))
            .count(),
        3
    );
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over_with_its_reason() {
    let setup = Setup::new(json!({"max_steps": 8, "save_steps": 2, "logging_steps": 1}));
    let folder = tempfile::tempdir().unwrap();
    setup
        .run(folder.path(), json!({}), stop_after(6))
        .result
        .unwrap();
    let path = folder.path().join("checkpoint-6/optimizer.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let resumed = setup.run(
        folder.path(),
        json!({"resume_from_checkpoint": "latest"}),
        Notes::default(),
    );
    assert_eq!(resumed.notes.updates.first().unwrap().step, 5);
    assert_eq!(resumed.notes.skipped.len(), 1);
    assert!(
        resumed.notes.skipped[0].contains("optimizer.safetensors"),
        "{:?}",
        resumed.notes.skipped
    );
    let straight = tempfile::tempdir().unwrap();
    setup
        .run(straight.path(), json!({}), Notes::default())
        .result
        .unwrap();
    compare_logs(straight.path(), folder.path());
}

#[test]
fn a_checkpoint_without_the_optimizer_is_never_resumed() {
    let setup = Setup::new(json!({"max_steps": 4, "save_steps": 2, "save_only_model": true}));
    let folder = tempfile::tempdir().unwrap();
    setup
        .run(folder.path(), json!({}), Notes::default())
        .result
        .unwrap();
    let from = folder.path().join("checkpoint-2");
    let resume = json!({"resume_from_checkpoint": from.to_str().unwrap()});
    let ran = setup.run(folder.path(), resume, Notes::default());
    assert!(matches!(ran.result, Err(TrainError::ModelOnly { .. })));
}

#[test]
fn resuming_from_nothing_is_an_error_and_a_used_folder_is_not_overwritten() {
    let setup = Setup::new(json!({"max_steps": 3}));
    let folder = tempfile::tempdir().unwrap();
    let resume = json!({"resume_from_checkpoint": "latest"});
    assert!(
        setup
            .run(folder.path(), resume.clone(), Notes::default())
            .result
            .is_err()
    );
    setup
        .run(folder.path(), json!({}), Notes::default())
        .result
        .unwrap();
    let again = setup.run(folder.path(), json!({}), Notes::default());
    assert!(matches!(again.result, Err(TrainError::OutputInUse { .. })));
    let finished = setup.run(folder.path(), resume, Notes::default());
    assert_eq!(finished.result.unwrap().global_step, 3);
    assert!(finished.notes.updates.is_empty());
}
