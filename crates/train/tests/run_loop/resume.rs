//! A run that was stopped and goes on leaves what a run that never stopped leaves.

use std::path::Path;
use std::sync::Arc;

use durable::Disk;
use durable::faults::{Failure, FaultyFs, Op, Plan as Fault, SimFs};
use lowrank_train::{Ending, TrainError};
use serde_json::{Value, json};

use crate::toy::*;

fn stop_after(step: u64) -> Notes {
    Notes {
        stop_after: Some(step),
        ..Notes::default()
    }
}

/// A run stopped after `step`, and the one that goes on from there.
fn stopped_and_resumed(setup: &Setup, step: u64) -> (SimFs, Ran) {
    let sim = SimFs::new();
    let stopped = setup
        .run(&disk(&sim), json!({}), stop_after(step))
        .result
        .unwrap();
    let Ending::Interrupted {
        signal: 15,
        checkpoint,
    } = stopped.ending
    else {
        panic!("stopped at {step}: {:?}", stopped.ending)
    };
    let want = Path::new(RUN).join(format!("checkpoint-{step}"));
    assert_eq!((stopped.global_step, checkpoint), (step, want));
    let resumed = setup.resume(&sim);
    if let Some(update) = resumed.notes.updates.first() {
        assert_eq!(update.step, step + 1);
    }
    (sim, resumed)
}

/// Steps 0 to 13 of runs with and without dropout, with accumulation 1 and 3, across epochs.
#[test]
fn resume_after_every_step_gives_the_same_bytes() {
    for (dropout, accumulation) in [(0.0, 1), (0.0, 3), (0.4, 1), (0.4, 3)] {
        let mut setup = Setup::new(json!({"per_device_train_batch_size": 2, "max_steps": 14,
            "gradient_accumulation_steps": accumulation, "logging_steps": 3, "save_steps": 5,
            "learning_rate": 0.02, "weight_decay": 0.1, "warmup_steps": 4}));
        setup.dropout = dropout;
        let (whole, never_stopped) = setup.fresh();
        never_stopped.result.unwrap();
        for step in 1..14 {
            let (parted, resumed) = stopped_and_resumed(&setup, step);
            resumed.result.unwrap();
            assert_eq!(
                resumed.toy.values(),
                never_stopped.toy.values(),
                "stopped at {step}"
            );
            let later: &[&str] = if step < 5 { &["checkpoint-5"] } else { &[] };
            for folder in ["", "checkpoint-10", "checkpoint-14"].iter().chain(later) {
                let (want, found) = (contents(&whole, folder), contents(&parted, folder));
                assert!(want.keys().eq(found.keys()), "{folder}, stopped at {step}");
                for (name, bytes) in &want {
                    let label = format!("{folder}/{name}, stopped at {step}, dropout {dropout}");
                    assert!(found[name] == *bytes, "{label}");
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
    assert_ne!(plain.fresh().1.toy.values(), dropped.fresh().1.toy.values());
    assert_eq!(
        dropped.fresh().1.toy.values(),
        dropped.fresh().1.toy.values()
    );
}

/// With evaluations and everything that hangs on them.
fn evaluating(more: Value) -> Setup {
    let mut arguments = json!({"per_device_train_batch_size": 2, "max_steps": 12,
        "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 3,
        "learning_rate": 0.05, "load_best_model_at_end": true});
    arguments
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Setup {
        eval: Some(Rows::some(5)),
        ..Setup::new(arguments)
    }
}

/// The logs of two runs, without what tells the time.
fn assert_same_logs(want: &SimFs, found: &SimFs, label: &str) {
    let log = |sim: &SimFs| -> Vec<Value> {
        let parse = |line: &str| {
            let mut entry: Value = serde_json::from_str(line).unwrap();
            let is_time = |name: &String| name.contains("runtime") || name.contains("per_second");
            entry
                .as_object_mut()
                .unwrap()
                .retain(|name, _| !is_time(name));
            entry
        };
        let text = String::from_utf8(file(sim, "metrics.jsonl")).unwrap();
        text.lines().map(parse).collect()
    };
    assert_eq!(log(want), log(found), "{label}");
}

#[test]
fn a_run_stopped_inside_an_evaluation_makes_it_up() {
    let setup = evaluating(json!({}));
    let (whole, never_stopped) = setup.fresh();
    never_stopped.result.unwrap();
    for evaluation in 1..=4 {
        let sim = SimFs::new();
        let notes = Notes {
            stop_in_evaluation: Some(evaluation),
            ..Notes::default()
        };
        let stopped = setup.run(&disk(&sim), json!({}), notes).result.unwrap();
        assert_eq!(stopped.global_step, evaluation as u64 * 3);
        assert!(matches!(
            stopped.ending,
            Ending::Interrupted { signal: 2, .. }
        ));
        let resumed = setup.resume(&sim);
        assert_eq!(resumed.result.unwrap().ending, Ending::Complete);
        assert_eq!(resumed.toy.values(), never_stopped.toy.values());
        assert_same_logs(&whole, &sim, &format!("evaluation {evaluation}"));
        // The other two files tell how long evaluations took, by a digest and by a size.
        for name in [
            "adapter_model.safetensors",
            "optimizer.safetensors",
            "trainer_state.json",
        ] {
            let last = |sim| contents(sim, "checkpoint-12").remove(name);
            assert!(
                last(&whole) == last(&sim),
                "{name}, evaluation {evaluation}"
            );
        }
    }
}

/// What it was stopped in is never made up then, and must not keep checkpoints from being saved.
#[test]
fn a_run_stopped_inside_an_evaluation_goes_on_without_any() {
    let mut setup = evaluating(json!({"load_best_model_at_end": false}));
    let sim = SimFs::new();
    let notes = Notes {
        stop_in_evaluation: Some(1),
        ..Notes::default()
    };
    setup.run(&disk(&sim), json!({}), notes).result.unwrap();
    let arguments = setup.arguments.as_object_mut().unwrap();
    arguments.insert("eval_strategy".into(), "no".into());
    arguments.remove("eval_steps");
    arguments.insert("resume_from_checkpoint".into(), "latest".into());
    let changed = "eval_strategy,eval_steps";
    arguments.insert("resume_with_changed".into(), changed.into());
    setup.eval = None;
    let resumed = setup.run(&disk(&sim), json!({}), Notes::default());
    assert_eq!(resumed.result.unwrap().global_step, 12);
    let want = [
        "checkpoint-12",
        "checkpoint-3",
        "checkpoint-6",
        "checkpoint-9",
    ];
    assert_eq!(checkpoints(&sim), want);
}

#[test]
fn what_a_log_that_could_not_be_opened_once_lacks_is_written_later() {
    let setup = Setup::new(json!({"max_steps": 9, "logging_steps": 1}));
    let sim = SimFs::new();
    setup
        .run(&disk(&sim), json!({}), stop_after(3))
        .result
        .unwrap();
    let before = file(&sim, "metrics.jsonl");
    let unopened = Fault::fail(0, Failure::Io)
        .only(&[Op::OpenAppend])
        .forever();
    let faulty = Disk::with(Arc::new(FaultyFs::on_sim(&sim, unopened)));
    let latest = json!({"resume_from_checkpoint": "latest"});
    let blind = setup.run(&faulty, latest, stop_after(6)).result.unwrap();
    assert_eq!((blind.global_step, blind.lost_log_lines), (6, 3));
    setup.resume(&sim).result.unwrap();
    let after = file(&sim, "metrics.jsonl");
    assert!(after.starts_with(&before), "earlier lines are gone");
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    // The three updates that it lacked, three more, and the summary.
    assert_eq!(lines(&after), lines(&before) + 7);
}

#[test]
fn a_run_that_goes_on_in_another_folder_takes_its_log_along() {
    let setup = Setup::new(json!({"max_steps": 9, "logging_steps": 1}));
    let sim = SimFs::new();
    setup
        .run(&disk(&sim), json!({}), stop_after(6))
        .result
        .unwrap();
    let elsewhere = json!({"resume_from_checkpoint": "/run/checkpoint-6", "output_dir": "/other"});
    let moved = setup.run(&disk(&sim), elsewhere, Notes::default());
    moved.result.unwrap();
    // `trainer_state.json`, from which they come, has sorted keys: the same entries, not the same bytes.
    let entries = |name| -> Vec<Value> {
        let text = String::from_utf8(file(&sim, name)).unwrap();
        let parse = |line| serde_json::from_str(line).unwrap();
        text.lines().map(parse).collect()
    };
    let (before, after) = (entries("metrics.jsonl"), entries("/other/metrics.jsonl"));
    assert!(after.starts_with(&before), "{after:?}");
    assert_eq!(after.len(), 10, "nine updates and the summary");
}

#[test]
fn early_stopping_goes_on_counting() {
    // A rate at which the loss climbs after its first fall.
    let setup = evaluating(
        json!({"learning_rate": 3.0, "lr_scheduler_type": "constant",
        "max_steps": 60, "early_stopping_patience": 2}),
    );
    let (whole, never_stopped) = setup.fresh();
    let output = never_stopped.result.unwrap();
    assert_eq!(output.ending, Ending::EarlyStop);
    assert!(
        output.global_step < 60 && output.global_step > 6,
        "{}",
        output.global_step
    );
    for step in 1..output.global_step {
        let (parted, resumed) = stopped_and_resumed(&setup, step);
        let again = resumed.result.unwrap();
        assert_eq!(
            (again.ending, again.global_step),
            (Ending::EarlyStop, output.global_step)
        );
        assert_eq!(resumed.toy.values(), never_stopped.toy.values());
        assert_same_logs(&whole, &parted, &format!("stopped at {step}"));
    }
}

#[test]
fn changed_settings_and_data_are_refused_with_the_list_unless_named() {
    let setup = Setup::new(json!({"max_steps": 6, "learning_rate": 0.02, "logging_steps": 2}));
    let sim = SimFs::new();
    setup
        .run(&disk(&sim), json!({}), stop_after(3))
        .result
        .unwrap();
    let mut other = Setup::new(json!({"max_steps": 6, "learning_rate": 0.01, "logging_steps": 1}));
    other.identity.insert("dataset".into(), "xyz".into());
    let resume = |named: &str| {
        let arguments = json!({"resume_from_checkpoint": "latest", "resume_with_changed": named});
        other.run(&disk(&sim), arguments, Notes::default())
    };
    let before = sim.files();
    let error = resume("").result.unwrap_err();
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
    let hint = resume("dataset").result.unwrap_err().hint().unwrap();
    let advice = "resume_with_changed=dataset,learning_rate,";
    assert!(
        hint.contains(advice),
        "followed, it must not end here again: {hint}"
    );
    let useless = resume("dataset,learning_rate,seed");
    assert!(matches!(useless.result, Err(TrainError::NotChanged { name }) if name == "seed"));
    let logs_aside = |files: &std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>| {
        files.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(
        logs_aside(&sim.files()),
        logs_aside(&before),
        "a refusal writes nothing"
    );
    let ran = resume("dataset,learning_rate");
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

/// Back to an earlier checkpoint of a run that is done, with another rate.
fn back_to_four(setup: &Setup, more: Value, notes: Notes) -> (SimFs, Ran) {
    let (sim, done) = setup.fresh();
    done.result.unwrap();
    let mut back = json!({"resume_from_checkpoint": "/run/checkpoint-4", "learning_rate": 0.1,
        "resume_with_changed": "learning_rate", "save_steps": 2});
    back.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let ran = setup.run(&disk(&sim), back, notes);
    (sim, ran)
}

#[test]
fn a_run_from_an_earlier_checkpoint_keeps_what_it_writes_and_is_the_latest() {
    let setup = Setup::new(json!({"max_steps": 12, "save_steps": 4, "learning_rate": 0.02}));
    let limit = json!({"save_total_limit": 2});
    let (_, whole) = back_to_four(&setup, limit.clone(), Notes::default());
    whole.result.unwrap();
    let (sim, stopped) = back_to_four(&setup, limit, stop_after(9));
    let Ending::Interrupted { checkpoint, .. } = stopped.result.unwrap().ending else {
        panic!("not stopped")
    };
    assert_eq!(checkpoint, Path::new(RUN).join("checkpoint-9"));
    let (aside, named): (Vec<_>, Vec<_>) = checkpoints(&sim)
        .into_iter()
        .partition(|name| name.contains(".replaced-"));
    assert_eq!(named, ["checkpoint-4", "checkpoint-9"]);
    assert!(aside[0].starts_with("checkpoint-12.") && aside[1].starts_with("checkpoint-8."));
    let told = |step: u64| {
        let start = format!("`/run/checkpoint-{step}` would stand in the way of this run");
        let notices = stopped.notes.notices.iter();
        notices.filter(|text| text.starts_with(&start)).count()
    };
    assert_eq!((told(8), told(12)), (1, 1));
    let latest = json!({"resume_from_checkpoint": "latest", "learning_rate": 0.1});
    let resumed = setup.run(&disk(&sim), latest, Notes::default());
    resumed.result.unwrap();
    assert_eq!(resumed.notes.updates.first().unwrap().step, 10);
    assert_eq!(resumed.toy.values(), whole.toy.values());
}

#[test]
fn a_course_that_was_left_can_be_taken_again() {
    let setup = Setup::new(
        json!({"max_steps": 12, "save_steps": 4, "learning_rate": 0.02,
        "logging_steps": 2}),
    );
    let (sim, other) = back_to_four(&setup, json!({}), Notes::default());
    other.result.unwrap();
    let left = |step: u64| {
        let names = checkpoints(&sim);
        let start = format!("checkpoint-{step}.replaced-");
        names.into_iter().find(|name| name.starts_with(&start))
    };
    let eight = format!("/run/{}", left(8).unwrap());
    let back = json!({"resume_from_checkpoint": eight});
    let again = setup.run(&disk(&sim), back, Notes::default());
    again.result.unwrap();
    let (whole, never_left) = setup.fresh();
    assert_eq!(again.toy.values(), never_left.toy.values());
    assert_same_logs(&whole, &sim, "the first course taken again");
    let kept = again.notes.notices.iter();
    let kept = kept.filter(|text| text.starts_with("`/run/checkpoint-8` would stand in the way"));
    assert_eq!(kept.count(), 1, "{:?}", again.notes.notices);
}

#[test]
fn a_folder_with_a_run_of_its_own_takes_no_other() {
    let setup = Setup::new(json!({"max_steps": 6, "save_steps": 2}));
    let (sim, done) = setup.fresh();
    done.result.unwrap();
    let elsewhere = json!({"resume_from_checkpoint": "/run/checkpoint-4", "output_dir": "/other"});
    let go_on = || {
        setup
            .run(&disk(&sim), elsewhere.clone(), Notes::default())
            .result
    };
    go_on().unwrap();
    let before = sim.files();
    let error = go_on().unwrap_err();
    assert!(matches!(error, TrainError::OutputInUse { .. }), "{error}");
    assert_eq!(sim.files(), before);
}

#[test]
fn a_run_that_is_stopped_at_once_leaves_the_checkpoint_that_it_came_from() {
    let setup = Setup::new(json!({"max_steps": 6, "save_steps": 2}));
    let sim = SimFs::new();
    setup
        .run(&disk(&sim), json!({}), stop_after(4))
        .result
        .unwrap();
    let note = Path::new(RUN).join("checkpoint-4/NOTES.md");
    disk(&sim).write_atomic(&note, b"mine").unwrap();
    let latest = json!({"resume_from_checkpoint": "latest"});
    let notes = Notes::default();
    notes.stop.request(15);
    let stopped = setup.run(&disk(&sim), latest, notes).result.unwrap();
    assert_eq!(stopped.global_step, 4);
    assert!(disk(&sim).exists(&note), "it was written anew");
}

#[test]
fn a_checkpoint_that_vanished_is_no_place_to_go_on_from() {
    let setup = Setup::new(json!({"max_steps": 12, "save_steps": 3, "learning_rate": 0.02}));
    let sim = SimFs::new();
    let notes = Notes {
        remove_saved: Some(disk(&sim)),
        ..stop_after(6)
    };
    let error = setup.run(&disk(&sim), json!({}), notes).result.unwrap_err();
    assert!(
        matches!(&error, TrainError::Gone { checkpoint } if checkpoint.ends_with("checkpoint-6"))
    );
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over_with_its_reason() {
    let setup = Setup::new(json!({"max_steps": 8, "save_steps": 2, "logging_steps": 1}));
    let sim = SimFs::new();
    setup
        .run(&disk(&sim), json!({}), stop_after(6))
        .result
        .unwrap();
    let optimizer = Path::new(RUN).join("checkpoint-6/optimizer.safetensors");
    assert!(sim.damage(&optimizer, |bytes| *bytes.last_mut().unwrap() ^= 1));
    let resumed = setup.resume(&sim);
    assert_eq!(resumed.notes.updates.first().unwrap().step, 5);
    let [skipped] = &resumed.notes.skipped[..] else {
        panic!("{:?}", resumed.notes.skipped)
    };
    assert!(skipped.contains("optimizer.safetensors"), "{skipped}");
    let (straight, _) = setup.fresh();
    assert_same_logs(&straight, &sim, "after a damaged checkpoint");
    assert!(contents(&straight, "checkpoint-8") == contents(&sim, "checkpoint-8"));
}

#[test]
fn a_checkpoint_without_the_optimizer_is_never_resumed() {
    let setup = Setup::new(json!({"max_steps": 4, "save_steps": 2, "save_only_model": true}));
    let (sim, ran) = setup.fresh();
    ran.result.unwrap();
    let arguments = json!({"resume_from_checkpoint": "/run/checkpoint-2"});
    let refused = setup.run(&disk(&sim), arguments, Notes::default());
    assert!(matches!(refused.result, Err(TrainError::ModelOnly { .. })));
}

#[test]
fn an_interrupted_run_can_be_resumed_whatever_it_was_asked_to_save() {
    for more in [
        json!({"save_strategy": "no"}),
        json!({"save_only_model": true, "save_steps": 2}),
    ] {
        let mut setup = Setup::new(json!({"max_steps": 6, "learning_rate": 0.02}));
        setup
            .arguments
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let (_, never_stopped) = setup.fresh();
        let (_, resumed) = stopped_and_resumed(&setup, 4);
        assert_eq!(resumed.result.unwrap().global_step, 6);
        assert_eq!(resumed.toy.values(), never_stopped.toy.values());
    }
}

#[test]
fn resuming_from_nothing_is_an_error_and_a_used_folder_is_not_overwritten() {
    let setup = Setup::new(json!({"max_steps": 3}));
    let sim = SimFs::new();
    assert!(setup.resume(&sim).result.is_err());
    setup
        .run(&disk(&sim), json!({}), Notes::default())
        .result
        .unwrap();
    let again = setup.run(&disk(&sim), json!({}), Notes::default());
    assert!(matches!(again.result, Err(TrainError::OutputInUse { .. })));
    let finished = setup.resume(&sim);
    assert_eq!(finished.result.unwrap().global_step, 3);
    assert!(finished.notes.updates.is_empty());
}

#[test]
fn results_without_a_checkpoint_are_not_overwritten_either() {
    let setup = Setup::new(json!({"max_steps": 3, "save_strategy": "no", "logging_steps": 1}));
    let (sim, ran) = setup.fresh();
    ran.result.unwrap();
    assert!(checkpoints(&sim).is_empty());
    let before = sim.files();
    let again = setup.run(&disk(&sim), json!({}), Notes::default());
    let Err(error @ TrainError::OutputInUse { .. }) = again.result else {
        panic!("{:?}", again.result)
    };
    assert!(error.hint().unwrap().contains("another output_dir"));
    assert_eq!(sim.files(), before);
}
