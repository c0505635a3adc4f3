//! Fuzz targets of rows as plain functions; see [`crate::fuzzing`].

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::{Array, StructArray, types};
use arrow_ipc::reader::StreamReader;
use durable::Mapped;
use serde_json::{Map, Value};

use super::{Format, Rows};

/// Rows that a target looks at: a column of nulls can claim two thousand million.
const LOOKED_AT: usize = 200;

fn read(format: Format, bytes: &[u8]) -> Option<(Rows, Vec<Map<String, Value>>)> {
    let rows = Rows::read(format, Path::new("fuzz"), Mapped::from_vec(bytes.to_vec())).ok()?;
    let looked_at = 0..rows.len().min(LOOKED_AT);
    let values = looked_at
        .map(|index| rows.row(index))
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
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
    Some((rows, values))
}

/// Accepted, by the upstream reader too: both find as many rows, and the same values in them.
pub fn fuzz_arrow(bytes: &[u8]) {
    let Some((rows, values)) = read(Format::Arrow, bytes) else {
        return;
    };
    // The upstream reader panics on some inputs; that is why it is not the one that reads.
    let found = std::panic::catch_unwind(|| upstream_rows(bytes, rows.columns()));
    let Ok(Some((count, theirs))) = found else {
        return;
    };
    assert_eq!(rows.len(), count, "two readers count the same rows");
    assert_eq!(values, theirs, "two readers find the same values");
}

/// How many rows the upstream reader finds, and those that a target looks at, by columns.
fn upstream_rows(bytes: &[u8], columns: &[String]) -> Option<(usize, Vec<Map<String, Value>>)> {
    let batches = StreamReader::try_new(bytes, None).ok()?;
    let (mut count, mut rows) = (0, Vec::new());
    for batch in batches {
        let batch = batch.ok()?;
        let looked_at = batch.num_rows().min(LOOKED_AT.saturating_sub(count));
        for at in 0..looked_at {
            let mut row = Map::new();
            for name in columns {
                row.insert(name.clone(), cell(batch.column_by_name(name)?, at)?);
            }
            rows.push(row);
        }
        count += batch.num_rows();
    }
    Some((count, rows))
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
    if let Some((rows, values)) = read(Format::Json, bytes)
        && text.trim_ascii_start().starts_with(b"[")
    {
        let whole: Vec<Map<String, Value>> =
            serde_json::from_slice(text).expect("what is accepted is JSON");
        compare(&rows, &values, whole);
    }
    if let Some((rows, values)) = read(Format::JsonLines, bytes) {
        let lines = text
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty());
        let whole =
            lines.map(|line| serde_json::from_slice(line).expect("an accepted line is JSON"));
        compare(&rows, &values, whole.collect());
    }
}

fn compare(rows: &Rows, values: &[Map<String, Value>], mut whole: Vec<Map<String, Value>>) {
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
    read(Format::Csv, bytes);
}
