//! Whole runs on a disk that fails, fills or dies at its n-th operation, for every n.
//!
//! The numbers in the tests' texts are those of the project's fault list. Each test prints its count as
//! `faults: N injected, 0 lost, 0 different`.

#![allow(
    clippy::print_stdout,
    reason = "the counts are what a suite is run for"
)]

mod numbers;
#[path = "../toy/mod.rs"]
mod toy;
mod unsaved;

use std::sync::Arc;

use durable::faults::{Dice, Failure, FaultyFs, Plan, SimFs, Tally};
use durable::{CheckpointStore, Disk};
use serde_json::json;

use toy::*;

/// Saves at 2, 4, 6, 7, keeps two, logs and plots.
fn setup() -> Setup {
    let arguments = json!({"per_device_train_batch_size": 2, "max_steps": 7, "logging_steps": 2,
        "save_steps": 2, "save_total_limit": 2, "learning_rate": 0.02});
    Setup {
        dropout: 0.3,
        ..Setup::new(arguments)
    }
}

fn run_on(sim: &SimFs, plan: Plan) -> (FaultyFs, Ran) {
    let faulty = FaultyFs::on_sim(sim, plan);
    let disk = Disk::with(Arc::new(faulty.clone()));
    let ran = setup().run(&disk, json!({}), Notes::default());
    (faulty, ran)
}

/// The step of the newest checkpoint that verifies, 0 where none does.
fn newest(sim: &SimFs) -> u64 {
    let store = CheckpointStore::on(&disk(sim), RUN);
    store.newest().map_or(0, |newest| newest.checkpoint.step())
}

/// The disk as it is now has the newest checkpoint that the run called saved, and the run comes to the same end as one
/// that was never disturbed. The end alone would not tell: from an older checkpoint, or afresh, it is the same.
fn must_end_the_same(
    sim: &SimFs,
    acknowledged: u64,
    undisturbed: &SimFs,
    tally: &mut Tally,
    what: &str,
) {
    let found = newest(sim);
    if found < acknowledged {
        tally.lose(format!("{what}: told {acknowledged}, found {found}"));
    }
    let setup = setup();
    let resumed = if acknowledged > 0 || !checkpoints(sim).is_empty() {
        setup.resume(sim)
    } else {
        setup.run(&disk(sim), json!({}), Notes::default())
    };
    if let Err(error) = resumed.result {
        tally.lose(format!("{what}: {error}"));
        return;
    }
    if checkpoints(sim) != checkpoints(undisturbed) {
        tally.differ(format!("{what}: left {:?}", checkpoints(sim)));
    }
    for folder in ["", "checkpoint-6", "checkpoint-7"] {
        if contents(sim, folder) != contents(undisturbed, folder) {
            tally.differ(format!("{what}: `{folder}`"));
        }
    }
}

fn finish(row: u8, name: &str, tally: &Tally, at_least: u64) {
    println!("{}", tally.line(row, name));
    assert!(tally.is_clean(), "{name}: {:?}", tally.first());
    assert!(
        tally.injected >= at_least,
        "{name}: only {}",
        tally.injected
    );
}

/// A1, A2, A8: the process dies at any operation, also inside a save and the last adapter's.
#[test]
fn death_at_every_operation_loses_nothing() {
    let (undisturbed, _) = setup().fresh();
    let (counted, _) = run_on(&SimFs::new(), Plan::none());
    let mut tally = Tally::new();
    for n in 0..counted.count() {
        let sim = SimFs::new();
        let (_, ran) = run_on(&sim, Plan::die(n));
        tally.inject();
        let (acknowledged, what) = (ran.notes.acknowledged(), format!("death at {n}"));
        let sim = sim.after_kill();
        must_end_the_same(&sim, acknowledged, &undisturbed, &mut tally, &what);
    }
    finish(1, "death in a run", &tally, 200);
}

/// B11, B13, B20: the n-th operation and all after it fail; the error is told and nothing saved is lost.
#[test]
fn failure_at_every_operation_loses_nothing() {
    let (undisturbed, _) = setup().fresh();
    let (counted, _) = run_on(&SimFs::new(), Plan::none());
    let mut tally = Tally::new();
    for failure in [Failure::NoSpace, Failure::Io, Failure::TooBig] {
        for n in 0..counted.count() {
            let sim = SimFs::new();
            let (faulty, ran) = run_on(&sim, Plan::fail(n, failure).forever());
            tally.inject();
            let what = format!("{failure:?} at {n}");
            if faulty.retried_syncs() > 0 {
                tally.differ(format!("{what}: a failed sync was tried again"));
            }
            if ran.result.is_ok() && newest(&sim) < 7 {
                tally.lose(format!("{what}: done, without its last checkpoint"));
            }
            let (acknowledged, sim) = (ran.notes.acknowledged(), sim.after_kill());
            must_end_the_same(&sim, acknowledged, &undisturbed, &mut tally, &what);
        }
    }
    finish(11, "failing storage in a run", &tally, 600);
}

/// B14: short reads and writes and interrupted calls are no errors.
#[test]
fn short_and_interrupted_calls_change_nothing() {
    let (undisturbed, _) = setup().fresh();
    let mut tally = Tally::new();
    for seed in 0..40 {
        let sim = SimFs::new();
        let (_, ran) = run_on(&sim, Plan::noise(seed));
        tally.inject();
        match ran.result {
            Err(error) => tally.lose(format!("seed {seed}: {error}")),
            Ok(_) if contents(&sim, "checkpoint-7") != contents(&undisturbed, "checkpoint-7") => {
                tally.differ(format!("seed {seed}"));
            }
            Ok(_) => {}
        }
    }
    finish(14, "noise in a run", &tally, 40);
}

/// B15: power is cut at any moment; what was not synced is lost or torn.
#[test]
fn power_loss_at_any_moment_loses_nothing() {
    let undisturbed = SimFs::new();
    let notes = Notes {
        journal_of: Some(undisturbed.clone()),
        ..Notes::default()
    };
    let ran = setup().run(&disk(&undisturbed), json!({}), notes);
    ran.result.unwrap();
    let (mut tally, mut told) = (Tally::new(), [0; 8]);
    let mut dice = Dice::new(20);
    let moments = undisturbed.journal_len();
    // Every moment, each time with other dice.
    for round in 0..8 {
        for moment in 0..moments {
            let sim = undisturbed.after_power_loss(moment, &mut dice);
            tally.inject();
            let what = format!("power loss at {moment}, round {round}");
            let acknowledged = ran.notes.acknowledged_before(moment);
            told[acknowledged as usize] += 1;
            must_end_the_same(&sim, acknowledged, &undisturbed, &mut tally, &what);
        }
    }
    let asked = [0, 2, 4, 6, 7].map(|step| told[step]);
    assert!(asked.iter().all(|&cuts| cuts > 0), "{asked:?}");
    finish(15, "power loss in a run", &tally, 1000);
}

/// A4: death, resume, death in the next save, again and again.
#[test]
fn chains_of_deaths_end_the_same() {
    let (undisturbed, _) = setup().fresh();
    let mut tally = Tally::new();
    let mut dice = Dice::new(7);
    for chain in 0..30 {
        let (mut sim, mut acknowledged) = (SimFs::new(), 0);
        for depth in 0..5 {
            let faulty = FaultyFs::on_sim(&sim, Plan::die(dice.below(260) as u64));
            let disk = Disk::with(Arc::new(faulty));
            let more = if checkpoints(&sim).is_empty() {
                json!({})
            } else {
                json!({"resume_from_checkpoint": "latest"})
            };
            let ran = setup().run(&disk, more, Notes::default());
            tally.inject();
            sim = sim.after_kill();
            acknowledged = acknowledged.max(ran.notes.acknowledged());
            if newest(&sim) < acknowledged {
                tally.lose(format!("chain {chain}, {depth} deep: told {acknowledged}"));
            }
        }
        let what = format!("chain {chain}");
        must_end_the_same(&sim, acknowledged, &undisturbed, &mut tally, &what);
    }
    finish(4, "chains of deaths", &tally, 150);
}
