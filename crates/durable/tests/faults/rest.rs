//! C23 to C30: damage at rest.

use std::path::{Path, PathBuf};

use durable::faults::{Dice, Tally};
use durable::{DurableError, MANIFEST_NAME, Manifest};
use lowrank_durable as durable;

use crate::world::{RUN, World, finish};

const STEPS: [u64; 3] = [2, 4, 6];

fn folder(step: u64) -> PathBuf {
    Path::new(RUN).join(format!("checkpoint-{step}"))
}

/// Every file of the three checkpoints with its step.
fn all_files(world: &World) -> Vec<(u64, PathBuf)> {
    let files = world.sim.files();
    let of = |step| {
        files
            .keys()
            .filter(move |path| path.starts_with(folder(step)))
    };
    STEPS
        .into_iter()
        .flat_map(|step| of(step).map(move |path| (step, path.clone())))
        .collect()
}

fn size(world: &World, path: &Path) -> usize {
    world.sim.files()[path].len()
}

/// The damaged steps must be refused when named, skipped with a reason when searched, and the newest good one
/// of the others taken.
fn expect_damage(world: &World, damaged: &[u64], tally: &mut Tally, what: &str) {
    tally.inject();
    let store = world.store();
    for &step in damaged {
        if let Ok(found) = store.open(folder(step)) {
            tally.differ(format!("{what}: damage of {} unseen", found.name()));
        }
    }
    let want = STEPS.into_iter().rev().find(|step| !damaged.contains(step));
    match (store.newest(), want) {
        (Ok(newest), Some(want)) => {
            let newer = damaged.iter().filter(|&&step| step > want).count();
            let told = newest.skipped.len() >= newer
                && newest.skipped.iter().all(|one| !one.reason.is_empty());
            if newest.checkpoint.step() != want || !told {
                tally.lose(format!("{what}: took {}", newest.checkpoint.step()));
            }
        }
        (Err(DurableError::NoCheckpoint { skipped, .. }), None) if skipped.len() == 3 => {}
        (other, _) => tally.lose(format!("{what}: {other:?}")),
    }
}

/// Damages one file, checks, and mends it again.
fn with_damage(
    world: &World,
    (step, path): &(u64, PathBuf),
    tally: &mut Tally,
    what: &str,
    change: impl FnOnce(&mut Vec<u8>),
) {
    let before = world.sim.files()[path].clone();
    assert!(world.sim.damage(path, change));
    if world.sim.files()[path] != before {
        expect_damage(
            world,
            &[*step],
            tally,
            &format!("{what} of {}", path.display()),
        );
    }
    world.sim.damage(path, |bytes| *bytes = before);
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let world = World::with_saved(&STEPS);
    let files = all_files(&world);
    let (mut tally, mut dice) = (Tally::new(), Dice::new(23));
    for _ in 0..2_000 {
        let one = &files[dice.below(files.len())];
        let bit = dice.below(size(&world, &one.1) * 8);
        let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
        with_damage(&world, one, &mut tally, &format!("bit {bit}"), flip);
    }
    finish(23, "flipped bits", &tally, 2_000);
}

#[test]
fn every_bit_of_a_manifest_counts() {
    let world = World::with_saved(&STEPS);
    let one = (6, folder(6).join(MANIFEST_NAME));
    let mut tally = Tally::new();
    for bit in 0..size(&world, &one.1) * 8 {
        let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
        with_damage(&world, &one, &mut tally, &format!("bit {bit}"), flip);
    }
    finish(28, "bits of a manifest", &tally, 5_000);
}

#[test]
fn truncation_anywhere_is_found() {
    let world = World::with_saved(&STEPS);
    let files = all_files(&world);
    let (mut tally, mut dice) = (Tally::new(), Dice::new(24));
    let mut cut = |one: &(u64, PathBuf), len: usize| {
        with_damage(&world, one, &mut tally, &format!("cut to {len}"), |bytes| {
            bytes.truncate(len)
        });
    };
    for one in &files {
        let size = size(&world, &one.1);
        for edge in [0, 1, 8, 511, 512, 4096, size / 2, size - 2, size - 1] {
            cut(one, edge.min(size - 1));
        }
    }
    for _ in 0..500 {
        let one = &files[dice.below(files.len())];
        cut(one, dice.below(size(&world, &one.1)));
    }
    finish(24, "truncations", &tally, 500);
}

#[test]
fn longer_file_is_found() {
    let world = World::with_saved(&STEPS);
    let mut tally = Tally::new();
    for one in &all_files(&world) {
        with_damage(&world, one, &mut tally, "byte more", |bytes| bytes.push(0));
        with_damage(&world, one, &mut tally, "newline more", |bytes| {
            bytes.push(b'\n')
        });
    }
    finish(24, "longer files", &tally, 30);
}

#[test]
fn any_file_removed_is_found() {
    let mut tally = Tally::new();
    for (step, path) in all_files(&World::with_saved(&STEPS)) {
        let world = World::with_saved(&STEPS);
        world.disk.remove_file(&path).unwrap();
        expect_damage(
            &world,
            &[step],
            &mut tally,
            &format!("{} removed", path.display()),
        );
    }
    finish(25, "removed files", &tally, 15);
}

#[test]
fn files_swapped_between_checkpoints_are_found() {
    let world = World::with_saved(&STEPS);
    let files = all_files(&world);
    let mut tally = Tally::new();
    for (index, (step, path)) in files.iter().enumerate() {
        for (other_step, other) in &files[index + 1..] {
            let contents = world.sim.files();
            let put = |to: &Path, from: &Path| {
                world
                    .sim
                    .damage(to, |bytes| bytes.clone_from(&contents[from]));
            };
            put(path, other);
            put(other, path);
            let what = format!("{} swapped with {}", path.display(), other.display());
            let both = [*step, *other_step];
            let damaged = if step == other_step {
                &both[..1]
            } else {
                &both
            };
            expect_damage(&world, damaged, &mut tally, &what);
            put(path, path);
            put(other, other);
        }
    }
    finish(26, "swapped files", &tally, 100);
}

#[test]
fn empty_file_and_zeroed_page_are_found() {
    let world = World::with_saved(&STEPS);
    let files = all_files(&world);
    let (mut tally, mut dice) = (Tally::new(), Dice::new(27));
    for one in &files {
        with_damage(&world, one, &mut tally, "emptying", Vec::clear);
    }
    for _ in 0..50 {
        let one = &files[dice.below(files.len())];
        let page = dice.below(size(&world, &one.1).div_ceil(4096)) * 4096;
        with_damage(
            &world,
            one,
            &mut tally,
            &format!("zero page at {page}"),
            |bytes| {
                let end = bytes.len().min(page + 4096);
                bytes[page..end].fill(0);
            },
        );
    }
    finish(27, "empty files and zeroed pages", &tally, 50);
}

/// Seals a manifest's text again, as a version of this program would that wrote other fields.
fn reseal(manifest: &[u8], edit: impl Fn(String) -> String) -> Vec<u8> {
    let text = String::from_utf8(manifest.to_vec()).unwrap();
    let (opened, _) = text.split_at(text.len() - 64 - 4);
    let opened = edit(opened.to_owned());
    let seal = durable::sha256_hex(opened.as_bytes());
    format!("{opened}{seal}\"\n}}\n").into_bytes()
}

#[test]
fn newer_format_is_refused_by_name_and_other_resealed_manifests_are_damage() {
    let world = World::with_saved(&STEPS);
    let path = folder(6).join(MANIFEST_NAME);
    let good = world.sim.files()[&path].clone();
    let put = |edit: &dyn Fn(String) -> String| {
        let text = reseal(&good, edit);
        world.sim.damage(&path, |bytes| *bytes = text);
    };
    let version = |to: &str| {
        let to = format!("\"format_version\": {to}");
        move |text: String| text.replace("\"format_version\": 1", &to)
    };
    let mut tally = Tally::new();
    put(&|text| text);
    assert_eq!(
        world.sim.files()[&path],
        good,
        "the seal is what this test thinks it is"
    );
    for newer in [2, 3, 1_000_000] {
        put(&version(&format!("{newer}, \"shards\": []")));
        tally.inject();
        for error in [
            world.store().newest().unwrap_err(),
            world.store().open(folder(6)).unwrap_err(),
        ] {
            let named =
                matches!(error, DurableError::NewerFormat { found, ours: 1, .. } if found == newer);
            if !named || !error.to_string().contains("checkpoint-6") {
                tally.differ(error.to_string());
            }
        }
    }
    let bad = [
        "0",
        "-1",
        "1.5",
        "\"1\"",
        "null",
        "1, \"more\": 1",
        "18446744073709551616",
    ];
    for bad in bad {
        put(&version(bad));
        expect_damage(&world, &[6], &mut tally, bad);
    }
    let names = [
        "../checkpoint-4/adapter.bin",
        "/etc/passwd",
        "a/b",
        "",
        ".",
        "x\\\\y",
    ];
    for name in names {
        put(&|text| text.replace("\"adapter.bin\"", &format!("\"{name}\"")));
        expect_damage(&world, &[6], &mut tally, name);
    }
    finish(28, "resealed manifests", &tally, 16);
}

#[test]
fn damaged_manifest_is_skipped() {
    let world = World::with_saved(&STEPS);
    let one = (6, folder(6).join(MANIFEST_NAME));
    let (mut tally, mut dice) = (Tally::new(), Dice::new(28));
    for round in 0..250 {
        with_damage(
            &world,
            &one,
            &mut tally,
            &format!("edit {round}"),
            |bytes| {
                let at = dice.below(bytes.len());
                let end = bytes.len().min(at + 1 + dice.below(20));
                match round % 5 {
                    0 => bytes[at] = dice.bits() as u8,
                    1 => bytes.insert(at, b'0' + dice.below(10) as u8),
                    2 => drop(bytes.drain(at..end)),
                    3 => {
                        let copy = bytes[at..end].to_vec();
                        bytes.splice(at..at, copy);
                    }
                    _ => bytes[at..end].reverse(),
                }
            },
        );
    }
    finish(28, "damaged manifests", &tally, 200);
}

#[test]
fn any_bytes_for_a_manifest_are_refused_or_read_as_what_they_say() {
    let mut dice = Dice::new(7);
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..dice.below(400)).map(|_| dice.bits() as u8).collect();
        let text = String::from_utf8_lossy(&bytes);
        assert!(Manifest::parse(Path::new("x"), &text).is_err());
    }
    let text = Manifest::new(7, Default::default(), Default::default()).to_text();
    assert_eq!(Manifest::parse(Path::new("x"), &text).unwrap().step, 7);
    let deep = format!("{}{}", "[".repeat(100_000), text);
    assert!(Manifest::parse(Path::new("x"), &deep).is_err());
}

#[test]
fn strays_are_ignored_and_listed() {
    let world = World::with_saved(&STEPS);
    let mut tally = Tally::new();
    let names = [
        ".staging-checkpoint-8-77-0",
        ".staging-checkpoint-8-77-1",
        ".staging-000120-77-0",
        ".trash-checkpoint-2-77-5",
        "checkpoint-9999999999999999999999999",
        "checkpoint-18446744073709551616",
        "checkpoint-",
        "checkpoint--1",
        "checkpoint-+9",
        "checkpoint-9.5",
        "checkpoint-9 ",
        "checkpoint-0x9",
        "checkpoint-9.tmp",
        "checkpoint-9.replaced-77-0",
        "checkpoint-best",
    ];
    for name in names {
        for file in [
            "adapter.bin",
            "optimizer.bin",
            "config.json",
            "state.json",
            MANIFEST_NAME,
        ] {
            let to = Path::new(RUN).join(name);
            world.disk.create_dir_all(&to).unwrap();
            // Even a complete copy of a newer step under such a name is not looked at.
            world
                .disk
                .copy_file(folder(6).join(file), to.join(file))
                .unwrap();
        }
        tally.inject();
    }
    let files = [
        ".metrics.jsonl.tmp-77-2",
        ".loss.svg.tmp-77-3",
        "checkpoint-50",
    ];
    let foreign = ["notes.txt", "Checkpoint-70", ".gitignore"];
    for name in files.into_iter().chain(foreign) {
        world
            .disk
            .write_atomic(Path::new(RUN).join(name), b"x")
            .unwrap();
        tally.inject();
    }
    let listing = world.store().list().unwrap();
    let steps: Vec<u64> = listing.checkpoints.iter().map(|one| one.step()).collect();
    if steps != [6, 4, 2] || listing.strays.len() != names.len() + files.len() {
        tally.differ(format!("{listing:?}"));
    }
    let swept = world.store().sweep().unwrap();
    if swept.len() != 6 || world.store().newest().unwrap().checkpoint.step() != 6 {
        tally.differ(format!("swept {swept:?}"));
    }
    finish(29, "strays", &tally, 20);
}

#[test]
fn every_checkpoint_bad_is_an_error_with_each_reason() {
    let mut tally = Tally::new();
    for round in 0..5 {
        let world = World::with_saved(&STEPS);
        for step in STEPS {
            let name = ["adapter.bin", MANIFEST_NAME, "state.json"][(round + step as usize) % 3];
            world
                .sim
                .damage(&folder(step).join(name), |bytes| bytes.truncate(round));
        }
        expect_damage(&world, &STEPS, &mut tally, &format!("round {round}"));
        let text = world.store().newest().unwrap_err().to_string();
        if !STEPS
            .iter()
            .all(|step| text.contains(&format!("checkpoint-{step}: ")))
        {
            tally.differ(text);
        }
    }
    finish(30, "every checkpoint bad", &tally, 5);
}
