//! What refusing (or reading) a hostile file costs: at most twice its size and 64 MiB.
//!
//! One test in a process of its own, since it watches the peak of the whole process.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

use std::path::Path;

use arrow_schema::DataType;
use durable::Mapped;
use lowrank_formats::Rows;
use lowrank_formats::adapter_config::AdapterConfig;
use lowrank_formats::hf_config::HfConfig;
use lowrank_formats::safetensors::Header;
use lowrank_formats::torch_bin::TorchFile;
use lowrank_formats::trainer_state::TrainerState;

#[path = "support/arrow_messages.rs"]
mod arrow_messages;
#[path = "support/many_rows.rs"]
mod many_rows;

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse::<usize>()
        .ok()
        .map(|size| size << 10)
}

/// Says to a child of this test which case it is to read.
const CASE: &str = "LOWRANK_MEMORY_CASE";

/// Reads the file of a case and prints what that took at its peak: in a fresh process, whose allocator holds
/// no freed memory that would hide it.
fn child(case: &str) {
    let (index, path) = case
        .split_once(' ')
        .expect("the parent gave an index and a path");
    let index: usize = index.parse().expect("an index");
    let before = status("VmRSS").expect("the parent could ask");
    let (_, read) = KINDS[index];
    read(Path::new(path));
    let peak = status("VmHWM").expect("the parent could ask");
    println!("used={}", peak.saturating_sub(before));
}

/// Bytes that a child took to read `bytes`.
fn used(kind: usize, bytes: &[u8]) -> usize {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("case").with_extension(KINDS[kind].0);
    std::fs::write(&file, bytes).expect("written");
    let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
    command.args([
        "--exact",
        "no_file_costs_more_than_twice_its_size_and_64_mib",
        "--nocapture",
    ]);
    command.env(CASE, format!("{kind} {}", file.display()));
    let output = command.output().expect("this program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let used = text
        .split("used=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    used.and_then(|used| used.parse().ok())
        .unwrap_or_else(|| panic!("the child died: {output:?}"))
}

fn filled(total: usize, start: &str, piece: &str, end: &str) -> Vec<u8> {
    let count = total.saturating_sub(start.len() + end.len()) / piece.len();
    [start, &piece.repeat(count), end].concat().into_bytes()
}

fn numbered(total: usize, start: &str, rest: &str, end: &str) -> Vec<u8> {
    let mut text = start.to_owned();
    for i in 0.. {
        if text.len() + rest.len() + end.len() + 16 > total {
            break;
        }
        text.push_str(&format!("{}\"{i:x}\"{rest}", if i == 0 { "" } else { "," }));
    }
    text.push_str(end);
    text.into_bytes()
}

fn with_header(header: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header].concat()
}

/// A stored zip with one entry.
fn zip_of(pickle: &[u8]) -> Vec<u8> {
    let (name, size) = (b"m/data.pkl", (pickle.len() as u32).to_le_bytes());
    let mut file = b"PK\x03\x04".to_vec();
    file.extend([0; 22]);
    file.extend([name.len() as u8, 0, 0, 0]);
    file.extend(name);
    file.extend(pickle);
    let start = file.len() as u32;
    file.extend(b"PK\x01\x02");
    file.extend([0; 16]);
    file.extend([size, size].concat());
    file.extend([name.len() as u8, 0]);
    file.extend([0; 16]);
    file.extend(name);
    let length = file.len() as u32 - start;
    file.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    file.extend([length.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0; 2]);
    file
}

type Read = fn(&Path);

const CONFIG: usize = 0;
const ADAPTER: usize = 1;
const SAFETENSORS: usize = 2;
const TORCH: usize = 3;
const STATE: usize = 4;
const INDEX: usize = 5;
const ARROW: usize = 6;
const LINES: usize = 7;
const CSV: usize = 8;
/// What the file's name ends in, and its reader.
const KINDS: [(&str, Read); 9] = [
    ("config", read_config),
    ("adapter", read_adapter),
    ("safetensors", read_safetensors),
    ("torch", read_torch),
    ("state", read_state),
    ("index", read_index),
    ("arrow", read_rows),
    ("jsonl", read_rows),
    ("csv", read_rows),
];

fn bytes_of(path: &Path) -> Vec<u8> {
    durable::read_capped(path, 1 << 30).expect("the parent wrote it")
}

fn read_config(path: &Path) {
    drop(HfConfig::open_file(path));
}

fn read_adapter(path: &Path) {
    drop(AdapterConfig::parse(&bytes_of(path), path));
}

fn read_safetensors(path: &Path) {
    drop(Header::parse(&bytes_of(path)));
}

fn read_torch(path: &Path) {
    drop(TorchFile::parse(&Mapped::from_vec(bytes_of(path))));
}

fn read_state(path: &Path) {
    drop(TrainerState::parse(&bytes_of(path), path));
}

fn read_index(path: &Path) {
    lowrank_formats::fuzzing::fuzz_shard_index(&bytes_of(path));
}

/// The last row too, since a row costs what its values cost.
fn read_rows(path: &Path) {
    if let Ok(rows) = Rows::open(path, None) {
        drop(rows.row(rows.len().saturating_sub(1)));
    }
}

/// Name, reader and file. Built one at a time: together they are large.
fn text_case(index: usize) -> Option<(&'static str, usize, Vec<u8>)> {
    const SMALL: usize = 4 << 20;
    let log = "{\"log_history\":[{}";
    let index_start = "{\"weight_map\":{";
    let case = match index {
        0 => (
            "many numbers",
            CONFIG,
            filled(SMALL, "{\"a\":[0", ",0", "]}"),
        ),
        1 => (
            "many lists",
            CONFIG,
            filled(SMALL, "{\"a\":[[]", ",[]", "]}"),
        ),
        2 => (
            "many objects",
            CONFIG,
            filled(SMALL, "{\"a\":[{}", ",{}", "]}"),
        ),
        3 => (
            "many filled objects",
            CONFIG,
            filled(SMALL, "{\"a\":[{}", ",{\"\":0}", "]}"),
        ),
        4 => (
            "200,000 filled objects",
            CONFIG,
            filled(800_000, "{\"a\":[{}", ",{\"\":0}", "]}"),
        ),
        5 => ("many keys", CONFIG, numbered(SMALL, "{", ":0", "}")),
        6 => ("200,000 keys", CONFIG, numbered(1_500_000, "{", ":0", "}")),
        7 => {
            let start = "{\"peft_type\":\"LORA\",\"z\":1,";
            (
                "many unknown keys",
                ADAPTER,
                numbered(1_500_000, start, ":{}", "}"),
            )
        }
        8 => (
            "a long string",
            CONFIG,
            filled(SMALL, "{\"a\":\"", "\\u00e9", "\"}"),
        ),
        9 => (
            "many log entries",
            STATE,
            filled(32 << 20, log, ",{\"a\":0}", "]}"),
        ),
        10 => (
            "many empty log entries",
            STATE,
            filled(32 << 20, log, ",{}", "]}"),
        ),
        11 => (
            "many shards",
            INDEX,
            numbered(16 << 20, index_start, ":\"a\"", "}}"),
        ),
        12 => {
            let entry = "{\"epoch\": 0.08, \"grad_norm\": 1.3996704816818237, \"learning_rate\": 4.64e-05, \
                         \"loss\": 3.2596, \"step\": 10}";
            let start = format!("{{\"log_history\":[{entry}");
            (
                "a long log",
                STATE,
                filled(48 << 20, &start, &format!(",{entry}"), "]}"),
            )
        }
        13 => (
            "a wide log entry",
            STATE,
            numbered(1 << 20, "{\"log_history\":[{", ":0", "}]}"),
        ),
        _ => return None,
    };
    Some(case)
}

/// As [`text_case`].
fn weights_case(index: usize) -> Option<(&'static str, usize, Vec<u8>)> {
    const PICKLE: usize = 15 << 20;
    let tensor = r#":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let case = match index {
        0 => (
            "many tensors",
            SAFETENSORS,
            with_header(&numbered(60 << 20, "{", tensor, "}")),
        ),
        1 => {
            let header = numbered(20 << 20, "{\"__metadata__\":{", ":\"\"", "}}");
            ("much metadata", SAFETENSORS, with_header(&header))
        }
        2 => {
            let header = filled(20 << 20, "{\"a\":{\"shape\":[0", ",0", "]}}");
            ("many sides", SAFETENSORS, with_header(&header))
        }
        3 => ("many dicts", TORCH, zip_of(&b"}".repeat(PICKLE))),
        4 => {
            let pickle = [b"]q\0(".as_slice(), &b"h\0".repeat(PICKLE / 2), b"e."].concat();
            ("many appended", TORCH, zip_of(&pickle))
        }
        5 => {
            let pickle = [b"}q\0(".as_slice(), &b"h\0".repeat(PICKLE / 2), b"u."].concat();
            ("many items", TORCH, zip_of(&pickle))
        }
        6 => {
            let pickle = [b")q\0".as_slice(), &b"(h\0t".repeat(PICKLE / 4)].concat();
            ("many tuples", TORCH, zip_of(&pickle))
        }
        7 => ("many marks", TORCH, zip_of(&b"(".repeat(PICKLE))),
        8 => (
            "many memos",
            TORCH,
            zip_of(&[b"N".as_slice(), &b"\x94".repeat(PICKLE)].concat()),
        ),
        _ => return None,
    };
    Some(case)
}

/// As [`text_case`].
fn rows_case(index: usize) -> Option<(&'static str, usize, Vec<u8>)> {
    let case = match index {
        0 => (
            "a dictionary added to between batches",
            ARROW,
            many_rows::additions(5 << 20),
        ),
        1 => (
            "batches of many columns of nulls",
            ARROW,
            many_rows::empty_columns(48 << 20, DataType::Null),
        ),
        2 => (
            "batches of many columns of nothing",
            ARROW,
            many_rows::empty_columns(48 << 20, DataType::Int8),
        ),
        3 => ("many lines", LINES, "{}\n".repeat(16 << 20).into_bytes()),
        4 => ("many lines", CSV, "a\n".repeat(24 << 20).into_bytes()),
        5 => {
            let line = |at: usize| format!("{{\"{at:x}\":0}}\n");
            let lines: String = (0..1 << 20).map(line).collect();
            ("many columns", LINES, lines.into_bytes())
        }
        _ => return None,
    };
    Some(case)
}

#[test]
fn no_file_costs_more_than_twice_its_size_and_64_mib() {
    if let Ok(case) = std::env::var(CASE) {
        child(&case);
        return;
    }
    if status("VmHWM").is_none() {
        println!("skipped: this system does not say the peak memory of a process");
        return;
    }
    let mut over = Vec::new();
    for (name, kind, bytes) in (0..)
        .map_while(text_case)
        .chain((0..).map_while(weights_case))
        .chain((0..).map_while(rows_case))
    {
        let (size, used) = (bytes.len(), used(kind, &bytes));
        let line = format!("{} of {name}: {size} bytes, {used} used", KINDS[kind].0);
        println!("{line}");
        if used > 2 * size + (64 << 20) {
            over.push(line);
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}
