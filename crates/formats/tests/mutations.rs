//! The fuzz targets under a deterministic mutator: stable and offline. `cargo fuzz` calls the same functions.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::types::Int8Type;
use arrow_array::{ArrayRef, DictionaryArray, RecordBatch};
use lowrank_formats::{fuzzing, rows};
use testkit::Mutation;

#[path = "support/arrow_batches.rs"]
mod arrow_batches;

use arrow_batches::{every_type, stream, text_batch};

/// Longer than any mutant takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

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

fn run(name: &str, corpus: &str, target: fn(&[u8]), seeds: &[&[u8]]) {
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    let mutation = Mutation {
        name,
        corpus,
        seeds: &seeds,
        pieces: &PIECES,
        rounds: ROUNDS,
        limit: LIMIT,
    };
    mutation.run(target);
}

#[test]
fn no_mutant_of_a_safetensors_file_breaks_its_reader() {
    let small = b"\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[0,4]}}        1234";
    run(
        "1, safetensors",
        "safetensors",
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
        "torch_bin",
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
    run(
        "2, shard index",
        "shard_index",
        fuzzing::fuzz_shard_index,
        &[index],
    );
}

#[test]
fn no_mutant_of_an_adapter_config_breaks_its_reader() {
    run(
        "4, adapter_config.json",
        "adapter_config",
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
    run(
        "config.json",
        "hf_config",
        fuzzing::fuzz_hf_config,
        &[config],
    );
}

#[test]
fn no_mutant_of_a_trainer_state_breaks_its_reader() {
    run(
        "trainer_state.json",
        "trainer_state",
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
        "pyjson",
        fuzzing::fuzz_pyjson,
        &[include_bytes!("fixtures/pyjson/texts.json")],
    );
}

/// Every type, batches that follow each other, and a dictionary that is given anew.
fn arrow_seeds() -> [Vec<u8>; 3] {
    let kinds = |words: [&str; 3]| {
        let words: DictionaryArray<Int8Type> = words.into_iter().collect();
        let column: ArrayRef = Arc::new(words);
        RecordBatch::try_from_iter([("kind", column)]).expect("one column")
    };
    [
        stream(&[every_type(), every_type().slice(1, 2)]),
        stream(&[text_batch(&[Some("a"), None]), text_batch(&[Some("b")])]),
        stream(&[kinds(["a", "b", "a"]), kinds(["b", "c", "c"])]),
    ]
}

#[test]
fn mutated_streams_are_refused_or_read_as_upstream_reads_them() {
    let seeds = arrow_seeds();
    let pieces: [&[u8]; 8] = [
        &[0xff; 4],
        &[0; 8],
        &[0xff; 8],
        &[0, 0, 0, 0x80],
        &[1, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 1, 0, 0, 0],
        &[16, 0, 0, 0, 8, 0],
        b"\xff\xff\xff\x7f",
    ];
    let mutation = Mutation {
        name: "9, Arrow streams",
        corpus: "arrow",
        seeds: &seeds,
        pieces: &pieces,
        rounds: 60_000,
        limit: LIMIT,
    };
    mutation.run(rows::fuzzing::fuzz_arrow);
}

#[test]
fn mutated_text_files_are_refused_or_read_as_upstream_reads_them() {
    let seeds = [
        "[{\"a\": \"x\\u0000é😀\", \"b\": [1, -2.5e3, null, true], \"c\": {\"d\": {}}}, {\"b\": []}]".as_bytes().to_vec(),
        b"{\"a\": \"x\"}\r\n\n{\"a\": null, \"b\": 1}\n".to_vec(),
        b"a,b\n1,\"x, \"\"y\"\"\"\n\n,\"two\nlines\"\r\n".to_vec(),
    ];
    let pieces: [&[u8]; 16] = [
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
        b"\\ud83d\\ude00",
        b"\\u0000",
        b"\n",
        b"\xef\xbb\xbf",
        b"[[[[[[[[",
        b"{\"a\":1},",
    ];
    let mutation = |name, corpus| Mutation {
        name,
        corpus,
        seeds: &seeds,
        pieces: &pieces,
        rounds: 60_000,
        limit: LIMIT,
    };
    mutation("10, JSON rows", "json_rows").run(rows::fuzzing::fuzz_json_rows);
    mutation("CSV rows", "csv_rows").run(rows::fuzzing::fuzz_csv_rows);
}
