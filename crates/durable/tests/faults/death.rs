//! A2, A4, A7, B16: the process dies at a named point, at any operation, again and again.

use std::sync::Arc;

use durable::faults::{Dice, FaultyFs, Plan, SimFs, Tally};
use durable::{Disk, DurableError, FolderLock, Point, StagedFolder};
use lowrank_durable as durable;

use crate::world::{RUN, World, check, finish, undisturbed};

/// Runs on `sim` until the plan kills it; returns the last acknowledged step.
fn run_until_death(sim: &SimFs, plan: Plan) -> (World, Option<u64>) {
    let world = World::on(sim.clone());
    world.faulty.set_plan(plan);
    let mut acknowledged = None;
    let _ = world.run(|step| acknowledged = Some(step));
    (world, acknowledged)
}

/// A resumed run must end with the very folder of one that was never disturbed.
fn finishes_the_same(sim: &SimFs, tally: &mut Tally, what: &str) {
    let world = World::on(sim.clone());
    match world.run(|_| {}) {
        Ok(()) if world.sim.files() == undisturbed() => {}
        Ok(()) => tally.differ(format!("{what}: resumed run has other files")),
        Err(error) => tally.lose(format!("{what}: resumed run fails: {error}")),
    }
}

#[test]
fn death_at_every_named_point_loses_nothing() {
    let world = World::new();
    world.run(|_| {}).unwrap();
    let passed = world.faulty.points();
    for point in Point::ALL {
        assert!(passed.contains(&point), "{point:?} is never passed");
    }
    let mut tally = Tally::new();
    for point in Point::ALL {
        for nth in 0..passed.iter().filter(|&&one| one == point).count() as u64 {
            let (world, acknowledged) = run_until_death(&SimFs::new(), Plan::die_at(point, nth));
            tally.inject();
            let what = format!("{point:?} #{nth}");
            let found = world.sim.after_kill();
            check(&found, acknowledged, &mut tally, &what);
            finishes_the_same(&found, &mut tally, &what);
        }
    }
    finish(2, "death at named points", &tally, 42);
}

#[test]
fn death_at_every_operation_loses_nothing() {
    let world = World::new();
    world.run(|_| {}).unwrap();
    let mut tally = Tally::new();
    for n in 0..world.faulty.count() {
        let (world, acknowledged) = run_until_death(&SimFs::new(), Plan::die(n));
        tally.inject();
        let what = format!("operation {n}");
        let found = world.sim.after_kill();
        check(&found, acknowledged, &mut tally, &what);
        finishes_the_same(&found, &mut tally, &what);
    }
    finish(1, "death at every operation", &tally, 200);
}

#[test]
fn death_five_times_in_a_row_loses_nothing() {
    let mut tally = Tally::new();
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let (mut sim, mut acknowledged) = (SimFs::new(), None);
        for _ in 0..5 {
            let (world, more) = run_until_death(&sim, Plan::die(dice.below(220) as u64));
            tally.inject();
            acknowledged = acknowledged.max(more);
            sim = world.sim.after_kill();
            check(&sim, acknowledged, &mut tally, &format!("chain {seed}"));
        }
        finishes_the_same(&sim, &mut tally, &format!("chain {seed}"));
    }
    finish(4, "chains of deaths", &tally, 500);
}

#[test]
fn death_while_resuming_changes_nothing() {
    let mut tally = Tally::new();
    let world = World::with_saved(&[2, 4]);
    let before = world.sim.files();
    world.store().newest().unwrap();
    for n in 0..world.faulty.count() {
        world.faulty.set_plan(Plan::die(n));
        assert!(world.store().newest().is_err());
        tally.inject();
        if world.sim.files() != before {
            tally.differ(format!("operation {n} of a scan changed the disk"));
        }
    }
    finish(3, "death while resuming", &tally, 20);
}

#[test]
fn lock_is_free_after_death_and_held_before() {
    let world = World::new();
    world.disk.create_dir_all(RUN).unwrap();
    let _lock = FolderLock::take_on(&world.disk, RUN).unwrap();
    let error = FolderLock::take_on(&world.disk, RUN).unwrap_err();
    let pid = std::process::id();
    assert!(
        matches!(&error, DurableError::Locked { holder, .. } if holder.pid == pid),
        "{error}"
    );
    let after = World::on(world.sim.after_kill());
    FolderLock::take_on(&after.disk, RUN).unwrap();
}

/// What `merge` and every other command that publishes a folder does.
fn publish(disk: &Disk) -> durable::Result<()> {
    let mut staged = StagedFolder::on(disk, "/out/merged")?;
    staged.write("model.safetensors", &[7; 9_000])?;
    staged.write("config.json", b"{}")?;
    staged.publish()
}

#[test]
fn death_at_every_operation_of_publishing_leaves_all_or_nothing_and_the_next_writer_sweeps() {
    let on = |sim: &SimFs, plan: Plan| {
        let faulty = FaultyFs::on_sim(sim, plan);
        (Disk::with(Arc::new(faulty.clone())), faulty)
    };
    let whole = SimFs::new();
    let (disk, faulty) = on(&whole, Plan::none());
    publish(&disk).unwrap();
    let mut tally = Tally::new();
    for n in 0..faulty.count() {
        let sim = SimFs::new();
        let _ = publish(&on(&sim, Plan::die(n)).0);
        tally.inject();
        let found = sim.after_kill();
        let (disk, what) = (
            Disk::with(Arc::new(found.clone())),
            format!("operation {n}"),
        );
        let there = disk.exists("/out/merged");
        if there && found.files() != whole.files() {
            tally.differ(format!(
                "{what}: there and not complete, or a stray beside it"
            ));
        } else if !there && publish(&disk).is_err() {
            tally.lose(format!("{what}: the next writer fails"));
        } else if found.files() != whole.files() || disk.list_dir("/out").unwrap().len() != 1 {
            tally.differ(format!(
                "{what}: a stray stays: {:?}",
                disk.list_dir("/out")
            ));
        }
    }
    finish(
        7,
        "death at every operation of a folder's writer",
        &tally,
        15,
    );
}
