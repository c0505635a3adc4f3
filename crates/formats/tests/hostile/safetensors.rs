//! Row 44: safetensors files made by hand.

use std::collections::BTreeSet;

use lowrank_formats::weights::WeightStore;
use tempfile::TempDir;
use testkit::Hostile;

use crate::{shortened, told_of};

fn file(header: &str, data: usize) -> Vec<u8> {
    with_length(header.len() as u64, header.as_bytes(), data)
}

fn with_length(length: u64, header: &[u8], data: usize) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend((0..data).map(|at| at as u8));
    bytes
}

fn entry(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}"#)
}

/// One tensor `a` with these three values and four bytes of data.
fn one(dtype: &str, shape: &str, offsets: &str) -> Vec<u8> {
    file(&format!("{{\"a\":{}}}", entry(dtype, shape, offsets)), 4)
}

/// One tensor `a` whose entry is this text.
fn raw(entry: &str) -> Vec<u8> {
    file(&format!("{{\"a\":{entry}}}"), 4)
}

/// Two tensors of four bytes each.
fn two(first: &str, second: &str, data: usize) -> Vec<u8> {
    let (a, b) = (
        entry("\"U8\"", "[4]", first),
        entry("\"U8\"", "[4]", second),
    );
    file(&format!("{{\"a\":{a},\"b\":{b}}}"), data)
}

fn named(name: &str) -> Vec<u8> {
    file(
        &format!("{{\"{name}\":{}}}", entry("\"U8\"", "[0]", "[0,0]")),
        0,
    )
}

fn many_tensors(count: usize) -> Vec<u8> {
    let empty = entry("\"U8\"", "[0]", "[0,0]");
    let entries: Vec<String> = (0..count).map(|at| format!("\"{at:x}\":{empty}")).collect();
    file(&format!("{{{}}}", entries.join(",")), 0)
}

fn much_metadata(count: usize) -> Vec<u8> {
    let entries: Vec<String> = (0..count).map(|at| format!("\"{at:x}\":\"\"")).collect();
    file(
        &format!("{{\"__metadata__\":{{{}}}}}", entries.join(",")),
        0,
    )
}

fn headers() -> Vec<(&'static str, Vec<u8>)> {
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n";
    vec![
        ("an empty file", vec![]),
        ("seven bytes", b"1234567".to_vec()),
        ("a git-lfs pointer", lfs.to_vec()),
        ("a header of no bytes", with_length(0, b"", 4)),
        (
            "a header one byte longer than the file",
            with_length(3, b"{}", 0),
        ),
        (
            "a header as long as the limit in a short file",
            with_length(100_000_000, b"{}", 0),
        ),
        (
            "a header above the limit",
            with_length(100_000_001, b"{}", 0),
        ),
        ("a header of 2^63 bytes", with_length(1 << 63, b"{}", 0)),
        ("a header of 2^64-1 bytes", with_length(u64::MAX, b"{}", 0)),
        ("a header that starts with a space", file(" {}", 0)),
        ("a header that is a list", file("[[]]", 0)),
        (
            "a name that is not utf-8",
            with_length(8, b"{\"\xff\":1}\x20", 0),
        ),
        (
            "a character cut at the end",
            with_length(5, b"{\"a\xe6\x9c", 0),
        ),
        ("a header that breaks off", file("{\"a\"", 0)),
        ("text after the header", file("{} x", 0)),
        ("a comma at the end", file("{\"__metadata__\":{},}", 0)),
        ("no quotes", file("{a:1}", 0)),
        (
            "a depth of 10,000 lists",
            file(&format!("{{\"a\":{{\"shape\":{}", "[".repeat(10_000)), 0),
        ),
        (
            "a depth of 10,000 objects",
            file(&"{\"a\":".repeat(10_000), 0),
        ),
        (
            "a depth of 10,000 in metadata",
            file(
                &format!("{{\"__metadata__\":{}", "{\"k\":".repeat(10_000)),
                0,
            ),
        ),
        ("metadata that is a number", file("{\"__metadata__\":1}", 0)),
        (
            "metadata that holds a number",
            file("{\"__metadata__\":{\"epoch\":1}}", 0),
        ),
        (
            "metadata that repeats a key",
            file("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0),
        ),
        (
            "metadata twice",
            file("{\"__metadata__\":{},\"__metadata__\":{}}", 0),
        ),
        ("10,001 entries of metadata", much_metadata(10_001)),
        ("1,000,001 tensors", many_tensors(1_000_001)),
        ("a name of no characters", named("")),
        ("a name of 4,097 bytes", named(&"n".repeat(4_097))),
        ("a name with NUL", named("w\\u0000")),
        ("a name with a line break", named("w\\n\\u001b[2J")),
        ("a lone surrogate in a name", named("\\ud800")),
    ]
}

fn tensors() -> Vec<(&'static str, Vec<u8>)> {
    let twice = entry("\"U8\"", "[4]", "[0,4]");
    vec![
        (
            "a tensor twice",
            file(&format!("{{\"t\":{twice},\"t\":{twice}}}"), 4),
        ),
        (
            "a key of a tensor twice",
            raw(r#"{"dtype":"U8","shape":[4],"dtype":"I8","data_offsets":[0,4]}"#),
        ),
        (
            "an unknown key",
            raw(r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4],"strides":[1]}"#),
        ),
        ("no dtype", raw(r#"{"shape":[4],"data_offsets":[0,4]}"#)),
        ("no shape", raw(r#"{"dtype":"U8","data_offsets":[0,4]}"#)),
        ("no offsets", raw(r#"{"dtype":"U8","shape":[4]}"#)),
        ("a tensor that is a list", raw("[1,2,3]")),
        ("a dtype that is a number", one("7", "[4]", "[0,4]")),
        ("an unknown dtype", one("\"F99\"", "[4]", "[0,4]")),
        ("a dtype below a byte", one("\"F4\"", "[8]", "[0,4]")),
        (
            "a dtype of a quarter byte",
            one("\"F6_E2M3\"", "[4]", "[0,3]"),
        ),
        ("a negative side", one("\"U8\"", "[-4]", "[0,4]")),
        ("a side that is a float", one("\"U8\"", "[4.0]", "[0,4]")),
        (
            "a side of 2^64",
            one("\"U8\"", "[18446744073709551616]", "[0,4]"),
        ),
        ("a shape that is a number", one("\"U8\"", "4", "[0,4]")),
        (
            "17 sides",
            one("\"U8\"", &format!("[4{}]", ",1".repeat(16)), "[0,4]"),
        ),
        (
            "sides whose product overflows",
            one("\"U8\"", "[4294967296,4294967296]", "[0,4]"),
        ),
        (
            "a size that overflows by its dtype",
            one("\"F64\"", "[4611686018427387904]", "[0,4]"),
        ),
        ("offsets that run backwards", one("\"U8\"", "[4]", "[4,0]")),
        ("one offset", one("\"U8\"", "[4]", "[0]")),
        ("three offsets", one("\"U8\"", "[4]", "[0,4,8]")),
        ("an offset below zero", one("\"U8\"", "[4]", "[-4,0]")),
        (
            "fewer bytes than the shape needs",
            one("\"F32\"", "[2]", "[0,4]"),
        ),
        (
            "a scalar of four bytes for a list of none",
            one("\"F32\"", "[0]", "[0,4]"),
        ),
        ("tensors that overlap", two("[0,4]", "[3,7]", 7)),
        ("tensors over the same bytes", two("[0,4]", "[0,4]", 4)),
        ("a hole at the start", two("[4,8]", "[8,12]", 12)),
        ("a hole in the middle", two("[0,4]", "[6,10]", 10)),
        ("a tail", two("[0,4]", "[4,8]", 9)),
        ("data that was cut", two("[0,4]", "[4,8]", 7)),
        (
            "offsets far outside",
            two("[0,4]", "[18446744073709551611,18446744073709551615]", 8),
        ),
    ]
}

#[test]
fn row_44_each_safetensors_fault_has_its_own_error() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let mut row = Hostile::new("row 44, safetensors");
    let mut errors = BTreeSet::new();
    for (name, bytes) in headers().into_iter().chain(tensors()) {
        std::fs::write(&path, &bytes).expect("a temporary folder can be written");
        row.refused(name, bytes.len(), || {
            let opened = WeightStore::open_file(&path);
            opened.map_err(|error| {
                errors.insert(error.to_string());
                told_of(&error, folder.path())
            })
        });
    }
    assert!(errors.len() >= 55, "{} different errors", errors.len());
    insta::assert_snapshot!(shortened(&row.finish(40)));
}
