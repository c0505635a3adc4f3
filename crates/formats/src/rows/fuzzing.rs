//! Fuzz targets of rows as plain functions; see [`crate::fuzzing`].

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StructArray, UInt8Array, types};
use arrow_ipc::reader::{FileDecoder, StreamReader};
use arrow_ipc::{Block, Message, MessageHeader, MetadataVersion, root_as_message};
use arrow_schema::{ArrowError, Schema};
use durable::Mapped;
use serde_json::{Map, Value};

use super::{Format, Row, Rows, RowsError};

/// Rows that a target looks at: a column of nulls can claim two thousand million.
const LOOKED_AT: usize = 200;

fn read(format: Format, bytes: &[u8]) -> Result<(Rows, Vec<Row>), RowsError> {
    let rows = Rows::read(format, Path::new("fuzz"), Mapped::from_vec(bytes.to_vec()))?;
    let looked_at = 0..rows.len().min(LOOKED_AT);
    let values = looked_at
        .map(|index| rows.row(index))
        .collect::<Result<Vec<_>, _>>()?;
    for row in &values {
        let names: Vec<&String> = row.keys().collect();
        assert_eq!(
            names,
            rows.columns().iter().collect::<Vec<_>>(),
            "every row has every column"
        );
    }
    assert!(
        rows.row(rows.len()).is_err(),
        "there is no row after the last"
    );
    Ok((rows, values))
}

/// Three readers of the same messages: ours, upstream's of a stream, and upstream's of a file in the random-access
/// format, which is told where each message lies instead of walking from one to the next. They find as many rows and the
/// same values in them, or all refuse, but for what `is_stricter` and `is_laxer` list.
pub fn fuzz_arrow(bytes: &[u8]) {
    let ours = read(Format::Arrow, bytes);
    let columns = ours.as_ref().map(|(rows, _)| rows.columns()).ok();
    let Some(messages) = messages(bytes) else {
        return assert!(ours.is_err(), "a message is damaged or cut");
    };
    // Upstream panics on some inputs; that is why its readers are not the one that reads.
    let Some(stream) = unless_it_panics(|| stream_batches(bytes, columns)) else {
        return;
    };
    let ((rows, values), stream) = match (&ours, stream) {
        (Ok(ours), Ok(stream)) => (ours, stream),
        (Ok((rows, _)), Err(fault)) => {
            return assert!(is_laxer(&fault, rows), "upstream refuses it: {fault}");
        }
        (Err(fault), Ok(_)) => return assert!(is_stricter(fault), "upstream reads it: {fault}"),
        (Err(_), Err(_)) => return,
    };
    let same = |batches: &[RecordBatch], reader: &str| {
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(
            rows.len(),
            count,
            "upstream's reader of {reader} counts the same rows"
        );
        let theirs = upstream_rows(batches, rows.columns());
        assert_eq!(
            values, &theirs,
            "upstream's reader of {reader} finds the same values"
        );
    };
    same(&stream, "streams");
    let file = file_batches(bytes, &messages, rows.columns());
    if let Some(file) = file.expect("what is read as a stream is read as a file") {
        same(&file, "files");
    }
}

/// What upstream takes and this reader does not.
fn is_stricter(fault: &RowsError) -> bool {
    let listed = [
        "bytes after the end of the stream",
        "breaks off inside a message length",
        "is big-endian",
        "written by an Arrow before 0.8",
        "is there twice",
        "negative list size",
        "more columns than the schema",
        "a batch claims",
        "children are too short",
        // Fewer cells or nulls than none.
        "a column claims -",
        "cells, -",
    ];
    let text = fault.to_string();
    listed.iter().any(|reason| text.contains(reason))
}

/// What this reader takes and upstream does not: a null is one whatever the schema says, and what no row shows, as bytes
/// under a null and dictionaries of types that are not read, is not looked at.
fn is_laxer(fault: &ArrowError, rows: &Rows) -> bool {
    let listed = [
        "non-nullable",
        "NullArray has unequal null_count",
        "View at index",
        "Invalid buffer index",
        "Invalid buffer slice",
        "Mismatch between embedded prefix",
        "Invalid UTF8 sequence",
        "Value at position",
    ];
    let text = fault.to_string();
    let mut unread = rows.unreadable_columns().iter();
    listed.iter().any(|reason| text.contains(reason))
        || unread.any(|(_, name)| text.contains(name) || text.contains("Offset invariant failure"))
}

/// What `read` gives, or nothing where it panics: without its message, and without libFuzzer's hook, which would end the
/// program although the panic is caught.
fn unless_it_panics<T>(read: impl FnOnce() -> T) -> Option<T> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let found = catch_unwind(AssertUnwindSafe(read));
    set_hook(hook);
    found.ok()
}

/// What the upstream reader of streams finds in `columns`, or in all.
fn stream_batches(
    stream: &[u8],
    columns: Option<&[String]>,
) -> Result<Vec<RecordBatch>, ArrowError> {
    let schema = StreamReader::try_new(stream, None)?.schema();
    let shown = columns.map(|columns| places(&schema, columns));
    StreamReader::try_new(stream, shown)?.collect()
}

/// What the upstream reader of files finds in the messages of an accepted stream; nothing where a dictionary is given
/// anew, since all of a file's are read before its batches.
fn file_batches(
    stream: &[u8],
    messages: &[(Block, Message<'_>)],
    columns: &[String],
) -> Result<Option<Vec<RecordBatch>>, ArrowError> {
    let schema = StreamReader::try_new(stream, None)?.schema();
    let shown = places(&schema, columns);
    // A file of the oldest version does not tell it, its messages do.
    let mut file = FileDecoder::new(schema, MetadataVersion::V1).with_projection(shown);
    let whole = UInt8Array::from(stream.to_vec());
    let bytes = |block: &Block| {
        let size = block.metaDataLength() as usize + block.bodyLength() as usize;
        let whole = whole.values().inner();
        whole.slice_with_length(block.offset() as usize, size)
    };
    let (mut given, mut batches) = (HashSet::new(), Vec::new());
    for (block, message) in messages {
        match message.header_as_dictionary_batch() {
            Some(one) if !one.isDelta() && !given.insert(one.id()) => return Ok(None),
            Some(_) => file.read_dictionary(block, &bytes(block))?,
            None if message.header_type() == MessageHeader::RecordBatch => batches.push(block),
            None => {}
        }
    }
    let read = |block: &Block| file.read_record_batch(block, &bytes(block)).transpose();
    batches
        .into_iter()
        .filter_map(read)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn places(schema: &Schema, columns: &[String]) -> Vec<usize> {
    let place = |name: &String| schema.index_of(name).expect("upstream has every column");
    columns.iter().map(place).collect()
}

/// The messages of a stream, and where each lies; nothing where one is damaged or not there to its end.
fn messages(stream: &[u8]) -> Option<Vec<(Block, Message<'_>)>> {
    let word = |at: usize| Some(u32::from_le_bytes(*stream.get(at..)?.first_chunk()?));
    let (mut messages, mut at) = (Vec::new(), 0);
    while let Some(first) = word(at) {
        // Before Arrow 0.15 a message began with its length alone.
        let (length, head) = match first {
            u32::MAX => (word(at + 4)?, 8),
            length => (length, 4),
        };
        if length == 0 {
            break;
        }
        let metadata = head + length as usize;
        let message = root_as_message(stream.get(at + head..at + metadata)?).ok()?;
        let body = usize::try_from(message.bodyLength()).ok()?;
        let end = (at + metadata).checked_add(body)?;
        stream.get(at..end)?;
        let block = Block::new(at as i64, metadata as i32, message.bodyLength());
        messages.push((block, message));
        at = end;
    }
    Some(messages)
}

/// The rows of upstream's that a target looks at.
fn upstream_rows(batches: &[RecordBatch], columns: &[String]) -> Vec<Row> {
    let places = batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(move |at| (batch, at)));
    let row = |(batch, at): (&RecordBatch, usize)| {
        let value = |name: &String| {
            let column = batch
                .column_by_name(name)
                .expect("upstream has every column");
            let value = cell(column, at).expect("rows show values of this type");
            (name.clone(), value)
        };
        columns.iter().map(value).collect()
    };
    places.take(LOOKED_AT).map(row).collect()
}

/// A cell of the upstream reader as a row has it; nothing for types that rows do not show.
fn cell(array: &dyn Array, at: usize) -> Option<Value> {
    use arrow_schema::DataType as Type;
    if array.is_null(at) {
        return Some(Value::Null);
    }
    Some(match array.data_type() {
        Type::Null => Value::Null,
        Type::Boolean => array.as_boolean().value(at).into(),
        Type::Int8 => array.as_primitive::<types::Int8Type>().value(at).into(),
        Type::Int16 => array.as_primitive::<types::Int16Type>().value(at).into(),
        Type::Int32 => array.as_primitive::<types::Int32Type>().value(at).into(),
        Type::Int64 => array.as_primitive::<types::Int64Type>().value(at).into(),
        Type::UInt8 => array.as_primitive::<types::UInt8Type>().value(at).into(),
        Type::UInt16 => array.as_primitive::<types::UInt16Type>().value(at).into(),
        Type::UInt32 => array.as_primitive::<types::UInt32Type>().value(at).into(),
        Type::UInt64 => array.as_primitive::<types::UInt64Type>().value(at).into(),
        Type::Float16 => f64::from(array.as_primitive::<types::Float16Type>().value(at)).into(),
        Type::Float32 => f64::from(array.as_primitive::<types::Float32Type>().value(at)).into(),
        Type::Float64 => array.as_primitive::<types::Float64Type>().value(at).into(),
        Type::Utf8 => array.as_string::<i32>().value(at).into(),
        Type::LargeUtf8 => array.as_string::<i64>().value(at).into(),
        Type::Utf8View => array.as_string_view().value(at).into(),
        Type::List(_) => list(&array.as_list::<i32>().value(at))?,
        Type::LargeList(_) => list(&array.as_list::<i64>().value(at))?,
        Type::FixedSizeList(_, _) => list(&array.as_fixed_size_list().value(at))?,
        Type::Struct(_) => fields(array.as_struct(), at)?,
        Type::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let key = cell(dictionary.keys(), at)?.as_u64()?;
            cell(dictionary.values(), usize::try_from(key).ok()?)?
        }
        _ => return None,
    })
}

fn list(items: &dyn Array) -> Option<Value> {
    (0..items.len()).map(|at| cell(items, at)).collect()
}

fn fields(all: &StructArray, at: usize) -> Option<Value> {
    let named = all.column_names().into_iter().zip(all.columns());
    let values = named.map(|(name, column)| Some((name.to_owned(), cell(column, at)?)));
    values.collect::<Option<Map<_, _>>>().map(Value::Object)
}

/// Accepted: `serde_json` accepts every row too, and gives the same values.
pub fn fuzz_json_rows(bytes: &[u8]) {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Ok((rows, values)) = read(Format::Json, bytes)
        && text.trim_ascii_start().starts_with(b"[")
    {
        let whole: Vec<Row> = serde_json::from_slice(text).expect("what is accepted is JSON");
        compare(&rows, &values, whole);
    }
    if let Ok((rows, values)) = read(Format::JsonLines, bytes) {
        let lines = text
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty());
        let whole =
            lines.map(|line| serde_json::from_slice(line).expect("an accepted line is JSON"));
        compare(&rows, &values, whole.collect());
    }
}

fn compare(rows: &Rows, values: &[Row], mut whole: Vec<Row>) {
    assert_eq!(rows.len(), whole.len(), "no row is lost");
    for (value, upstream) in values.iter().zip(&mut whole) {
        for (name, value) in value {
            assert_eq!(
                value,
                &upstream.remove(name).unwrap_or_default(),
                "column {name}"
            );
        }
        assert!(upstream.is_empty(), "no column is lost");
    }
}

/// Accepted: rows have every column (see [`fuzz_json_rows`] for files with values).
pub fn fuzz_csv_rows(bytes: &[u8]) {
    let _ = read(Format::Csv, bytes);
}
