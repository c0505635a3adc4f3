//! A deterministic mutator for fuzz targets: stable and offline. `cargo fuzz` calls the same targets.

use std::panic::{RefUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

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

/// What to run a target on.
pub struct Mutation<'a> {
    /// Inputs to start from; each is also run as it is.
    pub seeds: &'a [Vec<u8>],
    /// Byte strings that reach deeper than single bytes do.
    pub pieces: &'a [&'a [u8]],
    /// How many mutants.
    pub rounds: u64,
    /// A mutant that takes longer than this fails, whatever it is answered.
    pub limit: Duration,
}

impl Mutation<'_> {
    /// Runs `target` on the seeds and on every mutant.
    ///
    /// # Panics
    /// Where the target panics or takes too long, with the mutant's number and bytes.
    pub fn run(&self, target: impl Fn(&[u8]) + RefUnwindSafe) {
        for seed in self.seeds {
            target(seed);
        }
        for round in 0..self.rounds {
            let bytes = self.mutant(round);
            let start = Instant::now();
            let outcome = catch_unwind(|| target(&bytes));
            let took = start.elapsed();
            let shown = || bytes.escape_ascii().to_string();
            assert!(outcome.is_ok(), "mutant {round} panics: {}", shown());
            assert!(
                took < self.limit,
                "mutant {round} takes {took:?}: {}",
                shown()
            );
        }
    }

    fn mutant(&self, round: u64) -> Vec<u8> {
        let mut random = Random(round);
        let mut bytes = self.seeds[random.below(self.seeds.len())].clone();
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
