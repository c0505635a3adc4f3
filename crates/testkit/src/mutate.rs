//! A deterministic mutator for fuzz targets: stable and offline. `cargo fuzz` calls the same targets.
//!
//! A target runs for some seconds; `LOWRANK_FUZZ_SECONDS` says for how many, and then its rounds are no end. Mutants are
//! numbered, so that one that fails is made again by its number. A target that is given no time for a single one fails.

use std::panic::{RefUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::hostile::{SLACK_BYTES, peak_of, turn};
use crate::repository_root;

/// Seconds of a target where nothing else is asked for: fifteen targets are a minute and a quarter at most.
const SECONDS: u64 = 5;
const VARIABLE: &str = "LOWRANK_FUZZ_SECONDS";

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Seconds asked for. A word that is no number is refused: nobody would see that it counts for nothing.
fn asked_seconds() -> Option<u64> {
    let text = std::env::var_os(VARIABLE)?;
    let text = text.to_string_lossy();
    let seconds = text.parse();
    Some(seconds.unwrap_or_else(|_| panic!("{VARIABLE} is no number of seconds: `{text}`")))
}

/// What to run a target on.
pub struct Mutation<'a> {
    /// Of the target, for the line that tells how many mutants there were.
    pub name: &'a str,
    /// Its folder under `fuzz/corpus`: inputs that once made it fail are kept there, and started from too.
    pub corpus: &'a str,
    /// Inputs to start from; each is also run as it is.
    pub seeds: &'a [Vec<u8>],
    /// Byte strings that reach deeper than single bytes do.
    pub pieces: &'a [&'a [u8]],
    /// How many mutants, where no seconds are asked for.
    pub rounds: u64,
    /// A mutant that takes longer than this fails, whatever it is answered.
    pub limit: Duration,
}

impl Mutation<'_> {
    /// Runs `target` on the seeds and on mutants, and prints how many there were.
    ///
    /// # Panics
    /// Where the target panics, takes too long, or allocates more than twice its input and 64 MiB (seen only where
    /// [`crate::PeakAlloc`] is the program's allocator), with the mutant's number and bytes. Where no mutant was tried, the
    /// seconds asked for are no number, or `corpus` names no program of `fuzz/fuzz_targets`.
    pub fn run(&self, target: impl Fn(&[u8]) + RefUnwindSafe) {
        let _turn = turn();
        let asked = asked_seconds();
        let (seconds, rounds) = (
            asked.unwrap_or(SECONDS),
            if asked.is_some() {
                u64::MAX
            } else {
                self.rounds
            },
        );
        let start = Instant::now();
        let seeds: Vec<Vec<u8>> = self.seeds.iter().cloned().chain(self.kept()).collect();
        for seed in &seeds {
            self.try_one("a seed", seed, &target);
        }
        let mut round = 0;
        while round < rounds && start.elapsed() < Duration::from_secs(seconds) {
            let mutant = self.mutant(round, &seeds);
            self.try_one(&format!("mutant {round}"), &mutant, &target);
            round += 1;
        }
        assert!(round > 0, "{}: no mutant was tried", self.name);
        println!(
            "fuzz {}: {round} mutants in {:.1} s",
            self.name,
            start.elapsed().as_secs_f64()
        );
    }

    fn try_one(&self, what: &str, bytes: &[u8], target: &(impl Fn(&[u8]) + RefUnwindSafe)) {
        let start = Instant::now();
        let (outcome, used) = peak_of(|| catch_unwind(|| target(bytes)));
        let took = start.elapsed();
        let shown = || bytes.escape_ascii().to_string();
        assert!(outcome.is_ok(), "{}: {what} panics: {}", self.name, shown());
        assert!(
            took < self.limit,
            "{}: {what} takes {took:?}: {}",
            self.name,
            shown()
        );
        let most = 2 * bytes.len() + SLACK_BYTES;
        assert!(
            used <= most,
            "{}: {what} allocates {used}: {}",
            self.name,
            shown()
        );
    }

    /// What failed before, in the order of its names. A target that never failed has no folder.
    fn kept(&self) -> Vec<Vec<u8>> {
        let fuzz = repository_root().join("fuzz");
        // Under a name that is not the target's, nothing would ever be found.
        let program = fuzz.join("fuzz_targets").join(self.corpus);
        assert!(
            program.with_extension("rs").is_file(),
            "{}: no fuzz target `{}`",
            self.name,
            self.corpus
        );
        let folder = fuzz.join("corpus").join(self.corpus);
        let files = std::fs::read_dir(folder).into_iter().flatten();
        let mut paths: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        // `cargo fuzz` puts what it finds beside them, by its digest.
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with("kept-")
        });
        paths.sort();
        let read = |path| std::fs::read(path).expect("a file of the repository reads");
        paths.iter().map(read).collect()
    }

    fn mutant(&self, round: u64, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut random = Random(round);
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            self.change(&mut random, &mut bytes);
        }
        bytes
    }

    fn change(&self, random: &mut Random, bytes: &mut Vec<u8>) {
        let (at, length) = (random.below(bytes.len()), 1 + random.below(16));
        let end = (at + length).min(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            4 => {
                let piece = self.pieces[random.below(self.pieces.len())].iter().copied();
                bytes.splice(at..at, piece);
            }
            5 => {
                let piece = self.pieces[random.below(self.pieces.len())];
                let end = (at + piece.len()).min(bytes.len());
                bytes.splice(at..end, piece.iter().copied());
            }
            _ => bytes.truncate(at + bytes.len() / 2),
        }
    }
}
