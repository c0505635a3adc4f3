//! The basic operations, on the real disk.

#![allow(
    clippy::disallowed_methods,
    reason = "tests arrange and damage files by hand"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

use durable::{AppendLog, DurableError, FolderLock, Kind, Manifest, Mapped, StagedFolder};
use lowrank_durable as durable;

fn names(folder: &std::path::Path) -> Vec<String> {
    durable::list_dir(folder)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect()
}

#[test]
fn map_gives_the_bytes_and_its_slices_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, b"0123456789").unwrap();
    let map = Mapped::open(&path).unwrap();
    let part = map.slice(2..8);
    assert_eq!(&*map, b"0123456789");
    drop(map);
    assert_eq!(&*part, b"234567");
    assert_eq!(&*part.get(1..3).unwrap(), b"34");
    assert!(part.get(3..7).is_none());
    #[expect(clippy::reversed_empty_ranges)]
    let backwards = part.get(5..4);
    assert!(backwards.is_none());
    assert!(part.whole().get(0..usize::MAX).is_none());
}

#[test]
fn empty_file_maps_to_no_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    fs::write(&path, b"").unwrap();
    let map = Mapped::open(&path).unwrap();
    assert!(map.is_empty());
    assert!(map.slice(0..0).is_empty());
}

#[test]
fn file_cut_while_mapped_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, vec![7; 10_000]).unwrap();
    let map = Mapped::open(&path).unwrap();
    map.check_unchanged().unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(9_000)
        .unwrap();
    assert!(matches!(
        map.check_unchanged(),
        Err(DurableError::Changed { .. })
    ));
}

#[test]
fn read_stops_at_the_cap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, [b'x'; 100]).unwrap();
    assert_eq!(durable::read_capped(&path, 100).unwrap().len(), 100);
    let error = durable::read_capped(&path, 99).unwrap_err();
    assert!(
        matches!(
            error,
            DurableError::TooLarge {
                size_bytes: 100,
                limit: 99,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn text_that_is_not_utf8_names_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, b"ab\xffcd").unwrap();
    let error = durable::read_text_capped(&path, 100).unwrap_err();
    assert!(
        matches!(error, DurableError::NotUtf8 { at: 2, .. }),
        "{error}"
    );
}

#[test]
fn absent_file_and_folder_for_file_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let absent = durable::read_capped(folder.path().join("none"), 10).unwrap_err();
    assert!(absent.is_not_found(), "{absent}");
    let error = durable::read_capped(folder.path(), 10).unwrap_err();
    assert!(
        matches!(
            error,
            DurableError::NotAFile {
                found: Kind::Folder,
                ..
            }
        ),
        "{error}"
    );
    let error = Mapped::open(folder.path()).unwrap_err();
    assert!(matches!(error, DurableError::NotAFile { .. }), "{error}");
}

#[test]
fn write_atomic_replaces_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    durable::write_atomic(&path, b"one").unwrap();
    durable::write_atomic(&path, b"two, longer").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two, longer");
    assert_eq!(names(folder.path()), ["a.json"]);
}

#[test]
fn copy_has_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..700_001_u32).map(|i| (i * 7 % 251) as u8).collect();
    fs::write(folder.path().join("a"), &bytes).unwrap();
    let count = durable::copy_file(folder.path().join("a"), folder.path().join("b")).unwrap();
    assert_eq!(count, 700_001);
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), bytes);
    assert_eq!(
        durable::sha256_file(folder.path().join("b")).unwrap(),
        durable::sha256_hex(&bytes)
    );
}

#[test]
fn staged_folder_appears_whole_with_its_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new/parent/checkpoint-3");
    let mut staged = StagedFolder::new(&target).unwrap();
    staged.write("a.bin", &[1, 2, 3]).unwrap();
    let mut file = staged.create("b.bin").unwrap();
    file.write_all(&vec![9; 600_000]).unwrap();
    file.write_all(&[8; 10]).unwrap();
    file.finish().unwrap();
    assert!(!target.exists());
    let digests = BTreeMap::from([("base_model".to_owned(), "abc".to_owned())]);
    let manifest = staged.publish_with_manifest(3, digests).unwrap();
    assert_eq!(names(&target), ["a.bin", "b.bin", "manifest.json"]);
    assert_eq!(names(target.parent().unwrap()), ["checkpoint-3"]);
    let read = Manifest::read(&target).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(read.files["b.bin"].size_bytes, 600_010);
    read.verify(&target).unwrap();
}

#[test]
fn staged_folder_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut staged = StagedFolder::new(folder.path().join("x")).unwrap();
    staged.write("a", b"1").unwrap();
    drop(staged);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn staged_folder_never_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x");
    let staged = StagedFolder::new(&target).unwrap();
    fs::create_dir(&target).unwrap(); // even an empty folder, which plain rename would replace
    let error = staged.publish().unwrap_err();
    assert!(
        matches!(error, DurableError::AlreadyExists { .. }),
        "{error}"
    );
    assert_eq!(names(folder.path()), ["x"]);
    assert!(matches!(
        StagedFolder::new(&target),
        Err(DurableError::AlreadyExists { .. })
    ));
}

#[test]
fn publish_over_replaces_namesakes_and_keeps_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("old"), b"stays").unwrap();
    fs::write(target.join("config.json"), b"before").unwrap();
    let mut staged = StagedFolder::beside(&target).unwrap();
    staged.write("config.json", b"after").unwrap();
    staged.publish_over().unwrap();
    assert_eq!(names(&target), ["config.json", "old"]);
    assert_eq!(fs::read(target.join("config.json")).unwrap(), b"after");
    assert_eq!(names(folder.path()), ["x"]);
}

#[test]
fn unfinished_file_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let mut staged = StagedFolder::new(folder.path().join("x")).unwrap();
    drop(staged.create("half").unwrap());
    let error = staged.publish().unwrap_err();
    assert!(matches!(error, DurableError::Unfinished { .. }), "{error}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut staged = StagedFolder::new(folder.path().join("x")).unwrap();
    for name in [
        "",
        ".",
        "..",
        "../a",
        "a/b",
        "/a",
        "a\\b",
        "c:a",
        "a\0b",
        "a\nb",
        &"x".repeat(256),
    ] {
        let error = staged.write(name, b"1").unwrap_err();
        assert!(
            matches!(error, DurableError::BadName { .. }),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn removed_folder_is_gone_and_links_in_it_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (victim, other) = (folder.path().join("victim"), folder.path().join("other"));
    fs::create_dir_all(victim.join("deep/er")).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("kept"), b"1").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&other, victim.join("deep/link")).unwrap();
    durable::remove_folder(&victim).unwrap();
    assert_eq!(names(folder.path()), ["other"]);
    assert_eq!(names(&other), ["kept"]);
}

#[test]
fn second_holder_is_refused_by_pid_and_the_lock_ends_with_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::take(folder.path()).unwrap();
    let error = FolderLock::take(folder.path()).unwrap_err();
    let pid = std::process::id();
    assert!(
        error.to_string().contains(&format!("process {pid}")),
        "{error}"
    );
    drop(lock);
    FolderLock::take(folder.path()).unwrap();
}

#[test]
fn lock_text_of_a_dead_process_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    // The pid is one that lives: what counts is the system's lock, not the text.
    let text = format!(
        "{{\"pid\": {}, \"host\": \"h\", \"start_unix_s\": 1}}",
        std::process::id()
    );
    fs::write(folder.path().join(".lock"), text).unwrap();
    FolderLock::take(folder.path()).unwrap();
}

#[test]
fn log_drops_a_torn_tail_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::write(&path, b"{\"a\":1}\n{\"a\":2}\n{\"a\":").unwrap();
    let mut log = AppendLog::open(&path).unwrap();
    log.append("{\"a\":3}").unwrap();
    assert_eq!(
        fs::read(&path).unwrap(),
        b"{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n"
    );
    log.keep_while(|line| line == b"{\"a\":1}").unwrap();
    log.append("{\"b\":2}").unwrap();
    log.sync().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"{\"a\":1}\n{\"b\":2}\n");
    assert_eq!(log.lost_lines(), 0);
}

#[test]
fn torn_tail_longer_than_a_piece_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, [b"one\n".to_vec(), vec![b'x'; 200_000]].concat()).unwrap();
    AppendLog::open(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\n");
    fs::write(&path, vec![b'x'; 200_000]).unwrap();
    AppendLog::open(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn free_space_of_a_path_to_come_is_that_of_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let here = durable::free_space(folder.path().join("not/yet/there")).unwrap();
    assert_ne!(here, Some(0));
    let error = durable::Disk::real()
        .need_space(folder.path().join("x"), u64::MAX)
        .unwrap_err();
    assert!(error.is_no_space() || here.is_none(), "{error}");
    assert!(
        error
            .to_string()
            .contains("18446744073709551615 bytes needed"),
        "{error}"
    );
}

#[test]
fn a_large_file_has_its_bytes_and_no_manifest_may_vouch_for_it() {
    let folder = tempfile::tempdir().unwrap();
    // Two blocks and an end that no direct write can take.
    let bytes: Vec<u8> = (0..(17_usize << 20) + 13)
        .map(|index| (index % 241) as u8)
        .collect();
    let staged = |name: &str| {
        let mut staged = StagedFolder::new(folder.path().join(name)).unwrap();
        let mut file = staged.create_large("weights").unwrap();
        for piece in bytes.chunks(1_000_003) {
            file.put(piece).unwrap();
        }
        file.finish().unwrap();
        staged
    };
    staged("out").publish().unwrap();
    assert!(fs::read(folder.path().join("out/weights")).unwrap() == bytes);
    let refused = staged("other").publish_with_manifest(1, BTreeMap::new());
    assert!(matches!(refused, Err(DurableError::Unfinished { .. })));
    assert_eq!(names(folder.path()), ["out"]);
}

/// It has no parent to begin at, and is not the folder that the process is in.
#[test]
fn the_empty_path_is_no_folder() {
    for refused in [
        durable::create_dir_all(""),
        durable::prepare_folder(""),
        StagedFolder::new("").map(drop),
    ] {
        assert!(
            matches!(refused, Err(DurableError::BadName { .. })),
            "{refused:?}"
        );
    }
}
