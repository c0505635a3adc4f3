//! The fuzz targets under a deterministic mutator: stable and offline. `cargo fuzz` calls the same functions.

use std::time::Duration;

use lowrank_formats::fuzzing;
use testkit::Mutation;

/// Mutants a target, where no seconds are asked for.
const ROUNDS: u64 = 200_000;

/// Counts what each mutant allocates.
#[global_allocator]
static ALLOCATED: testkit::PeakAlloc = testkit::PeakAlloc;

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

fn run(name: &str, target: fn(&[u8]), seeds: &[&[u8]]) {
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    let mutation = Mutation {
        name,
        seeds: &seeds,
        pieces: &PIECES,
        rounds: ROUNDS,
        limit: Duration::from_secs(10),
    };
    mutation.run(target);
}

#[test]
fn no_mutant_of_a_safetensors_file_breaks_its_reader() {
    let small = b"\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[0,4]}}        1234";
    run(
        "1, safetensors",
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
        "torch files",
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
    run("2, shard index", fuzzing::fuzz_shard_index, &[index]);
}

#[test]
fn no_mutant_of_an_adapter_config_breaks_its_reader() {
    run(
        "4, adapter_config.json",
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
    run("config.json", fuzzing::fuzz_hf_config, &[config]);
}

#[test]
fn no_mutant_of_a_trainer_state_breaks_its_reader() {
    run(
        "trainer_state.json",
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
        "5, Python's JSON",
        fuzzing::fuzz_pyjson,
        &[include_bytes!("fixtures/pyjson/texts.json")],
    );
}
