//! Fuzz targets of rows as plain functions; see [`crate::fuzzing`].

use std::path::Path;

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

/// Accepted, by the upstream reader too: both count the same rows.
pub fn fuzz_arrow(bytes: &[u8]) {
    let Some((rows, _)) = read(Format::Arrow, bytes) else {
        return;
    };
    // The upstream reader panics on some inputs; that is why it is not the one that reads.
    let upstream = std::panic::catch_unwind(|| {
        let batches: Result<Vec<_>, _> = StreamReader::try_new(bytes, None).ok()?.collect();
        Some(
            batches
                .ok()?
                .iter()
                .map(|batch| batch.num_rows())
                .sum::<usize>(),
        )
    });
    if let Ok(Some(count)) = upstream {
        assert_eq!(rows.len(), count, "two readers count the same rows");
    }
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
