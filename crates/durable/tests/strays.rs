//! Staging folders on the real disk: a dead process's is removed by the next writer, a living one's never.

#![allow(
    clippy::disallowed_methods,
    reason = "tests arrange and damage files by hand"
)]

use std::fs;
use std::path::Path;

use durable::{CheckpointStore, DurableError, StagedFolder};
use lowrank_durable as durable;

fn names(folder: &Path) -> Vec<String> {
    let entries = durable::list_dir(folder).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

/// As a process that was killed leaves it.
fn leave(folder: &Path, name: &str) {
    fs::create_dir(folder.join(name)).unwrap();
    fs::write(folder.join(name).join("half.bin"), b"half").unwrap();
}

#[test]
fn what_a_dead_process_staged_is_removed_by_the_next_writer_to_that_target_only() {
    let folder = tempfile::tempdir().unwrap();
    let others = [
        ".staging-out-1-7-0",
        ".staging-out-x-0",
        ".staging-other-7-0",
        ".trash-out-7-0",
        "staging-out-7-0",
    ];
    for name in others
        .iter()
        .chain(&[".staging-out-7-0", ".staging-out-7-1"])
    {
        leave(folder.path(), name);
    }
    fs::write(folder.path().join(".staging-out-7-2"), b"a file").unwrap();
    let mut staged = StagedFolder::new(folder.path().join("out")).unwrap();
    staged.write("a", b"a").unwrap();
    staged.publish().unwrap();
    let mut want: Vec<_> = others.map(str::to_owned).to_vec();
    want.extend([".staging-out-7-2".to_owned(), "out".to_owned()]);
    want.sort();
    assert_eq!(names(folder.path()), want);
}

#[test]
fn a_writer_that_lives_keeps_its_staging_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut first = StagedFolder::new(&out).unwrap();
    first.write("a", b"first").unwrap();
    let mut second = StagedFolder::new(&out).unwrap();
    durable::prepare_folder(&out).unwrap();
    fs::remove_dir(&out).unwrap();
    let told = durable::staged_beside(&out).unwrap();
    assert_eq!(told.len(), 2);
    for one in told {
        assert_eq!(one.reason, "a process that is at work fills it");
    }
    second.write("a", b"second").unwrap();
    first.publish().unwrap();
    let lost = second.publish();
    assert!(matches!(lost, Err(DurableError::AlreadyExists { .. })));
    assert_eq!(fs::read(out.join("a")).unwrap(), b"first");
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn preparing_a_folder_removes_what_was_staged_for_it() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path(), ".staging-run-7-0");
    let told = durable::staged_beside(folder.path().join("run")).unwrap();
    assert!(
        told[0]
            .reason
            .starts_with("left by a process that was killed")
    );
    durable::prepare_folder(folder.path().join("run")).unwrap();
    assert_eq!(names(folder.path()), ["run"]);
}

#[test]
fn a_sweep_of_a_run_leaves_what_another_writer_fills() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path(), ".staging-checkpoint-3-7-0");
    let merging = StagedFolder::new(folder.path().join("merged")).unwrap();
    let store = CheckpointStore::new(folder.path());
    let reasons = |store: &CheckpointStore| -> Vec<String> {
        let strays = store.list().unwrap().strays.into_iter();
        strays.map(|one| one.reason).collect()
    };
    assert_eq!(
        reasons(&store),
        [
            "left by a process that was killed; the next one that writes there removes it",
            "a process that is at work fills it"
        ]
    );
    assert_eq!(store.sweep().unwrap().len(), 1);
    assert!(merging.staging_path().is_dir());
    drop(merging);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn parents_made_for_a_folder_that_is_never_published_go_with_it() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("old")).unwrap();
    for target in ["old/a/b/out", "new/out", "old/out"] {
        let staged = StagedFolder::new(root.path().join(target)).unwrap();
        drop(staged);
        assert_eq!(names(root.path()), ["old"], "{target}");
        assert!(names(&root.path().join("old")).is_empty(), "{target}");
    }
    // What came into them meanwhile is not ours.
    let staged = StagedFolder::new(root.path().join("new/er/out")).unwrap();
    fs::write(root.path().join("new/note.txt"), b"mine").unwrap();
    drop(staged);
    assert_eq!(names(&root.path().join("new")), ["note.txt"]);
    // Published, everything stays.
    let staged = StagedFolder::new(root.path().join("a/b/out")).unwrap();
    staged.publish().unwrap();
    assert_eq!(names(&root.path().join("a/b")), ["out"]);
}
