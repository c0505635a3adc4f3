//! Fuzz targets of manifests and checkpoint folders as plain functions, for `cargo fuzz` and for the deterministic mutator
//! of the tests. Everything is in memory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::sha256_hex;
use crate::disk::Disk;
use crate::faults::{FaultyFs, Plan, SimFs};
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::store::CheckpointStore;

const FOLDER: &str = "/run/checkpoint-1";
/// What begins a file in the bytes of [`fuzz_checkpoints`]; its path and a line break follow.
pub const FILE_MARK: &[u8] = b"\n=== ";

/// A manifest's text, or its part before the seal, which is then sealed as ours are. Accepted: verifying it opens nothing
/// but the files that it lists, in its own folder.
pub fn fuzz_manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let opened = format!("{text},\n  \"manifest_sha256\": \"");
    let sealed = format!("{opened}{}\"\n}}\n", sha256_hex(opened.as_bytes()));
    for text in [text, &sealed] {
        if let Ok(manifest) = Manifest::parse(Path::new(FOLDER), text) {
            check_touched(&manifest);
        }
    }
}

fn check_touched(manifest: &Manifest) {
    let faulty = FaultyFs::new(Arc::new(SimFs::new()), Plan::none());
    let disk = Disk::with(Arc::new(faulty.clone()));
    let _ = manifest.verify_on(&disk, FOLDER);
    let listed: BTreeSet<PathBuf> = manifest
        .files
        .keys()
        .map(|name| Path::new(FOLDER).join(name))
        .collect();
    for (op, path) in faulty.trace() {
        assert!(listed.contains(&path), "{op:?} of {}", path.display());
        assert_eq!(
            path.parent(),
            Some(Path::new(FOLDER)),
            "a name leads out: {}",
            path.display()
        );
    }
    assert_eq!(
        Manifest::parse(Path::new(FOLDER), &manifest.to_text())
            .ok()
            .as_ref(),
        Some(manifest)
    );
}

/// The files of a run's folder, each after [`FILE_MARK`] and its path. Found: every file that the manifest of the newest
/// checkpoint lists has its size and digest, and no good checkpoint of a later step was passed over.
pub fn fuzz_checkpoints(bytes: &[u8]) {
    let disk = Disk::with(Arc::new(SimFs::new()));
    let run = Path::new("/run");
    if disk.create_dir_all(run).is_err() {
        return;
    }
    for (name, contents) in files(bytes) {
        let path = run.join(&name);
        let made = path
            .parent()
            .is_some_and(|folder| disk.create_dir_all(folder).is_ok());
        if made {
            let _ = disk.write_atomic(&path, contents);
        }
    }
    let store = CheckpointStore::on(&disk, run);
    let Ok(newest) = store.newest() else {
        return;
    };
    assert!(
        is_true(&disk, &newest.checkpoint.path),
        "its files are those of its manifest"
    );
    let later = store.list().unwrap_or_default().checkpoints;
    let later = later
        .iter()
        .filter(|one| one.step() > newest.checkpoint.step());
    for one in later {
        assert!(
            !is_true(&disk, &one.path),
            "{} was passed over",
            one.path.display()
        );
    }
}

/// Names that stay inside of the run's folder, and contents.
fn files(bytes: &[u8]) -> Vec<(String, &[u8])> {
    let marks = bytes.windows(FILE_MARK.len()).enumerate();
    let marks = marks
        .filter(|(_, window)| *window == FILE_MARK)
        .map(|(at, _)| at);
    let starts: Vec<usize> = marks.collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let parts = starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| &bytes[start + FILE_MARK.len()..end]);
    parts
        .filter_map(|part| {
            let line = part.iter().position(|&byte| byte == b'\n')?;
            let name = std::str::from_utf8(&part[..line]).ok()?;
            let plain = name
                .split('/')
                .all(|piece| crate::disk::plain_name(piece).is_ok());
            plain.then(|| (name.to_owned(), &part[line + 1..]))
        })
        .collect()
}

/// Checked without the code that is checked.
fn is_true(disk: &Disk, folder: &Path) -> bool {
    let read = |name: &str| disk.read_capped(folder.join(name), 1 << 30).ok();
    let Some(text) = read(MANIFEST_NAME).and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return false;
    };
    let Ok(manifest) = Manifest::parse(folder, &text) else {
        return false;
    };
    manifest.files.iter().all(|(name, record)| {
        read(name).is_some_and(|bytes| {
            bytes.len() as u64 == record.size_bytes && sha256_hex(&bytes) == record.sha256
        })
    })
}
