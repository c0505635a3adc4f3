//! Fuzz targets 7 and 8 under the deterministic mutator: manifests, and the folder of a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lowrank_durable::fuzzing::{FILE_MARK, fuzz_checkpoints, fuzz_manifest};
use lowrank_durable::{FileRecord, Manifest, sha256_hex};
use testkit::Mutation;

/// Counts what each mutant allocates.
#[global_allocator]
static ALLOCATED: testkit::PeakAlloc = testkit::PeakAlloc;

const PIECES: [&[u8]; 16] = [
    b"..",
    b"/",
    b"\\",
    b"\0",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"null",
    b"{}",
    b"\"a\"",
    b",",
    b"sha256",
    b"step",
    b"format_version",
    b"\n=== checkpoint-9/a\n",
    b"checkpoint-",
];

const FILES: [(&str, &[u8]); 2] = [
    ("adapter.bin", b"weights"),
    ("state.json", b"{\"step\": 1}"),
];

fn manifest(step: u64) -> Manifest {
    let record = |bytes: &[u8]| FileRecord {
        size_bytes: bytes.len() as u64,
        sha256: sha256_hex(bytes),
    };
    let files = FILES
        .iter()
        .map(|(name, bytes)| ((*name).to_owned(), record(bytes)));
    Manifest::new(
        step,
        files.collect(),
        BTreeMap::from([("base_model".to_owned(), "00".to_owned())]),
    )
}

/// A run's folder with checkpoints of these steps, under these numbers.
fn run(checkpoints: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |path: String, contents: &[u8]| {
        bytes.extend(FILE_MARK);
        bytes.extend(path.into_bytes());
        bytes.push(b'\n');
        bytes.extend(contents);
    };
    for (number, step) in checkpoints {
        for (name, contents) in FILES {
            put(format!("checkpoint-{number}/{name}"), contents);
        }
        put(
            format!("checkpoint-{number}/manifest.json"),
            manifest(*step).to_text().as_bytes(),
        );
    }
    bytes
}

fn mutation<'a>(name: &'a str, corpus: &'a str, seeds: &'a [Vec<u8>]) -> Mutation<'a> {
    Mutation {
        name,
        corpus,
        seeds,
        pieces: &PIECES,
        rounds: 200_000,
        limit: Duration::from_secs(10),
    }
}

#[test]
fn no_mutant_of_a_manifest_reaches_beyond_its_files() {
    let whole = manifest(7).to_text();
    assert!(Manifest::parse(Path::new("/run"), &whole).is_ok());
    let open = whole
        .split(",\n  \"manifest_sha256\"")
        .next()
        .unwrap_or_default()
        .to_owned();
    let seeds = [whole.into_bytes(), open.into_bytes()];
    mutation("7, manifest", "manifest", &seeds).run(fuzz_manifest);
}

#[test]
fn no_mutant_of_a_run_is_resumed_from_damage() {
    let seeds = [
        run(&[(1, 1), (2, 2), (3, 3)]),
        run(&[(9, 1), (10, 2)]),
        run(&[(5, 5)]),
    ];
    mutation("8, checkpoint folders", "checkpoints", &seeds).run(fuzz_checkpoints);
}
