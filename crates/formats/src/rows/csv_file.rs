//! Rows of a CSV file with a header line.
//!
//! Every cell is text as written, and an empty cell is the empty text. `datasets` guesses instead (`007` becomes 7, and an
//! empty cell, `NA` or `null` becomes None); text for a template should not be guessed at. An unnamed column is called
//! `Unnamed: N`, as pandas does.

use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};
use durable::Mapped;
use serde_json::{Map, Value};

use super::json_file::line_of;
use super::starts::Starts;
use super::{MAX_COLUMNS, MAX_ROW_BYTES, RowsError};

pub(super) struct CsvRows {
    path: PathBuf,
    bytes: Mapped,
    rows: Starts,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl CsvRows {
    pub(super) fn read(path: &Path, bytes: Mapped) -> Result<(Self, Vec<String>), RowsError> {
        let mut scan = Scan::new(path, bytes.as_ref());
        let columns = match scan.next()? {
            Some(start) => scan.header(start)?,
            None => Vec::new(),
        };
        let mut rows = Starts::default();
        while let Some(start) = scan.next()? {
            scan.check(start, columns.len())?;
            rows.push(start);
        }
        scan.finish()?;
        Ok((
            Self {
                path: path.to_owned(),
                bytes,
                rows,
            },
            columns,
        ))
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    pub(super) fn row(
        &self,
        index: usize,
        columns: &[String],
    ) -> Result<Map<String, Value>, RowsError> {
        let start = self.rows.get(index).ok_or(RowsError::NoRow {
            index,
            len: self.rows.len(),
        })?;
        let mut scan = Scan::new(&self.path, self.bytes.as_ref());
        scan.seek(start);
        scan.next()?;
        let cell = |at| scan.text(at, start).map(Value::String);
        columns
            .iter()
            .enumerate()
            .map(|(at, name)| Ok((name.clone(), cell(at)?)))
            .collect()
    }

    pub(super) fn place(&self, index: usize) -> String {
        let start = self.rows.get(index).unwrap_or(0);
        format!("line {}", line_of(self.bytes.as_ref(), start).0)
    }
}

/// Reads record after record and knows where each began.
struct Scan<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    /// Where `reader` began in `bytes`.
    base: usize,
    reader: csv::Reader<&'a [u8]>,
    record: ByteRecord,
    /// Where the record that was read last began.
    last: Option<usize>,
}

impl<'a> Scan<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        let base = if bytes.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        let reader = reader(&bytes[base..]);
        Self {
            path,
            bytes,
            base,
            reader,
            record: ByteRecord::new(),
            last: None,
        }
    }

    fn seek(&mut self, start: usize) {
        self.base = start;
        self.reader = reader(&self.bytes[start.min(self.bytes.len())..]);
    }

    /// Reads the next record; where it starts.
    fn next(&mut self) -> Result<Option<usize>, RowsError> {
        let start = self.at();
        let read = self.reader.read_byte_record(&mut self.record);
        if self.at() - start > MAX_ROW_BYTES {
            return Err(RowsError::RowTooLarge {
                path: self.path.to_owned(),
                place: format!("line {}", line_of(self.bytes, start).0),
            });
        }
        match read {
            Ok(true) => {
                self.last = Some(self.began(start));
                Ok(self.last)
            }
            Ok(false) => Ok(None),
            Err(error) => self.fault(start, error.to_string()),
        }
    }

    fn at(&self) -> usize {
        self.base + self.reader.position().byte() as usize
    }

    /// The reader steps over blank lines before a record; its own position of the record does not count them in.
    fn began(&self, start: usize) -> usize {
        let blank = self.bytes[start..]
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'));
        start + blank.count()
    }

    fn header(&self, start: usize) -> Result<Vec<String>, RowsError> {
        if self.record.len() > MAX_COLUMNS {
            let found = self.record.len();
            return self.fault(
                start,
                format!("{found} columns in the header, at most {MAX_COLUMNS} are read"),
            );
        }
        let mut names: Vec<String> = Vec::with_capacity(self.record.len());
        for at in 0..self.record.len() {
            let mut name = self.text(at, start)?;
            if name.is_empty() {
                name = format!("Unnamed: {at}");
            }
            if names.contains(&name) {
                return self.fault(
                    start,
                    format!("column `{name}` is named twice in the header"),
                );
            }
            names.push(name);
        }
        let is_quoted = self.bytes.get(self.began(start)) == Some(&b'"');
        if let ([name], false) = (names.as_slice(), is_quoted)
            && let Some(found) = [';', '\t'].into_iter().find(|mark| name.contains(*mark))
        {
            let path = self.path.to_owned();
            return Err(RowsError::CsvDelimiter { path, found });
        }
        Ok(names)
    }

    fn check(&self, start: usize, columns: usize) -> Result<(), RowsError> {
        if self.record.len() != columns {
            let found = self.record.len();
            return self.fault(
                start,
                format!("{found} cells in a row, the header names {columns} columns"),
            );
        }
        (0..columns).try_for_each(|at| self.text(at, start).map(drop))
    }

    fn text(&self, at: usize, start: usize) -> Result<String, RowsError> {
        match std::str::from_utf8(self.record.get(at).unwrap_or_default()) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(RowsError::CsvNotUtf8 {
                path: self.path.to_owned(),
                line: line_of(self.bytes, start).0,
                offset: start,
                cell: at,
            }),
        }
    }

    /// The csv crate takes the end of the file for the end of an open quote, and would swallow the rest of a file.
    fn finish(&self) -> Result<(), RowsError> {
        let Some(start) = self.last else {
            return Ok(());
        };
        match open_quote(&self.bytes[start..]) {
            None => Ok(()),
            Some(at) => self.fault(
                start + at,
                "the quote that opens here is never closed".into(),
            ),
        }
    }

    fn fault<T>(&self, offset: usize, what: String) -> Result<T, RowsError> {
        Err(RowsError::Csv {
            path: self.path.to_owned(),
            line: line_of(self.bytes, offset).0,
            offset,
            what,
        })
    }
}

fn reader(bytes: &[u8]) -> csv::Reader<&[u8]> {
    ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes)
}

/// Where a quoted cell opens that does not close before the end.
fn open_quote(record: &[u8]) -> Option<usize> {
    let (mut open, mut quoted, mut starts) = (None, false, true);
    for (at, &byte) in record.iter().enumerate() {
        match (open, byte) {
            // A doubled quote closes and opens again at once, which comes to the same.
            (Some(_), b'"') => open = None,
            (None, b'"') if starts || quoted && record[at - 1] == b'"' => {
                (open, quoted) = (Some(at), true)
            }
            _ => {}
        }
        starts = open.is_none() && matches!(byte, b',' | b'\n' | b'\r');
        quoted &= !starts;
    }
    open
}
