//! The fuzz targets under a deterministic mutator: stable and offline. `cargo fuzz` calls the same functions.

use lowrank_formats::fuzzing;

/// Mutants a target; about a second each.
const ROUNDS: u64 = 50_000;

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

/// Pieces that reach deeper than single bytes do.
const PIECES: [&[u8]; 20] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b":",
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b"18446744073709551616",
    b"\\ud83d\\ude00",
    b"\\u0000",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"[[[[[[[[",
    b"data_offsets",
    b"(K\x01t",
    b"\x8a\x08",
];

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
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
            let piece = PIECES[random.below(PIECES.len())].iter().copied();
            bytes.splice(at..at, piece);
        }
        5 => {
            let piece = PIECES[random.below(PIECES.len())];
            let end = (at + piece.len()).min(bytes.len());
            bytes.splice(at..end, piece.iter().copied());
        }
        _ => bytes.truncate(at + bytes.len() / 2),
    }
}

fn run(target: fn(&[u8]), seeds: &[&[u8]]) {
    for seed in seeds {
        target(seed);
    }
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let mut bytes = seeds[random.below(seeds.len())].to_vec();
        for _ in 0..=random.below(4) {
            mutate(&mut random, &mut bytes);
        }
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(
            outcome.is_ok(),
            "mutant {round} panics the target: {}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn no_mutant_of_a_safetensors_file_breaks_its_reader() {
    let small = b"\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[0,4]}}        1234";
    run(
        fuzzing::fuzz_safetensors,
        &[
            include_bytes!("fixtures/torch_bin/state_dict.safetensors"),
            small,
        ],
    );
}

#[test]
fn no_mutant_of_a_torch_file_breaks_its_reader() {
    run(
        fuzzing::fuzz_torch_bin,
        &[
            include_bytes!("fixtures/torch_bin/protocol4.bin"),
            include_bytes!("fixtures/torch_bin/state_dict.bin"),
            include_bytes!("fixtures/torch_bin/expanded.bin"),
            include_bytes!("fixtures/torch_bin/checkpoint.bin"),
            include_bytes!("fixtures/torch_bin/legacy.bin"),
        ],
    );
}

#[test]
fn no_mutant_of_a_shard_index_breaks_its_reader() {
    let index = br#"{"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.bin"}}"#;
    run(fuzzing::fuzz_shard_index, &[index]);
}

#[test]
fn no_mutant_of_an_adapter_config_breaks_its_reader() {
    run(
        fuzzing::fuzz_adapter_config,
        &[
            include_bytes!("fixtures/adapter_config/default.json"),
            include_bytes!("fixtures/adapter_config/full.json"),
        ],
    );
}

#[test]
fn no_mutant_of_a_config_breaks_its_reader() {
    let config = br#"{"model_type": "bloom", "n_embed": 64, "layer_norm_epsilon": 1e-05, "eos_token_id": [1, 2], "dtype": "bfloat16", "rope_parameters": {"rope_theta": 10000.0, "x": [NaN, null]}}"#;
    run(fuzzing::fuzz_hf_config, &[config]);
}

#[test]
fn no_mutant_of_a_trainer_state_breaks_its_reader() {
    run(
        fuzzing::fuzz_trainer_state,
        &[
            include_bytes!("fixtures/trainer_state/default.json"),
            include_bytes!("fixtures/trainer_state/full.json"),
        ],
    );
}

#[test]
fn no_mutant_of_python_json_breaks_its_reader() {
    run(
        fuzzing::fuzz_pyjson,
        &[include_bytes!("fixtures/pyjson/texts.json")],
    );
}
