//! Verifying a run takes no memory for its files: with saved modules, an optimizer's state has gigabytes.
//!
//! One test in a process of its own, since it watches the peak of the whole process.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "a test program that writes files"
)]

use std::fs::File;
use std::path::Path;

use durable::Disk;
use lowrank_train::{
    Ending, Leg, LogEntry, ResumeCheck, StopFlag, TrainError, TrainOutput, TrainingArguments,
    verify_resume,
};

#[global_allocator]
static ALLOCATED: testkit::PeakAlloc = testkit::PeakAlloc;

const STATE_BYTES: u64 = 64 << 20;

/// Leaves what a leg leaves: a log, and a checkpoint with a large state.
fn leave(leg: &Leg<'_>) -> TrainOutput {
    let folder = Path::new(&leg.arguments.output_dir);
    let checkpoint = folder.join("checkpoint-4");
    std::fs::create_dir_all(&checkpoint).unwrap();
    std::fs::write(folder.join("metrics.jsonl"), "{}\n").unwrap();
    let state = File::create(checkpoint.join("optimizer.safetensors")).unwrap();
    state.set_len(STATE_BYTES).unwrap();
    TrainOutput {
        global_step: 4,
        training_loss: 0.0,
        metrics: LogEntry::default(),
        ending: Ending::Interrupted {
            signal: 15,
            checkpoint,
        },
        lost_log_lines: 0,
    }
}

#[test]
fn files_are_compared_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let check = ResumeCheck {
        arguments: &TrainingArguments {
            output_dir: folder.path().to_str().unwrap().to_owned(),
            max_steps: 9,
            ..TrainingArguments::default()
        },
        num_examples: 11,
        stop: StopFlag::default(),
        observer: &mut (),
        disk: Disk::real(),
    };
    let verify = || verify_resume(check, |leg| Ok::<_, TrainError>(leave(&leg)));
    let (proof, peak) = testkit::peak_of(verify);
    let proof = proof.unwrap().expect("nobody asked it to stop");
    assert_eq!(proof.size_bytes, STATE_BYTES + 3);
    assert!((peak as u64) < STATE_BYTES / 4, "{peak} bytes");
}
