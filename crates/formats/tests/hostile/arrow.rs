//! Row 54: Arrow streams with lengths, kinds and buffers that lie.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, DictionaryArray, FixedSizeListArray, NullArray, RecordBatch, StringArray,
};
use arrow_ipc::writer::StreamWriter;
use arrow_ipc::{CompressionType, MetadataVersion};
use arrow_schema::{DataType, Field};
use lowrank_formats::Rows;
use tempfile::TempDir;
use testkit::Hostile;

use crate::arrow_messages::{Says, honest};
use crate::{shortened, told_of_rows};

const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

fn stream(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a schema writes");
    writer.write(&batch).expect("a batch writes");
    writer.finish().expect("a stream ends");
    writer.into_inner().expect("its bytes")
}

fn texts() -> Vec<u8> {
    let texts = StringArray::from(vec![Some("hello"), None, Some("world, this is text")]);
    stream(vec![("text", Arc::new(texts))])
}

/// Where the message after the schema begins.
fn second(good: &[u8]) -> usize {
    8 + u32::from_le_bytes([good[4], good[5], good[6], good[7]]) as usize
}

fn schema() -> Vec<u8> {
    let good = texts();
    good[..second(&good)].to_vec()
}

/// The schema, a message, 16 bytes of body and the end.
fn message(change: impl FnOnce(&mut Says)) -> Vec<u8> {
    let mut says = honest();
    change(&mut says);
    let body = [0, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0, 0, 0];
    [&schema()[..], &says.message(), &body, &END].concat()
}

fn patched(at: usize, word: u32) -> Vec<u8> {
    let mut bytes = texts();
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    bytes
}

/// A byte pattern of the good file, replaced where it stands first.
fn swapped<const N: usize>(old: [u8; N], new: [u8; N]) -> Vec<u8> {
    let mut bytes = texts();
    let at = bytes
        .windows(N)
        .position(|window| window == old)
        .expect("it is there");
    bytes[at..at + N].copy_from_slice(&new);
    bytes
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let good = texts();
    let batch = second(&good);
    let mut trailing = good.clone();
    trailing.extend(b"more");
    let mut twice = schema();
    twice.extend(schema());
    vec![
        ("an empty file", vec![]),
        ("the random-access format", b"ARROW1\0\0".to_vec()),
        ("Parquet", b"PAR1\x15\x04".to_vec()),
        (
            "a git-lfs pointer",
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
        ),
        (
            "text",
            b"these are not the bytes you are looking for".to_vec(),
        ),
        ("no schema", good[batch..].to_vec()),
        ("an end at once", END.to_vec()),
        ("cut inside a length", good[..6].to_vec()),
        ("cut inside the schema", good[..100].to_vec()),
        ("cut inside the body", good[..good.len() - 24].to_vec()),
        ("metadata beyond the file", patched(batch + 4, 0x7fff_fff0)),
        (
            "metadata of negative length",
            patched(batch + 4, 0x8000_0000),
        ),
        ("metadata of a few bytes", patched(4, 4)),
        (
            "a root outside of its metadata",
            patched(batch + 8, 0x00ff_ffff),
        ),
        ("bytes behind the end", trailing),
        ("a second schema", twice),
    ]
}

fn batches() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "a body of 2^60 bytes",
            message(|says| says.body_length = 1 << 60),
        ),
        (
            "a body of negative length",
            message(|says| says.body_length = -16),
        ),
        (
            "a buffer at a negative offset",
            message(|says| says.buffers[1] = (-8, 8)),
        ),
        (
            "a buffer of negative length",
            message(|says| says.buffers[2] = (8, -2)),
        ),
        (
            "a buffer beyond the body",
            message(|says| says.buffers[2] = (8, 9)),
        ),
        (
            "a buffer whose end overflows",
            message(|says| says.buffers[2] = (i64::MAX, i64::MAX)),
        ),
        (
            "a buffer too short for its cells",
            message(|says| says.buffers[1] = (0, 4)),
        ),
        ("-1 rows", message(|says| says.rows = -1)),
        ("2^40 rows", message(|says| says.rows = 1 << 40)),
        (
            "a column of 2^62 cells",
            message(|says| (says.rows, says.nodes) = (1, vec![(1 << 62, 0)])),
        ),
        (
            "a column of -1 cells",
            message(|says| says.nodes = vec![(-1, 0)]),
        ),
        (
            "more nulls than cells",
            message(|says| says.nodes = vec![(1, 2)]),
        ),
        (
            "nulls without their bits",
            message(|says| says.nodes = vec![(1, 1)]),
        ),
        (
            "other nulls than its bits",
            message(|says| (says.nodes, says.buffers[0]) = (vec![(1, 1)], (8, 1))),
        ),
        (
            "buffers of a view that is not there",
            message(|says| says.views = Some(0)),
        ),
        (
            "fewer columns than the schema",
            message(|says| says.nodes = vec![]),
        ),
        (
            "more columns than the schema",
            message(|says| says.nodes = vec![(1, 0), (1, 0)]),
        ),
        (
            "fewer buffers than the schema",
            message(|says| says.buffers.truncate(2)),
        ),
        ("other rows than cells", message(|says| says.rows = 2)),
        (
            "LZ4",
            message(|says| says.codec = Some(CompressionType::LZ4_FRAME)),
        ),
        (
            "an unknown compression",
            message(|says| says.codec = Some(CompressionType(77))),
        ),
        (
            "a message of Arrow 0.1",
            message(|says| says.version = MetadataVersion::V1),
        ),
        (
            "a dictionary of no column",
            message(|says| says.dictionary = Some((7, false))),
        ),
        (
            "an addition to no dictionary",
            message(|says| says.dictionary = Some((0, true))),
        ),
        (
            "offsets out of order",
            swapped([5, 0, 0, 0, 5, 0, 0, 0], [5, 0, 0, 0, 4, 0, 0, 0]),
        ),
        (
            "offsets beyond the text",
            swapped([5, 0, 0, 0, 5, 0, 0, 0], [5, 0, 0, 0, 5, 0, 0, 9]),
        ),
        ("text that is not utf-8", swapped(*b"hello", *b"h\xffllo")),
    ]
}

fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let words: DictionaryArray<arrow_array::types::Int8Type> =
        ["a", "b", "a"].into_iter().collect();
    let mut dictionary = stream(vec![("kind", Arc::new(words))]);
    let codes = dictionary
        .windows(3)
        .rposition(|window| window == [0, 1, 0])
        .expect("its codes");
    dictionary[codes + 1] = 99;
    let nulls = Arc::new(NullArray::new(i32::MAX as usize));
    let field = Arc::new(Field::new("item", DataType::Null, true));
    let endless = FixedSizeListArray::new(field, i32::MAX, nulls, None);
    let utf8 = arrow_ipc::Type::Utf8.0;
    let mut unknown = texts();
    let kind = unknown[8..second(&unknown)]
        .iter()
        .rposition(|&byte| byte == utf8)
        .expect("its type");
    unknown[8 + kind] = 99;
    vec![
        ("a code that the dictionary lacks", dictionary),
        (
            "a row of two thousand million nulls",
            stream(vec![("list", Arc::new(endless))]),
        ),
        ("an unknown type", unknown),
    ]
}

fn read(path: &Path, root: &Path) -> Result<usize, String> {
    let told = |error| told_of_rows(&error, root);
    let rows = Rows::open(path, None).map_err(told)?;
    (0..rows.len())
        .try_for_each(|at| rows.row(at).map(drop))
        .map_err(told)?;
    Ok(rows.len())
}

#[test]
fn row_54_a_stream_that_lies_is_refused_with_its_byte() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("a.arrow");
    let put =
        |bytes: &[u8]| std::fs::write(&path, bytes).expect("a temporary folder can be written");
    for good in [texts(), message(|_| {})] {
        put(&good);
        read(&path, folder.path()).expect("the files that the others are made of are good");
    }
    let mut row = Hostile::new("row 54, Arrow streams");
    for (name, bytes) in frames().into_iter().chain(batches()).chain(kinds()) {
        put(&bytes);
        row.refused(name, bytes.len(), || read(&path, folder.path()));
    }
    insta::assert_snapshot!(shortened(&row.finish(25)));
}
