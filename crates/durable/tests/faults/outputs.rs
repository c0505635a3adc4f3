//! B17 to B19, B22: places that cannot be written, odd output paths, clocks that lie. Mostly on the real disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use durable::faults::{Dice, Failure, Plan, Tally};
use durable::{AppendLog, CheckpointStore, Disk, DurableError, Kind, StagedFolder};
use lowrank_durable as durable;

use crate::world::{World, fill, finish};

#[test]
fn place_that_cannot_be_written_is_refused_before_the_run() {
    let mut tally = Tally::new();
    for failure in [Failure::ReadOnly, Failure::Denied, Failure::NoSpace] {
        for there in [false, true] {
            let world = World::new();
            if there {
                world.disk.create_dir_all("/out/run").unwrap();
            }
            use durable::faults::Op::{Create, CreateFolder};
            let plan = Plan::fail(0, failure)
                .forever()
                .only(&[Create, CreateFolder]);
            world.faulty.set_plan(plan);
            let error = world.disk.prepare_folder("/out/run").unwrap_err();
            tally.inject();
            if error.hint().is_none() || !error.to_string().contains("/out") {
                tally.differ(format!("{failure:?}: {error}"));
            }
        }
    }
    finish(17, "places that cannot be written", &tally, 6);
}

#[test]
fn staging_is_on_the_disk_of_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("a/b");
    let staged = StagedFolder::new(&target).unwrap();
    assert_eq!(staged.staging_path().parent(), target.parent());
}

#[cfg(unix)]
#[test]
fn odd_output_paths_are_refused_or_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(at(to), at(name)).unwrap();
    fs::create_dir(at("real")).unwrap();
    fs::write(at("real/notes.txt"), "someone's").unwrap();
    fs::write(at("file"), "x").unwrap();
    link("real", "link");
    link("nowhere", "dangling");
    link("file", "link-to-file");
    link("loop", "loop");
    let made = std::process::Command::new("mkfifo")
        .arg(at("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    let mut tally = Tally::new();
    // A run's folder: a folder or a link to one, other files in it stay.
    let disk = Disk::real();
    disk.prepare_folder(at("link")).unwrap();
    assert_eq!(
        fs::read_to_string(at("real/notes.txt")).unwrap(),
        "someone's"
    );
    for name in [
        "file",
        "dangling",
        "link-to-file",
        "pipe",
        "loop",
        "file/below",
        "pipe/below",
    ] {
        let done = disk.prepare_folder(at(name));
        tally.inject();
        if done.is_ok() {
            tally.differ(format!("{name} was taken for a folder"));
        }
    }
    // A folder that is to be new: nothing may be there.
    for name in [
        "real",
        "link",
        "file",
        "dangling",
        "link-to-file",
        "pipe",
        "loop",
    ] {
        let done = StagedFolder::new(at(name));
        tally.inject();
        if !matches!(done, Err(DurableError::AlreadyExists { .. })) {
            tally.differ(format!("{name}: {done:?}"));
        }
    }
    finish(19, "odd output paths", &tally, 10);
}

#[cfg(unix)]
#[test]
fn pipes_are_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let refused = |error: DurableError| {
        assert!(
            matches!(
                error,
                DurableError::NotAFile {
                    found: Kind::Other,
                    ..
                }
            ),
            "{error}"
        );
    };
    refused(durable::read_capped(&pipe, 10).unwrap_err());
    refused(durable::Mapped::open(&pipe).unwrap_err());
    refused(durable::write_atomic(&pipe, b"x").unwrap_err());
    refused(durable::AppendLog::open(&pipe).unwrap_err());
    refused(durable::read_capped("/dev/zero", 10).unwrap_err());
}

/// What a series of operations on a disk returned, and what it left.
fn script(disk: &Disk, root: &Path) -> Vec<String> {
    let mut told = Vec::new();
    let at = |name: &str| root.join(name);
    let mut tell = |done: durable::Result<String>| {
        told.push(
            done.unwrap_or_else(|error| format!("{error}"))
                .replace(&*root.to_string_lossy(), ""),
        );
    };
    let unit = |done: durable::Result<()>| done.map(|()| "done".to_owned());
    tell(unit(disk.create_dir_all(at("a/b/c"))));
    tell(unit(disk.write_atomic(at("a/x"), b"one")));
    tell(unit(disk.write_atomic(at("a/x"), b"two")));
    tell(unit(disk.write_atomic(at("a"), b"two")));
    tell(unit(disk.create_dir_all(at("a/x"))));
    tell(unit(disk.create_dir_all(at("a/x/y"))));
    tell(disk.read_text_capped(at("a/x"), 3));
    tell(disk.read_text_capped(at("a/x"), 2));
    tell(disk.read_text_capped(at("a"), 2));
    tell(disk.read_text_capped(at("none"), 2));
    tell(
        disk.copy_file(at("a/x"), at("a/b/y"))
            .map(|count| count.to_string()),
    );
    tell(unit(disk.remove_folder(at("a/x"))));
    tell(unit(disk.remove_folder(at("none"))));
    tell(disk.map(at("a/b/y")).map(|map| format!("{map:?}")));
    tell(StagedFolder::on(disk, at("a")).map(|_| "staged".to_owned()));
    let staged = StagedFolder::on(disk, at("s")).unwrap();
    disk.create_dir_all(at("s")).unwrap();
    tell(unit(staged.publish()));
    tell(unit(disk.remove_folder(at("s"))));
    let store = CheckpointStore::on(disk, at("run"));
    for step in [1, 2, 2, 3] {
        let digests = std::collections::BTreeMap::new();
        let saved = store.save::<DurableError>(step, &digests, |staged| fill(staged, step));
        tell(saved.map(|saved| format!("{saved:?}")));
    }
    tell(
        store
            .retain(1, &["checkpoint-1"])
            .map(|removed| format!("{removed:?}")),
    );
    let mut log = AppendLog::on(disk, at("log")).unwrap();
    tell(unit(
        log.append("one")
            .and_then(|()| log.append("two"))
            .and_then(|()| log.keep_while(|line| line == b"one")),
    ));
    tell(unit(log.append("three")));
    tell(disk.read_text_capped(at("log"), 100));
    for folder in ["", "a", "a/b", "run", "run/checkpoint-3"] {
        tell(
            disk.list_dir(at(folder))
                .map(|entries| format!("{entries:?}")),
        );
    }
    told
}

#[test]
fn simulated_disk_answers_as_the_real_one() {
    let folder = tempfile::tempdir().unwrap();
    let sim = Disk::with(Arc::new(durable::faults::SimFs::new()));
    sim.create_dir_all(folder.path()).unwrap();
    assert_eq!(
        script(&sim, folder.path()),
        script(&Disk::real(), folder.path())
    );
}

#[test]
fn clock_decides_nothing() {
    let mut tally = Tally::new();
    for seed in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(folder.path());
        let steps = [3, 20, 100, 1000];
        let mut dice = Dice::new(seed);
        for step in steps {
            let digests = std::collections::BTreeMap::new();
            store
                .save::<DurableError>(step, &digests, |staged| fill(staged, step))
                .unwrap();
            // All equal, reversed, or anything.
            let age = [0, step, dice.below(9_999) as u64][seed as usize % 3];
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age);
            let checkpoint = fs::File::open(store.path_of(step)).unwrap();
            checkpoint.set_modified(time).unwrap();
        }
        tally.inject();
        store.retain(2, &[]).unwrap();
        let left: Vec<_> = store
            .list()
            .unwrap()
            .checkpoints
            .iter()
            .map(|one| one.step())
            .collect();
        if store.newest().unwrap().checkpoint.step() != 1000 || left != [1000, 100] {
            tally.differ(format!("seed {seed}: {left:?}"));
        }
    }
    finish(22, "clocks", &tally, 5);
}
