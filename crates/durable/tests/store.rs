//! The checkpoint store on the real disk: what is found, what is skipped, what is kept.

#![allow(
    clippy::disallowed_methods,
    reason = "tests arrange and damage files by hand"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use durable::{CheckpointStore, DurableError, StagedFolder};
use lowrank_durable as durable;

fn save(store: &CheckpointStore, step: u64) {
    let fill = |staged: &mut StagedFolder| {
        staged.write("weights.bin", &[step as u8; 100])?;
        staged.write("state.json", format!("{{\"step\": {step}}}").as_bytes())
    };
    store
        .save::<DurableError>(step, &BTreeMap::new(), fill)
        .unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    durable::list_dir(folder)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect()
}

#[test]
fn newest_is_chosen_by_the_step_in_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    for step in [9, 10, 100] {
        save(&store, step);
    }
    assert_eq!(store.newest().unwrap().checkpoint.step(), 100);
    // Neither the name nor the clock decides.
    fs::rename(
        folder.path().join("checkpoint-9"),
        folder.path().join("checkpoint-777"),
    )
    .unwrap();
    assert_eq!(store.newest().unwrap().checkpoint.step(), 100);
}

#[test]
fn damaged_ones_are_skipped_with_their_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    for step in [2, 4, 6] {
        save(&store, step);
    }
    fs::remove_file(folder.path().join("checkpoint-6/state.json")).unwrap();
    fs::write(folder.path().join("checkpoint-4/weights.bin"), [5; 100]).unwrap();
    let newest = store.newest().unwrap();
    assert_eq!(newest.checkpoint.step(), 2);
    let reasons: Vec<_> = newest
        .skipped
        .iter()
        .map(|one| one.reason.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "`state.json` is missing",
            "`weights.bin` differs from its digest"
        ]
    );
}

#[test]
fn no_good_checkpoint_is_an_error_with_each_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    assert!(matches!(
        store.newest(),
        Err(DurableError::NoCheckpoint { .. })
    ));
    save(&store, 1);
    fs::write(folder.path().join("checkpoint-1/manifest.json"), "{}").unwrap();
    fs::create_dir(folder.path().join("checkpoint-2")).unwrap();
    let text = store.newest().unwrap_err().to_string();
    assert!(
        text.contains("own digest") && text.contains("no manifest.json"),
        "{text}"
    );
}

#[test]
fn strays_are_listed_and_never_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    save(&store, 3);
    let copy = |name: &str| {
        fs::create_dir(folder.path().join(name)).unwrap();
        for file in ["weights.bin", "state.json", "manifest.json"] {
            let from = folder.path().join("checkpoint-3").join(file);
            fs::copy(from, folder.path().join(name).join(file)).unwrap();
        }
    };
    let strays = [
        ".staging-checkpoint-5-123-0",
        ".trash-checkpoint-4-123-1",
        "checkpoint-1234567890123456789012345",
        "checkpoint-",
        "checkpoint-5-copy",
    ];
    for name in strays {
        copy(name);
    }
    copy("my-notes");
    fs::write(folder.path().join(".loss.svg.tmp-99-3"), "half").unwrap();
    fs::write(folder.path().join("checkpoint-8"), "a file").unwrap();
    let listing = store.list().unwrap();
    assert_eq!(listing.checkpoints.len(), 1);
    assert_eq!(listing.strays.len(), 7, "{:?}", listing.strays);
    assert_eq!(store.newest().unwrap().checkpoint.step(), 3);
    assert_eq!(store.sweep().unwrap().len(), 3);
    assert!(names(folder.path()).contains(&"my-notes".to_owned()));
}

#[test]
fn retention_keeps_the_newest_and_the_protected() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    for step in [1, 2, 3, 10, 20] {
        save(&store, step);
    }
    let removed = store.retain(3, &["checkpoint-2"]).unwrap();
    assert_eq!(removed.len(), 2);
    assert_eq!(
        names(folder.path()),
        ["checkpoint-10", "checkpoint-2", "checkpoint-20"]
    );
    store.retain(1, &["checkpoint-2"]).unwrap();
    assert_eq!(
        names(folder.path()),
        ["checkpoint-2", "checkpoint-20"],
        "best and newest, as HF"
    );
    store.retain(0, &[]).unwrap();
    assert_eq!(names(folder.path()), ["checkpoint-20"]);
}

#[test]
fn retention_never_deletes_the_only_good_state() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    for step in [1, 2, 3] {
        save(&store, step);
    }
    fs::write(folder.path().join("checkpoint-3/weights.bin"), [0; 100]).unwrap();
    store.retain(1, &[]).unwrap();
    assert_eq!(store.newest().unwrap().checkpoint.step(), 2);
    assert_eq!(names(folder.path()), ["checkpoint-2", "checkpoint-3"]);
}

#[test]
fn saving_a_step_again_replaces_ours_and_sets_others_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    save(&store, 7);
    fs::write(folder.path().join("checkpoint-7/weights.bin"), "damaged").unwrap();
    save(&store, 7);
    assert_eq!(names(folder.path()), ["checkpoint-7"]);
    store.open(folder.path().join("checkpoint-7")).unwrap();
    fs::create_dir(folder.path().join("checkpoint-8")).unwrap();
    fs::write(
        folder.path().join("checkpoint-8/optimizer.pt"),
        "another program's",
    )
    .unwrap();
    save(&store, 8);
    let aside = names(folder.path())
        .into_iter()
        .find(|name| name.contains(".replaced-"))
        .unwrap();
    assert!(folder.path().join(aside).join("optimizer.pt").exists());
    assert_eq!(store.newest().unwrap().checkpoint.step(), 8);
}

#[test]
fn what_is_behind_a_step_is_set_aside_and_counts_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    for step in [20, 40, 60] {
        save(&store, step);
    }
    let of = |step| store.open(store.path_of(step)).unwrap();
    let aside = store.set_aside_behind(&of(20)).unwrap();
    let were: Vec<_> = aside.iter().map(|(was, _)| was.clone()).collect();
    assert_eq!(were, [store.path_of(60), store.path_of(40)]);
    for (_, is) in &aside {
        store.open(is).unwrap();
    }
    save(&store, 25);
    assert_eq!(store.newest().unwrap().checkpoint.step(), 25);
    store.retain(1, &["checkpoint-20"]).unwrap();
    assert_eq!(store.list().unwrap().checkpoints.len(), 2);
    assert!(aside.iter().all(|(_, is)| is.exists()));
    assert!(store.set_aside_behind(&of(25)).unwrap().is_empty());
}

/// Names of what was set aside stay, and where process ids repeat, so may the next ones.
#[test]
fn a_name_that_is_taken_is_no_reason_not_to_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    save(&store, 20);
    save(&store, 40);
    let pid = std::process::id();
    for count in 0..500 {
        let taken = format!("checkpoint-40.replaced-{pid}-{count}");
        std::fs::create_dir(folder.path().join(taken)).unwrap();
    }
    let resumed = store.open(store.path_of(20)).unwrap();
    let aside = store.set_aside_behind(&resumed).unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!(store.open(&aside[0].1).unwrap().step(), 40);
}

#[test]
fn another_checkpoint_of_the_step_resumed_from_is_set_aside_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    save(&store, 40);
    let left = folder.path().join("checkpoint-40.replaced-1-1");
    std::fs::rename(store.path_of(40), &left).unwrap();
    save(&store, 40);
    let aside = store.set_aside_behind(&store.open(&left).unwrap()).unwrap();
    assert_eq!(aside[0].0, store.path_of(40));
    assert!(left.exists() && !store.path_of(40).exists());
    save(&store, 40);
    let resumed = store.open(folder.path().join("./checkpoint-40")).unwrap();
    assert!(store.set_aside_behind(&resumed).unwrap().is_empty());
}

#[test]
fn half_written_files_of_a_killed_run_are_swept_from_a_folder_inside_too() {
    let root = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(root.path());
    assert!(store.sweep_within(".tokens").unwrap().is_empty());
    let inside = root.path().join(".tokens");
    for name in ["kept.tokens", ".kept.tokens.tmp-77-0"] {
        durable::create_dir_all(&inside).unwrap();
        durable::write_atomic(inside.join(name), b"x").unwrap();
    }
    let swept = store.sweep_within(".tokens").unwrap();
    assert_eq!(swept, [inside.join(".kept.tokens.tmp-77-0")]);
    assert!(durable::exists(inside.join("kept.tokens")));
}
