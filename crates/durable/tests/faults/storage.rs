//! B11 to B14, B16, B20, B21: full disks, failing operations, interrupted ones.

use durable::faults::{Dice, Failure, Op, Plan, Tally};
use durable::{DurableError, Point};
use lowrank_durable as durable;

use crate::world::{KEEP, RUN, World, check, content, finish, undisturbed};

fn operations_of_a_save(only: Option<&[Op]>) -> u64 {
    let world = World::with_saved(&[2, 4]);
    let plan = only.map_or(Plan::none(), |only| Plan::none().only(only));
    world.faulty.set_plan(plan);
    world.save(6).unwrap();
    world.faulty.count()
}

/// One save with one plan: whatever it returns must be true, and the older ones untouched.
fn save_under(plan: Plan, tally: &mut Tally, what: &str) -> (World, durable::Result<()>) {
    let world = World::with_saved(&[2, 4]);
    world.faulty.set_plan(plan);
    let done = world.save(6).map(drop);
    tally.inject();
    if world.faulty.retried_syncs() > 0 {
        tally.differ(format!("{what}: a failed sync was tried again"));
    }
    let acknowledged = if done.is_ok() { 6 } else { 4 };
    check(&world.sim, Some(acknowledged), tally, what);
    // What was acknowledged must also survive the power cut that often follows.
    let mut dice = Dice::new(tally.injected);
    let cut = world
        .sim
        .after_power_loss(world.sim.journal_len(), &mut dice);
    check(
        &cut,
        Some(acknowledged),
        tally,
        &format!("{what}, then power loss"),
    );
    (world, done)
}

/// Nothing of the failed save may be left in the folder.
fn is_tidy(world: &World) -> bool {
    let names = world
        .sim
        .files()
        .into_keys()
        .map(|path| path.display().to_string());
    let mut left = names.filter(|path| path.contains(".staging-") || path.contains(".tmp-"));
    left.next().is_none()
}

fn goes_on(world: &World, tally: &mut Tally, what: &str) {
    world.faulty.set_plan(Plan::none());
    let done = world
        .store()
        .sweep()
        .and_then(|_| world.save(6))
        .and_then(|_| world.save(8));
    match done {
        Ok(_) if is_tidy(world) => check(&world.sim, Some(8), tally, what),
        Ok(_) => tally.differ(format!("{what}: left-overs stay")),
        Err(error) => tally.lose(format!("{what}: cannot go on: {error}")),
    }
}

/// Every operation of a save in turn, failing once and without effect, once with effect, and from there on.
fn fail_each(failure: Failure, only: Option<&[Op]>) -> Tally {
    let mut tally = Tally::new();
    for n in 0..operations_of_a_save(only) {
        let plan = || match only {
            Some(only) => Plan::fail(n, failure).only(only),
            None => Plan::fail(n, failure),
        };
        let plans = [
            ("once", plan()),
            ("applied", plan().applied()),
            ("ever", plan().forever()),
        ];
        for (how, plan) in plans {
            let what = format!("{failure:?} at {n}, {how}");
            let (world, done) = save_under(plan, &mut tally, &what);
            let removal_failed = how == "ever" || {
                let trace = world.faulty.trace();
                trace
                    .iter()
                    .any(|(op, _)| matches!(op, Op::RemoveFile | Op::RemoveFolder))
            };
            if done.is_ok() && !is_tidy(&world) && !removal_failed {
                tally.differ(format!("{what}: left-overs after success"));
            }
            goes_on(&world, &mut tally, &what);
        }
    }
    tally
}

#[test]
fn full_disk_at_every_operation_leaves_the_old_ones_alone() {
    let tally = fail_each(Failure::NoSpace, None);
    finish(11, "ENOSPC at every operation", &tally, 60);
}

#[test]
fn io_error_at_every_write_sync_and_rename_leaves_the_old_ones_alone() {
    let only = [Op::Write, Op::SyncFile, Op::Rename, Op::SyncFolder];
    let tally = fail_each(Failure::Io, Some(&only));
    finish(13, "EIO at every write, sync, rename", &tally, 13 * 3);
}

#[test]
fn failure_at_every_operation_of_a_run_is_no_loss_and_the_next_run_ends_the_same() {
    let world = World::new();
    world.run(|_| {}).unwrap();
    let (count, want) = (world.faulty.count(), undisturbed());
    let mut tally = Tally::new();
    for n in 0..count {
        let failure = [Failure::NoSpace, Failure::Io, Failure::Denied][n as usize % 3];
        let world = World::new();
        world.faulty.set_plan(Plan::fail(n, failure));
        let mut acknowledged = None;
        let _ = world.run(|step| acknowledged = Some(step));
        tally.inject();
        let what = format!("{failure:?} at operation {n} of a run");
        check(&world.sim, acknowledged, &mut tally, &what);
        let next = World::on(world.sim.after_kill());
        match next.run(|_| {}) {
            Ok(()) if next.sim.files() == want => {}
            other => tally.differ(format!("{what}: next run {other:?}")),
        }
    }
    finish(11, "failure at every operation of a run", &tally, 500);
}

#[test]
fn failed_look_at_the_folder_is_no_empty_folder() {
    let world = World::with_saved(&[2, 4]);
    for n in 0..2 {
        world
            .faulty
            .set_plan(Plan::fail(n, Failure::Io).only(&[Op::Stat, Op::List]));
        let error = world.store().newest().unwrap_err();
        assert!(
            matches!(error, DurableError::Io { .. }),
            "{error}: a fresh start would follow"
        );
    }
}

#[test]
fn file_size_limit_counts_as_no_space() {
    let mut tally = fail_each(Failure::TooBig, Some(&[Op::Write]));
    let world = World::with_saved(&[2]);
    world
        .faulty
        .set_plan(Plan::fail(0, Failure::TooBig).only(&[Op::Write]));
    let error = world.save(4).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    tally.inject();
    finish(20, "EFBIG at every write", &tally, 5);
}

#[test]
fn failed_write_removes_its_staging_and_names_file_and_bytes() {
    let writes = operations_of_a_save(Some(&[Op::Write]));
    let mut tally = Tally::new();
    for n in 0..writes {
        let plan = Plan::fail(n, Failure::NoSpace).only(&[Op::Write]);
        let (world, done) = save_under(plan, &mut tally, &format!("write {n}"));
        let text = done.unwrap_err().to_string();
        let names = content(6)
            .into_iter()
            .map(|(name, bytes)| (name.to_owned(), bytes.len()));
        let known = names
            .chain([("manifest.json".to_owned(), 0)])
            .any(|(name, size)| {
                let bytes = if size == 0 {
                    " bytes needed".into()
                } else {
                    format!("{size} bytes needed")
                };
                text.contains(&name) && text.contains(&bytes)
            });
        if !known || !is_tidy(&world) {
            tally.differ(format!("write {n}: {text}"));
        }
    }
    finish(11, "ENOSPC texts", &tally, 5);
}

#[test]
fn failed_file_sync_is_mended_by_new_files_once() {
    let syncs = operations_of_a_save(Some(&[Op::SyncFile]));
    let mut tally = Tally::new();
    for n in 0..syncs {
        let plan = Plan::fail(n, Failure::Io).only(&[Op::SyncFile]);
        let (_, done) = save_under(plan.clone(), &mut tally, &format!("sync {n}"));
        assert!(
            done.is_ok(),
            "one failed sync must be mended by new files: {done:?}"
        );
        let (world, done) = save_under(plan.forever(), &mut tally, &format!("syncs from {n}"));
        assert!(matches!(done, Err(DurableError::Sync { .. })), "{done:?}");
        let made = world
            .faulty
            .points()
            .iter()
            .filter(|&&at| at == Point::StagingCreated)
            .count();
        assert_eq!(made, 2, "once more, then stop");
    }
    finish(13, "EIO at fsync", &tally, 10);
}

#[test]
fn really_full_disk_refuses_the_save_that_does_not_fit() {
    let mut tally = Tally::new();
    for extra in 0..40 {
        let world = World::with_saved(&[2, 4]);
        let used: u64 = world
            .sim
            .files()
            .values()
            .map(|bytes| bytes.len() as u64)
            .sum();
        world.sim.set_capacity(Some(used + extra * 390));
        let done = world.save(6);
        tally.inject();
        let acknowledged = if done.is_ok() { 6 } else { 4 };
        let what = format!("{extra} of 40 parts free");
        check(&world.sim, Some(acknowledged), &mut tally, &what);
        if !is_tidy(&world) || done.is_err_and(|error| !error.is_no_space()) {
            tally.differ(what);
        }
    }
    finish(11, "full disk", &tally, 20);
}

#[test]
fn short_writes_and_interruptions_change_no_byte() {
    let mut tally = Tally::new();
    let want = undisturbed();
    for seed in 0..100 {
        let world = World::new();
        world.faulty.set_plan(Plan::noise(seed));
        world.run(|_| {}).unwrap();
        assert!(world.faulty.injected() > 0);
        tally.inject(); // one run, not each of its hundreds of cuts
        if world.sim.files() != want {
            tally.differ(format!("seed {seed}"));
        }
    }
    finish(14, "short writes and EINTR", &tally, 100);
}

#[test]
fn death_at_every_operation_of_retention_keeps_enough() {
    let mut tally = Tally::new();
    let steps = [2, 4, 6, 8, 10];
    let world = World::with_saved(&steps);
    assert_eq!(world.retain().unwrap().len(), steps.len() - KEEP);
    for n in 0..world.faulty.count() {
        for plan in [
            Plan::die(n),
            Plan::fail(n, Failure::Io),
            Plan::fail(n, Failure::Io).applied(),
        ] {
            let world = World::with_saved(&steps);
            world.faulty.set_plan(plan);
            let _ = world.retain();
            tally.inject();
            let what = format!("retention, operation {n}");
            check(&world.sim.after_kill(), Some(10), &mut tally, &what);
            let mut dice = Dice::new(n);
            let cut = world
                .sim
                .after_power_loss(world.sim.journal_len(), &mut dice);
            check(
                &cut,
                Some(10),
                &mut tally,
                &format!("{what}, then power loss"),
            );
        }
    }
    finish(16, "retention", &tally, 50);
}

#[test]
fn space_below_need_is_refused_with_the_sum() {
    let mut tally = Tally::new();
    let world = World::with_saved(&[2]);
    for free in [0, 1, 12_344] {
        let used: u64 = world
            .sim
            .files()
            .values()
            .map(|bytes| bytes.len() as u64)
            .sum();
        world.sim.set_capacity(Some(used + free));
        let error = world.disk.need_space(RUN, 12_345).unwrap_err().to_string();
        tally.inject();
        let sums = [format!("12345 bytes needed, {free} free"), RUN.to_owned()];
        if !sums.iter().all(|sum| error.contains(sum)) {
            tally.differ(error);
        }
    }
    let used: u64 = world
        .sim
        .files()
        .values()
        .map(|bytes| bytes.len() as u64)
        .sum();
    world.sim.set_capacity(Some(used + 12_345));
    world.disk.need_space(RUN, 12_345).unwrap();
    finish(21, "free space", &tally, 3);
}

#[test]
fn log_that_cannot_be_written_loses_lines_but_stays_whole() {
    let mut tally = Tally::new();
    for n in 0..12 {
        let world = World::new();
        world.disk.create_dir_all(RUN).unwrap();
        let mut log = durable::AppendLog::on(&world.disk, format!("{RUN}/log")).unwrap();
        let only = [Op::Write, Op::SetLen, Op::Seek];
        world
            .faulty
            .set_plan(Plan::fail(n, Failure::NoSpace).only(&only));
        let written: Vec<_> = (0..6)
            .filter(|i| log.append(&format!("line {i}")).is_ok())
            .collect();
        tally.inject();
        let want: String = written.iter().map(|i| format!("line {i}\n")).collect();
        let found = world
            .disk
            .read_text_capped(format!("{RUN}/log"), 1000)
            .unwrap();
        if found != want || log.lost_lines() != 6 - written.len() as u64 {
            tally.differ(format!("operation {n}: {found:?}"));
        }
    }
    for capacity in 0..40 {
        let world = World::new();
        world.disk.create_dir_all(RUN).unwrap();
        world.sim.set_capacity(Some(capacity));
        let mut log = durable::AppendLog::on(&world.disk, format!("{RUN}/log")).unwrap();
        let written = (0..6)
            .filter(|i| log.append(&format!("line {i}")).is_ok())
            .count() as u64;
        tally.inject();
        let found = world
            .disk
            .read_text_capped(format!("{RUN}/log"), 1000)
            .unwrap();
        if found.lines().count() as u64 != written || !(found.is_empty() || found.ends_with('\n')) {
            tally.differ(format!("capacity {capacity}: {found:?}"));
        }
    }
    finish(83, "log", &tally, 50);
}

#[test]
fn torn_line_that_could_not_be_cut_is_cut_before_the_next() {
    let world = World::new();
    world.disk.create_dir_all(RUN).unwrap();
    let mut log = durable::AppendLog::on(&world.disk, format!("{RUN}/log")).unwrap();
    log.append("one").unwrap();
    world.sim.set_capacity(Some(8)); // half of the next line fits
    world
        .faulty
        .set_plan(Plan::fail(0, Failure::Io).only(&[Op::SetLen]));
    assert!(log.append("second line").unwrap_err().is_no_space());
    assert_eq!(
        world
            .disk
            .read_text_capped(format!("{RUN}/log"), 99)
            .unwrap(),
        "one\nseco"
    );
    world.sim.set_capacity(None);
    log.append("three").unwrap();
    assert_eq!(
        world
            .disk
            .read_text_capped(format!("{RUN}/log"), 99)
            .unwrap(),
        "one\nthree\n"
    );
}
