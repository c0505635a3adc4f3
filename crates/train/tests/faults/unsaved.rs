//! `save_failure`: `warn`. Whatever operation of a run's saves fails, the run goes on to its end, and says how it is.

use std::sync::Arc;

use durable::Disk;
use durable::faults::{Failure, FaultyFs, Plan, SimFs, Tally};
use lowrank_train::TrainError;
use serde_json::json;

use crate::toy::*;
use crate::{finish, setup};

#[test]
fn a_save_that_fails_costs_that_checkpoint_and_nothing_else() {
    let (undisturbed, _) = setup().fresh();
    let adapter = || file(&undisturbed, "adapter_model.safetensors");
    let (mut tally, mut warned, mut ended) = (Tally::new(), 0, 0);
    for n in 0.. {
        let sim = SimFs::new();
        let faulty = FaultyFs::on_sim(&sim, Plan::fail(n, Failure::NoSpace));
        let disk = Disk::with(Arc::new(faulty.clone()));
        let ran = setup().run(&disk, json!({"save_failure": "warn"}), Notes::default());
        if faulty.injected() == 0 {
            break; // the run has no more operations
        }
        tally.inject();
        let what = format!("operation {n}");
        let unsaved = ran
            .notes
            .notices
            .iter()
            .any(|text| text.contains("is not saved, the run goes on"));
        warned += u64::from(unsaved);
        match ran.result {
            Ok(_) if checkpoints(&sim).contains(&"checkpoint-7".into()) => {}
            Ok(_) => tally.lose(format!("{what}: done, without its last checkpoint")),
            Err(TrainError::LastSaveFailed { step: 7, .. }) if unsaved => {
                ended += 1;
                if file(&sim, "adapter_model.safetensors") != adapter() {
                    tally.differ(format!("{what}: the adapter is another"));
                }
            }
            // Before the first update, and in the adapter's own last save, there is nothing to go on with.
            Err(_)
                if !unsaved && (ran.notes.updates.is_empty() || ran.notes.updates.len() == 7) => {}
            Err(error) => tally.lose(format!("{what}: {error}")),
        }
    }
    assert!(
        warned > 60 && ended > 10,
        "{warned} warned, {ended} ended so"
    );
    finish(11, "failing saves of a run that goes on", &tally, 200);
}

#[test]
fn a_signal_whose_save_fails_is_an_error_all_the_same() {
    let mut tally = Tally::new();
    for n in 0.. {
        let sim = SimFs::new();
        let faulty = FaultyFs::on_sim(&sim, Plan::fail(n, Failure::NoSpace).forever());
        let disk = Disk::with(Arc::new(faulty.clone()));
        let notes = Notes {
            stop_after: Some(3),
            ..Notes::default()
        };
        let more = json!({"save_failure": "warn", "save_steps": 100});
        let ran = setup().run(&disk, more, notes);
        if faulty.injected() == 0 {
            break;
        }
        tally.inject();
        let saved = checkpoints(&sim) == ["checkpoint-3"];
        if ran.result.is_ok() && !saved {
            tally.lose(format!("operation {n}: interrupted, without a checkpoint"));
        }
    }
    finish(11, "failing saves of a signal", &tally, 50);
}
