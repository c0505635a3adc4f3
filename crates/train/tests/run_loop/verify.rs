//! A run is verified where it resumes to the same bytes, and told where it does not.

use std::collections::BTreeMap;

use durable::faults::SimFs;
use lowrank_train::{
    Leg, Plan, ResumeCheck, ResumeProof, TrainError, TrainOutput, Trainer, TrainingArguments,
    verify_resume,
};
use serde_json::{Value, json};

use crate::toy::*;

fn arguments(more: Value) -> TrainingArguments {
    let mut arguments = json!({"output_dir": RUN, "per_device_train_batch_size": 2, "max_steps": 9,
        "learning_rate": 0.02, "warmup_steps": 1, "logging_steps": 5});
    let more = more.as_object().unwrap().clone();
    arguments.as_object_mut().unwrap().extend(more);
    TrainingArguments::from_map(arguments.as_object().unwrap()).unwrap()
}

/// Trains a leg on the toy, as a process of its own.
fn train(sim: &SimFs, dropout: f32, rows: &Rows, leg: Leg<'_>) -> Result<TrainOutput, TrainError> {
    Trainer {
        plan: &Plan::new(&leg.arguments, rows.0.len(), None)?,
        learner: &mut Toy::new(disk(sim), dropout),
        examples: rows,
        eval_examples: None,
        identity: BTreeMap::new(),
        stop: leg.stop,
        observer: leg.observer,
        disk: disk(sim),
    }
    .train()
}

/// Verifies the toy's run; `dropout` is that of each leg.
fn verify(
    sim: &SimFs,
    arguments: &TrainingArguments,
    notes: &mut Notes,
    dropout: [f32; 3],
) -> Result<Option<ResumeProof>, TrainError> {
    verify_on(&Rows::some(11), sim, arguments, notes, dropout)
}

fn verify_on(
    rows: &Rows,
    sim: &SimFs,
    arguments: &TrainingArguments,
    notes: &mut Notes,
    dropout: [f32; 3],
) -> Result<Option<ResumeProof>, TrainError> {
    let check = ResumeCheck {
        arguments,
        num_examples: rows.0.len(),
        stop: notes.stop.clone(),
        observer: notes,
        disk: disk(sim),
    };
    let mut dropout = dropout.into_iter();
    verify_resume(check, |leg| train(sim, dropout.next().unwrap(), rows, leg))
}

fn steps(notes: &Notes) -> Vec<u64> {
    notes.updates.iter().map(|update| update.step).collect()
}

#[test]
fn a_run_that_resumes_to_the_same_bytes_is_verified_and_nothing_is_left() {
    for more in [
        json!({}),
        json!({"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": 1,
            "load_best_model_at_end": true}),
        json!({"gradient_accumulation_steps": 3, "save_only_model": true}),
    ] {
        let (sim, mut notes) = (SimFs::new(), Notes::default());
        let proof = verify(&sim, &arguments(more.clone()), &mut notes, [0.4; 3]);
        let proof = proof.unwrap().expect("nobody asked it to stop");
        assert_eq!(
            (proof.stopped_after, proof.compared_after),
            (2, 4),
            "{more}"
        );
        for name in [
            "adapter_model.safetensors",
            "optimizer.safetensors",
            "../metrics.jsonl",
        ] {
            assert!(
                proof.files.iter().any(|file| file == name),
                "{name}: {proof:?}"
            );
        }
        assert!(proof.size_bytes > 0);
        assert_eq!(steps(&notes), [1, 2, 3, 4, 1, 2, 3, 4], "{more}");
        assert_eq!(notes.evaluations, 0, "{more}");
        assert!(sim.files().is_empty(), "{more}: {:?}", sim.files().keys());
    }
}

#[test]
fn a_run_that_resumes_to_other_bytes_is_told_with_the_files() {
    let (sim, mut notes) = (SimFs::new(), Notes::default());
    let refused = verify(&sim, &arguments(json!({})), &mut notes, [0.4, 0.4, 0.3]);
    let refused = refused.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.starts_with("the resumed run differs from one that was never stopped, in ")
            && text.contains("adapter_model.safetensors, ")
            && text.ends_with(", ../metrics.jsonl"),
        "{text}"
    );
    assert!(refused.hint().unwrap().contains("this is a bug"));
    assert!(sim.files().is_empty());
}

#[test]
fn a_run_without_an_update_to_stop_at_before_its_last_is_refused() {
    for (max_steps, fits) in [(2, false), (3, true)] {
        let (sim, mut notes) = (SimFs::new(), Notes::default());
        let arguments = arguments(json!({"max_steps": max_steps}));
        match verify(&sim, &arguments, &mut notes, [0.0; 3]) {
            Ok(Some(proof)) if fits => {
                assert_eq!((proof.stopped_after, proof.compared_after), (1, 2));
            }
            Err(TrainError::TooShortToVerify { max_steps: 2 }) if !fits => {
                assert!(notes.updates.is_empty());
            }
            other => panic!("{max_steps}: {other:?}"),
        }
    }
}

#[test]
fn a_check_that_is_asked_to_stop_ends_after_the_update_at_hand() {
    let mut notes = Notes {
        stop_after: Some(1),
        ..Notes::default()
    };
    let sim = SimFs::new();
    let proof = verify(&sim, &arguments(json!({})), &mut notes, [0.0; 3]);
    assert_eq!(proof.unwrap(), None);
    assert_eq!(steps(&notes), [1]);
    assert!(sim.files().is_empty());
}

/// An update that is left out is a step all the same: the run stops, and is compared, where it was told to.
#[test]
fn a_run_that_leaves_updates_out_is_verified_at_the_same_steps() {
    for left_out in [&[2][..], &[4], &[2, 3, 4], &[1, 2, 3, 4, 5]] {
        let mut rows = Rows::some(11);
        for step in left_out {
            let row = &mut rows.0[step - 1];
            row.input_ids.push(POISON);
            row.labels.push(POISON as i32);
        }
        let arguments = arguments(
            json!({"per_device_train_batch_size": 1, "max_steps": 5, "max_skipped_updates": 5,
            "train_sampling_strategy": "sequential"}),
        );
        let (sim, mut notes) = (SimFs::new(), Notes::default());
        let proof = verify_on(&rows, &sim, &arguments, &mut notes, [0.4; 3]);
        let proof = proof.unwrap_or_else(|error| panic!("{left_out:?}: {error}"));
        let proof = proof.expect("nobody asked it to stop");
        assert_eq!((proof.stopped_after, proof.compared_after), (2, 4));
        let made = (1..=4).filter(|step| !left_out.contains(step));
        let made: Vec<u64> = made.map(|step| step as u64).collect();
        assert_eq!(steps(&notes), made.repeat(2), "{left_out:?}");
        assert!(sim.files().is_empty());
    }
}

/// Without a folder it works beside it and takes the parents back that it made; with one it works inside.
#[test]
fn a_verification_takes_back_what_it_made_and_leaves_the_runs_folder() {
    let arguments = arguments(json!({"output_dir": "/runs/of/today"}));
    let (sim, mut notes) = (SimFs::new(), Notes::default());
    let disk = disk(&sim);
    for more in [9, 2] {
        let arguments = TrainingArguments {
            max_steps: more,
            ..arguments.clone()
        };
        let proof = verify(&sim, &arguments, &mut notes, [0.4; 3]);
        assert_eq!(proof.is_ok(), more == 9, "{proof:?}");
        assert!(!disk.exists("/runs"));
    }
    disk.create_dir_all("/runs/of/today").unwrap();
    disk.write_atomic("/runs/of/today/note.txt", b"mine")
        .unwrap();
    let before = sim.files();
    verify(&sim, &arguments, &mut notes, [0.4; 3]).unwrap();
    assert_eq!(sim.files(), before);
    assert_eq!(disk.list_dir("/runs/of").unwrap().len(), 1);
    assert_eq!(disk.list_dir("/runs/of/today").unwrap().len(), 1);
}
