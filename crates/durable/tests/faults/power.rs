//! B15: power is lost at any moment, and of what was not synced any part is gone.

use durable::AppendLog;
use durable::faults::{Dice, Plan, SimFs, Tally};
use lowrank_durable as durable;

use crate::world::{World, check, finish};

/// The toy run, with the moment of the journal at which each save was acknowledged.
fn run_with_moments(world: &World) -> Vec<(usize, u64)> {
    let mut moments = Vec::new();
    world
        .run(|step| moments.push((world.sim.journal_len(), step)))
        .unwrap();
    moments
}

fn acknowledged_at(moments: &[(usize, u64)], moment: usize) -> Option<u64> {
    moments
        .iter()
        .rev()
        .find(|(at, _)| *at <= moment)
        .map(|&(_, step)| step)
}

#[test]
fn power_loss_at_any_moment_loses_no_acknowledged_checkpoint() {
    let world = World::new();
    let moments = run_with_moments(&world);
    let mut tally = Tally::new();
    for seed in 0..10_000 {
        let mut dice = Dice::new(seed);
        let moment = dice.below(world.sim.journal_len() + 1);
        let found = world.sim.after_power_loss(moment, &mut dice);
        tally.inject();
        let acknowledged = acknowledged_at(&moments, moment);
        check(
            &found,
            acknowledged,
            &mut tally,
            &format!("seed {seed}, moment {moment}"),
        );
    }
    finish(15, "power loss", &tally, 10_000);
}

#[test]
fn power_loss_again_while_going_on_loses_nothing() {
    let mut tally = Tally::new();
    for seed in 0..300 {
        let mut dice = Dice::new(1 << 32 | seed);
        let (mut sim, mut acknowledged) = (SimFs::new(), None);
        for round in 0..3 {
            let world = World::on(sim);
            let moments = run_with_moments(&world);
            let moment = dice.below(world.sim.journal_len() + 1);
            sim = world.sim.after_power_loss(moment, &mut dice);
            tally.inject();
            acknowledged = acknowledged.max(acknowledged_at(&moments, moment));
            check(
                &sim,
                acknowledged,
                &mut tally,
                &format!("seed {seed}, round {round}"),
            );
        }
    }
    finish(15, "power loss in chains", &tally, 900);
}

#[test]
fn death_and_then_power_loss_in_the_next_run_loses_nothing() {
    let whole = World::new();
    whole.run(|_| {}).unwrap();
    let mut tally = Tally::new();
    for seed in 0..1_000 {
        let mut dice = Dice::new(5 << 32 | seed);
        let first = World::new();
        // Half of the deaths come early, where the folders are made.
        let operations = if dice.chance(50) {
            40
        } else {
            whole.faulty.count() as usize
        };
        first
            .faulty
            .set_plan(Plan::die(dice.below(operations) as u64));
        let mut acknowledged = None;
        let _ = first.run(|step| acknowledged = Some(step));
        // The next run sees all of it; the disk still may not.
        let next = World::on(first.sim.after_kill());
        let before = next.sim.journal_len();
        let moments = run_with_moments(&next);
        let moment = before + dice.below(next.sim.journal_len() + 1 - before);
        let found = next.sim.after_power_loss(moment, &mut dice);
        tally.inject();
        let acknowledged = acknowledged.max(acknowledged_at(&moments, moment));
        check(
            &found,
            acknowledged,
            &mut tally,
            &format!("seed {seed}, moment {moment}"),
        );
    }
    finish(15, "death, then power loss", &tally, 1_000);
}

#[test]
fn save_in_place_of_a_damaged_one_survives_power_loss() {
    let mut tally = Tally::new();
    for seed in 0..1_000 {
        let mut dice = Dice::new(2 << 32 | seed);
        let world = World::with_saved(&[2, 4, 6]);
        world
            .sim
            .damage("/out/run/checkpoint-6/adapter.bin".as_ref(), |bytes| {
                bytes[7] ^= 1
            });
        let before = world.sim.journal_len();
        world.save(6).unwrap();
        let moment = before + dice.below(world.sim.journal_len() + 1 - before);
        let found = World::on(world.sim.after_power_loss(moment, &mut dice));
        tally.inject();
        let newest = found.store().newest().unwrap().checkpoint.step();
        let want = if moment == world.sim.journal_len() {
            6
        } else {
            4
        };
        if newest < want {
            tally.lose(format!("seed {seed}: newest is {newest}"));
        }
    }
    finish(15, "power loss while replacing", &tally, 1_000);
}

#[test]
fn replaced_file_is_old_or_new_and_new_once_acknowledged() {
    let mut tally = Tally::new();
    for seed in 0..500 {
        let mut dice = Dice::new(3 << 32 | seed);
        let world = World::new();
        let path = "/out/adapter.bin";
        world.disk.create_dir_all("/out").unwrap();
        let (old, new) = (vec![1; 5_000], vec![2; 7_001]);
        world.disk.write_atomic(path, &old).unwrap();
        let before = world.sim.journal_len();
        world.disk.write_atomic(path, &new).unwrap();
        let end = world.sim.journal_len();
        let moment = before + dice.below(end + 1 - before);
        let found = World::on(world.sim.after_power_loss(moment, &mut dice));
        tally.inject();
        match found.disk.read_capped(path, 10_000) {
            Ok(bytes) if bytes == new || (bytes == old && moment < end) => {}
            other => tally.lose(format!(
                "seed {seed}: {:?} bytes",
                other.map(|bytes| bytes.len())
            )),
        }
    }
    finish(15, "power loss while replacing a file", &tally, 500);
}

#[test]
fn synced_lines_of_a_log_stay() {
    let mut tally = Tally::new();
    for seed in 0..500 {
        let mut dice = Dice::new(4 << 32 | seed);
        let world = World::new();
        world.disk.create_dir_all("/out").unwrap();
        let mut log = AppendLog::on(&world.disk, "/out/log").unwrap();
        let mut synced = String::new();
        for line in 0..dice.below(20) {
            log.append(&format!("line {line} of {seed}")).unwrap();
            if dice.chance(40) {
                log.sync().unwrap();
                synced = world.disk.read_text_capped("/out/log", 10_000).unwrap();
            }
        }
        let found = world
            .sim
            .after_power_loss(world.sim.journal_len(), &mut dice);
        tally.inject();
        let found = World::on(found)
            .disk
            .read_capped("/out/log", 10_000)
            .unwrap_or_default();
        if !found.starts_with(synced.as_bytes()) {
            tally.lose(format!("seed {seed}"));
        }
    }
    finish(15, "power loss of a log", &tally, 500);
}

#[test]
fn a_disk_that_lies_about_sync_is_noticed_by_these_tests() {
    let world = World::new();
    world.sim.lie_about_sync();
    let moments = run_with_moments(&world);
    let mut tally = Tally::new();
    for seed in 0..1_000 {
        let mut dice = Dice::new(seed);
        let moment = dice.below(world.sim.journal_len() + 1);
        let found = world.sim.after_power_loss(moment, &mut dice);
        check(&found, acknowledged_at(&moments, moment), &mut tally, "");
    }
    assert!(tally.lost > 100 && tally.different > 100, "{tally}");
}
