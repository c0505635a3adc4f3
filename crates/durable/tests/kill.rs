//! A1, A2 on the real disk: a child process that saves is killed by the system, or kills itself at a named point.

#![cfg(unix)]
#![allow(
    clippy::print_stdout,
    reason = "the child tells its parent how far it is"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests arrange and damage files by hand"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use durable::faults::{Dice, Tally, abort_at};
use durable::{CheckpointStore, DurableError, FolderLock, Point, StagedFolder};
use lowrank_durable as durable;

const FOLDER: &str = "LOWRANK_TEST_KILL_FOLDER";
const ABORT: &str = "LOWRANK_TEST_KILL_ABORT";
const STEPS: u64 = 12;
const KEEP: usize = 2;

fn content(step: u64) -> Vec<u8> {
    let mut dice = Dice::new(step);
    (0..20_000).map(|_| dice.bits() as u8).collect()
}

fn fill(staged: &mut StagedFolder, step: u64) -> durable::Result<()> {
    staged.write("adapter.bin", &content(step))?;
    staged.write("state.bin", &content(step + 1_000)[..300])
}

/// The process that is killed; as a test of its own it does nothing.
#[test]
fn child_that_saves_until_it_dies() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    if let Ok(abort) = std::env::var(ABORT) {
        let (point, nth) = abort.split_once(' ').unwrap();
        abort_at(point.parse().unwrap(), nth.parse().unwrap());
    }
    durable::prepare_folder(&folder).unwrap();
    let _lock = FolderLock::take(&folder).unwrap();
    let store = CheckpointStore::new(&folder);
    store.sweep().unwrap();
    let from = store.newest().map_or(0, |newest| newest.checkpoint.step());
    for step in from + 1..=STEPS {
        let none = BTreeMap::new();
        store
            .save::<DurableError>(step, &none, |staged| fill(staged, step))
            .unwrap();
        println!("\nsaved {step}");
        store.retain(KEEP, &[]).unwrap();
    }
    store.retain(KEEP, &[]).unwrap(); // the run before may have died between a save and its retention
}

fn spawn(folder: &Path, abort: Option<String>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_that_saves_until_it_dies", "--nocapture"])
        .env(FOLDER, folder);
    if let Some(abort) = abort {
        command.env(ABORT, abort);
    }
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until the child said that it saved `step` (0: does not wait, it dies in its start); returns the last
/// step it told of until it ended.
fn follow(child: &mut Child, step: u64, mut then: impl FnMut(&mut Child)) -> u64 {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut saved = 0;
    if step == 0 {
        then(child);
    }
    while let Some(Ok(line)) = lines.next() {
        let Some(found) = line
            .strip_prefix("saved ")
            .and_then(|text| text.parse().ok())
        else {
            continue;
        };
        saved = found;
        if found == step {
            then(child);
        }
    }
    saved
}

fn check(folder: &Path, acknowledged: u64, tally: &mut Tally, what: &str) {
    let store = CheckpointStore::new(folder);
    let listing = store.list().unwrap();
    for one in &listing.checkpoints {
        let bytes = durable::read_capped(one.path.join("adapter.bin"), 1 << 20);
        let good =
            store.open(&one.path).is_ok() && bytes.is_ok_and(|found| found == content(one.step()));
        if !good {
            tally.differ(format!("{what}: {}", one.name()));
        }
    }
    if !listing.skipped.is_empty() {
        tally.differ(format!("{what}: {:?}", listing.skipped));
    }
    let newest = store.newest().map_or(0, |newest| newest.checkpoint.step());
    if newest < acknowledged || (listing.checkpoints.len() as u64) < acknowledged.min(KEEP as u64) {
        tally.lose(format!("{what}: told {acknowledged}, found {newest}"));
    }
}

fn finishes(folder: &Path, tally: &mut Tally, what: &str) {
    let mut child = spawn(folder, None);
    follow(&mut child, u64::MAX, |_| {});
    if !child.wait().unwrap().success() {
        tally.lose(format!("{what}: the next run failed"));
    }
    check(folder, STEPS, tally, what);
    let names: Vec<_> = durable::list_dir(folder)
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect();
    if names != [".lock", "checkpoint-11", "checkpoint-12"] {
        tally.differ(format!("{what}: {names:?}"));
    }
}

#[test]
fn killed_at_random_times_loses_nothing() {
    let (mut tally, mut in_the_middle) = (Tally::new(), 0);
    for seed in 0..50_u64 {
        let mut dice = Dice::new(seed);
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut child = spawn(folder.path(), None);
            // A tenth dies in its start; the others some way into the work that follows a save.
            let step = if dice.chance(10) {
                0
            } else {
                1 + dice.below(STEPS as usize - 1) as u64
            };
            let spins = dice.below(400_000);
            let told = follow(&mut child, step, |child| {
                (0..spins).for_each(|_| std::hint::spin_loop());
                child.kill().unwrap();
            });
            child.wait().unwrap();
            tally.inject();
            let strays = CheckpointStore::new(&folder).list().unwrap().strays;
            in_the_middle += u64::from(!strays.is_empty());
            check(folder.path(), told, &mut tally, &format!("seed {seed}"));
        }
        finishes(folder.path(), &mut tally, &format!("seed {seed}"));
    }
    println!(
        "{} ({in_the_middle} in the middle of a save or removal)",
        tally.line(1, "SIGKILL of a process that saves")
    );
    assert!(in_the_middle > 5, "the kills miss what they are for");
    assert!(tally.is_clean(), "{tally}: {:?}", tally.first());
}

#[test]
fn aborted_at_each_point_loses_nothing() {
    let mut tally = Tally::new();
    for point in Point::ALL {
        for nth in [0, 1, 7] {
            let folder = tempfile::tempdir().unwrap();
            let mut child = spawn(folder.path(), Some(format!("{point:?} {nth}")));
            let told = follow(&mut child, u64::MAX, |_| {});
            let status = child.wait().unwrap();
            assert!(!status.success(), "{point:?} {nth} was not reached");
            tally.inject();
            let what = format!("{point:?} {nth}");
            check(folder.path(), told, &mut tally, &what);
            finishes(folder.path(), &mut tally, &what);
        }
    }
    println!("{}", tally.line(2, "abort of a process that saves"));
    assert!(
        tally.is_clean() && tally.injected == 42,
        "{tally}: {:?}",
        tally.first()
    );
}

/// Runs the child by a shell line in which `\"$@\"` is the child; returns whether it succeeded, and its stderr.
fn run_by_shell(line: &str, folder: &Path) -> (bool, String) {
    let mut command = Command::new("sh");
    command
        .args(["-c", line, "sh"])
        .arg(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_that_saves_until_it_dies", "--nocapture"])
        .env(FOLDER, folder);
    let done = command.output().unwrap();
    (
        done.status.success(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    )
}

fn is_tidy(folder: &Path) -> bool {
    CheckpointStore::new(folder)
        .list()
        .unwrap()
        .strays
        .is_empty()
}

#[test]
fn file_size_limit_of_the_system_is_told_and_loses_nothing() {
    let mut tally = Tally::new();
    for blocks in [0, 1, 4, 16, 19] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = spawn(folder.path(), Some("Published 2".to_owned()));
        let told = follow(&mut child, u64::MAX, |_| {});
        child.wait().unwrap();
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\" 2>&1 | cat >&2");
        let (_, text) = run_by_shell(&limited, folder.path());
        tally.inject();
        check(
            folder.path(),
            told,
            &mut tally,
            &format!("limit of {blocks} blocks"),
        );
        let refused = text.contains("NoSpace") && text.contains("needed_bytes");
        if !refused || !is_tidy(folder.path()) {
            tally.differ(format!("limit of {blocks} blocks: {text}"));
        }
    }
    println!("{}", tally.line(20, "RLIMIT_FSIZE of a process that saves"));
    assert!(tally.is_clean(), "{tally}: {:?}", tally.first());
}

#[test]
fn disk_that_is_really_full_loses_nothing() {
    let probe = "unshare -m sh -c 'mount -t tmpfs tmpfs /mnt' 2>/dev/null";
    if !Command::new("sh")
        .args(["-c", probe])
        .status()
        .unwrap()
        .success()
    {
        println!("row 12: skipped: no mount namespace");
        return;
    }
    let mut tally = Tally::new();
    for kib in (32..112).step_by(4) {
        let (mount, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (at, to) = (mount.path().display(), copy.path().display());
        let inner = format!(
            "mount -t tmpfs -o size={kib}k tmpfs {at} && {{ \"$@\"; code=$?; cp -a {at}/. {to}; exit $code; }}"
        );
        let line = format!("exec unshare -m sh -c '{inner}' sh \"$@\"");
        let (worked, text) = run_by_shell(&line, mount.path());
        tally.inject();
        let saved = CheckpointStore::new(copy.path())
            .list()
            .unwrap()
            .checkpoints
            .len() as u64;
        check(copy.path(), 0, &mut tally, &format!("{kib} KiB"));
        let told = worked || text.contains("NoSpace");
        // One checkpoint needs 28 KiB on pages of 4; three are there when the third is saved.
        let enough = saved >= (kib / 32).min(KEEP as u64)
            && ((84..92).contains(&kib) || worked == (kib >= 92));
        if !told || !is_tidy(copy.path()) || !enough {
            tally.differ(format!(
                "{kib} KiB: {saved} saved, worked: {worked}, {text}"
            ));
        }
    }
    println!(
        "{}",
        tally.line(12, "full tmpfs under a process that saves")
    );
    assert!(tally.is_clean(), "{tally}: {:?}", tally.first());
}
