//! Arrow streams made here by the `arrow-ipc` writer: every type, and every kind of damage.

#![allow(clippy::disallowed_methods, reason = "tests make their own files")]

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{ArrayRef, DictionaryArray, Int64Array, NullArray, RecordBatch, StringViewArray};
use arrow_ipc::writer::{DictionaryHandling, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Rows, RowsError};

#[path = "../../tests/support/arrow_batches.rs"]
mod arrow_batches;

use arrow_batches::{every_type, stream, text_batch};

/// A folder as `save_to_disk` writes it, of the given shards.
fn save_to_disk(folder: &TempDir, shards: &[Vec<u8>]) -> PathBuf {
    let path = folder.path().join("set");
    std::fs::create_dir_all(&path).expect("a temporary folder can be written");
    let names: Vec<_> = (0..shards.len())
        .map(|at| format!("data-{at:05}-of-{:05}.arrow", shards.len()))
        .collect();
    for (name, bytes) in names.iter().zip(shards) {
        std::fs::write(path.join(name), bytes).expect("a temporary folder can be written");
    }
    let files: Vec<_> = names.iter().map(|name| json!({"filename": name})).collect();
    std::fs::write(
        path.join("state.json"),
        json!({"_data_files": files, "_split": "train"}).to_string(),
    )
    .expect("a temporary folder can be written");
    path
}

fn read(shards: &[Vec<u8>]) -> Result<Vec<Value>, RowsError> {
    let folder = TempDir::new().expect("a temporary folder");
    let rows = Rows::open(save_to_disk(&folder, shards), None)?;
    (0..rows.len())
        .map(|index| rows.row(index).map(Value::Object))
        .collect()
}

#[test]
fn every_type_comes_as_its_json_value() {
    let want = [
        json!({"text": "a", "large": "", "view": "short", "int64": i64::MIN, "uint64": u64::MAX, "half": 1.5, "float": 0.5,
            "double": 0.1, "flag": true, "nothing": null, "words": ["一", null, "drei"], "pairs": [1, -2],
            "struct": {"n": -300, "name": "x"}, "kind": "cat"}),
        json!({"text": null, "large": "b", "view": null, "int64": 0, "uint64": 1, "half": -2.0, "float": f64::from(1e30f32),
            "double": null, "flag": null, "nothing": null, "words": null, "pairs": null,
            "struct": {"n": null, "name": "y"}, "kind": null}),
        json!({"text": "é\n", "large": "长", "view": "longer than twelve bytes, 中文", "int64": i64::MAX, "uint64": 2,
            "half": null, "float": null, "double": -0.25, "flag": false, "nothing": null, "words": [],
            "pairs": [-128, 127], "struct": null, "kind": "dog"}),
    ];
    let folder = TempDir::new().expect("a temporary folder");
    // A sliced batch is written with offsets that do not start at zero.
    let batch = every_type();
    let rows = Rows::open(
        save_to_disk(&folder, &[stream(&[batch.clone(), batch.slice(1, 2)])]),
        None,
    );
    let rows = rows.unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<_> = (0..rows.len())
        .map(|index| {
            rows.row(index)
                .map(Value::Object)
                .map_err(|e| e.to_string())
        })
        .collect();
    let all = [&want[..], &want[1..]].concat();
    assert_eq!(found, all.into_iter().map(Ok).collect::<Vec<_>>());
    let unreadable = rows.unreadable_columns();
    assert_eq!(
        unreadable,
        [
            ("image".to_owned(), "Binary".to_owned()),
            ("day".to_owned(), "Date32".to_owned())
        ]
    );
}

#[test]
fn shards_follow_each_other_and_empty_batches_hold_no_row() {
    let one = stream(&[
        text_batch(&[Some("a")]),
        text_batch(&[]),
        text_batch(&[Some("b"), Some("c")]),
    ]);
    let (none, two) = (
        stream(&[text_batch(&[])]),
        stream(&[text_batch(&[Some("d")])]),
    );
    let folder = TempDir::new().expect("a temporary folder");
    let rows =
        Rows::open(save_to_disk(&folder, &[one, none, two]), Some("train")).expect("three shards");
    let texts: Vec<_> = (0..rows.len())
        .map(|at| rows.row(at).expect("a row")["text"].clone())
        .collect();
    assert_eq!(texts, ["a", "b", "c", "d"]);
    assert_eq!(rows.place(3), "row 0 of data-00002-of-00003.arrow");
    assert!(matches!(
        rows.row(4),
        Err(RowsError::NoRow { index: 4, len: 4 })
    ));
}

#[test]
fn fingerprint_changes_with_content_and_order_only() {
    let (one, two) = (
        stream(&[text_batch(&[Some("a")])]),
        stream(&[text_batch(&[Some("b")])]),
    );
    let print = |shards: &[Vec<u8>]| {
        let folder = TempDir::new().expect("a temporary folder");
        Rows::open(save_to_disk(&folder, shards), None)
            .expect("shards")
            .fingerprint()
            .to_owned()
    };
    let first = print(&[one.clone(), two.clone()]);
    assert_eq!(first, print(&[one.clone(), two.clone()]));
    assert_ne!(first, print(&[two, one.clone()]));
    assert_ne!(first, print(&[one.clone(), one]));
}

#[test]
fn a_dictionary_that_grows_or_changes_keeps_earlier_rows() {
    let batch = |words: &[&str]| {
        let column: ArrayRef =
            Arc::new(words.iter().copied().collect::<DictionaryArray<Int8Type>>());
        RecordBatch::try_from_iter_with_nullable([("kind", column, true)]).expect("one column")
    };
    let found =
        read(&[stream(&[batch(&["a", "b"]), batch(&["b", "c", "c"])])]).expect("two dictionaries");
    assert_eq!(
        found
            .iter()
            .map(|row| row["kind"].as_str())
            .collect::<Vec<_>>(),
        ["a", "b", "b", "c", "c"].map(Some)
    );
}

#[test]
fn what_a_dictionary_is_given_later_belongs_to_later_batches() {
    let batch = |words: &[&str]| {
        let column: ArrayRef =
            Arc::new(words.iter().copied().collect::<DictionaryArray<Int8Type>>());
        RecordBatch::try_from_iter([("kind", column)]).expect("one column")
    };
    let batches = [
        batch(&["a"]),
        batch(&["a", "b", "c"]),
        batch(&["a", "b", "c", "d", "c"]),
        batch(&["x"]),
        batch(&["x", "y"]),
    ];
    let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options)
        .expect("a schema writes");
    for batch in &batches {
        writer.write(batch).expect("a batch writes");
    }
    let file = writer.into_inner().expect("its bytes");
    let found = read(&[file]).expect("additions and a new dictionary");
    let found: Vec<_> = found.iter().map(|row| row["kind"].as_str()).collect();
    let want = "a abc abcdc x xy".replace(' ', "");
    let want: Vec<_> = want
        .split("")
        .filter(|word| !word.is_empty())
        .map(Some)
        .collect();
    assert_eq!(found, want);
}

/// What is said of a shard, without the folder.
fn said(bytes: Vec<u8>) -> String {
    let folder = TempDir::new().expect("a temporary folder");
    let path = save_to_disk(&folder, &[bytes]);
    let rows = match Rows::open(&path, None) {
        Ok(rows) => rows,
        Err(error) => {
            return error
                .to_string()
                .replace(&format!("{}/", path.display()), "");
        }
    };
    let bad = (0..rows.len()).find_map(|index| rows.row(index).err());
    bad.map_or("accepted".into(), |error| {
        error
            .to_string()
            .replace(&format!("{}/", path.display()), "")
    })
}

/// Puts a 32- or 64-bit number where `old` stands for the first time.
fn swap<const N: usize>(bytes: &[u8], old: [u8; N], new: [u8; N]) -> Vec<u8> {
    let at = bytes
        .windows(N)
        .position(|window| window == old)
        .expect("the number is there");
    let mut bytes = bytes.to_vec();
    bytes[at..at + N].copy_from_slice(&new);
    bytes
}

#[test]
fn damaged_streams_are_refused_with_their_byte() {
    let good = stream(&[text_batch(&[
        Some("hello"),
        None,
        Some("world, this is text"),
    ])]);
    let second = (4 + u32::from_le_bytes([good[4], good[5], good[6], good[7]])) as usize + 4;
    let patched = |at: usize, word: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        bytes
    };
    let mut trailing = good.clone();
    trailing.extend(b"more");
    let mut utf8 = good.clone();
    let hello = utf8
        .windows(5)
        .position(|window| window == b"hello")
        .expect("the text is there");
    utf8[hello + 1] = 0xff;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("random-access", b"ARROW1\0\0".to_vec()),
        ("parquet", b"PAR1".to_vec()),
        (
            "text",
            b"these are not the bytes you are looking for".to_vec(),
        ),
        ("no schema", good[second..].to_vec()),
        ("end at once", [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0].to_vec()),
        ("cut in a length", good[..6].to_vec()),
        ("cut in the schema", good[..100].to_vec()),
        ("cut in the body", good[..good.len() - 24].to_vec()),
        ("metadata too long", patched(second + 4, 0x7fff_fff0)),
        ("metadata negative", patched(second + 4, 0x8000_0000)),
        ("root out of range", patched(second + 8, 0x00ff_ffff)),
        (
            "buffer offset negative",
            swap(&good[..], 64i64.to_le_bytes(), (-1i64).to_le_bytes()),
        ),
        (
            "body length negative",
            swap(&good, 192i64.to_le_bytes(), (-1i64).to_le_bytes()),
        ),
        (
            "body length huge",
            swap(&good, 192i64.to_le_bytes(), (1i64 << 60).to_le_bytes()),
        ),
        ("bytes after the end", trailing),
        ("not UTF-8", utf8),
        (
            "offsets out of order",
            swap(&good, [5, 0, 0, 0, 5, 0, 0, 0], [5, 0, 0, 0, 4, 0, 0, 0]),
        ),
        (
            "offsets too large",
            swap(&good, [5, 0, 0, 0, 5, 0, 0, 0], [5, 0, 0, 0, 5, 0, 0, 9]),
        ),
    ];
    let lines: String = cases
        .into_iter()
        .map(|(name, bytes)| format!("{name}\n    {}\n", said(bytes)))
        .collect();
    insta::assert_snapshot!(lines);
}

#[test]
fn a_dictionary_of_other_length_than_its_message_says_is_refused() {
    // Thirteen is the length of nothing else.
    let words: Vec<String> = (10..23).map(|number| number.to_string()).collect();
    let words: DictionaryArray<Int8Type> = words.iter().map(String::as_str).collect();
    let column: ArrayRef = Arc::new(words.slice(0, 2));
    let good = stream(&[RecordBatch::try_from_iter([("kind", column)]).expect("one column")]);
    assert_eq!(said(good.clone()), "accepted");
    let thirteen = 13i64.to_le_bytes();
    let windows = good.windows(8).enumerate();
    let places: Vec<usize> = windows
        .filter(|(_, window)| *window == thirteen)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(places.len(), 2, "of the message and of its column");
    for at in places {
        let mut bytes = good.clone();
        bytes[at] -= 1;
        let said = said(bytes);
        assert!(said.contains("dictionary 0 claims"), "{said}");
    }
}

#[test]
fn a_view_that_contradicts_its_text_is_refused() {
    let column: ArrayRef = Arc::new(StringViewArray::from(vec![
        "short",
        "longer than twelve bytes",
    ]));
    let batch = RecordBatch::try_from_iter([("text", column)]).expect("one column");
    let good = stream(&[batch]);
    assert_eq!(said(good.clone()), "accepted");
    let after = said(swap(&good, *b"short\0", *b"short!"));
    assert!(after.contains("bytes follow a short text"), "{after}");
    let prefix = said(swap(&good, *b"long", *b"Long"));
    assert!(
        prefix.contains("begins otherwise than its view says"),
        "{prefix}"
    );
}

#[test]
fn a_stream_cut_anywhere_is_refused_or_whole_batches() {
    let good = stream(&[text_batch(&[Some("a")]), text_batch(&[Some("b"), None])]);
    for cut in 0..good.len() {
        if let Ok(rows) = read(&[good[..cut].to_vec()]) {
            assert!([0, 1, 3].contains(&rows.len()), "{cut}: {rows:?}");
        }
    }
}

#[test]
fn shards_of_other_columns_are_refused() {
    let other: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let other = RecordBatch::try_from_iter([("text", other)]).expect("one column");
    let error = read(&[stream(&[text_batch(&[Some("a")])]), stream(&[other])])
        .expect_err("they do not fit");
    assert!(
        error
            .to_string()
            .contains("column `text` is missing or has another type"),
        "{error}"
    );
}

#[test]
fn a_row_of_endless_nulls_is_refused_at_its_cap() {
    // A list of nulls takes no bytes for its values, however long it claims to be.
    let values = Arc::new(NullArray::new(i32::MAX as usize));
    let field = Arc::new(Field::new("item", DataType::Null, true));
    let list = arrow_array::FixedSizeListArray::new(field, i32::MAX, values, None);
    let batch =
        RecordBatch::try_from_iter([("list", Arc::new(list) as ArrayRef)]).expect("one column");
    let error = read(&[stream(&[batch])]).expect_err("the row is too large");
    assert!(matches!(error, RowsError::RowTooLarge { .. }), "{error}");
}
