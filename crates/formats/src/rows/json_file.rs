//! Rows of a JSON array of objects, or of one JSON object per line.
//!
//! The file stays mapped; kept is only where each row starts. Every row is read once when the file
//! is opened, so that a broken line is reported before any work is done.
//!
//! Defined here: a byte order mark at the start is skipped; CRLF is whitespace; blank lines are skipped; a column that a
//! row lacks is null in it (as in `datasets`); a column must keep one kind (text, number, boolean, list, object) in all
//! rows, null fits any. `datasets` also guesses dates from text: that is not done here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use durable::Mapped;
use serde_json::{Map, Value};

use super::json::{Cursor, Fault};
use super::starts::Starts;
use super::{MAX_COLUMNS, MAX_ROW_BYTES, RowsError};

pub(super) struct JsonRows {
    path: PathBuf,
    bytes: Mapped,
    rows: Starts,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl JsonRows {
    /// Reads where the rows are. `lines`: the name promises one object per line.
    pub(super) fn read(
        path: &Path,
        bytes: Mapped,
        lines: bool,
    ) -> Result<(Self, Vec<String>), RowsError> {
        let mut index = Index {
            path,
            bytes: bytes.as_ref(),
            rows: Starts::default(),
            columns: Columns::default(),
        };
        index.read(lines)?;
        let (rows, columns) = (index.rows, index.columns.names);
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
        let bytes = self.bytes.as_ref();
        let end = start.saturating_add(MAX_ROW_BYTES).min(bytes.len());
        let mut read = Cursor::new(&bytes[..end], start)
            .object(0)
            .map_err(|fault| placed(&self.path, bytes, fault))?;
        Ok(columns
            .iter()
            .map(|name| (name.clone(), read.remove(name).unwrap_or_default()))
            .collect())
    }

    /// Where row `index` is, for a message.
    pub(super) fn place(&self, index: usize) -> String {
        let start = self.rows.get(index).unwrap_or(0);
        // An array may have all its rows on one line.
        match line_of(self.bytes.as_ref(), start) {
            (line, 1) => format!("line {line}"),
            (line, column) => format!("line {line}, column {column}"),
        }
    }
}

/// Line and column, from 1, of a byte.
pub(super) fn line_of(bytes: &[u8], offset: usize) -> (usize, usize) {
    let before = &bytes[..offset.min(bytes.len())];
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    let column = 1 + before
        .iter()
        .rev()
        .take_while(|&&byte| byte != b'\n')
        .count();
    (line, column)
}

fn placed(path: &Path, bytes: &[u8], fault: Fault) -> RowsError {
    let (line, column) = line_of(bytes, fault.offset);
    RowsError::Json {
        path: path.to_owned(),
        line,
        column,
        offset: fault.offset,
        what: fault.what,
    }
}

/// The names of all columns in the order in which they first appear, and the kind that each holds.
#[derive(Default)]
struct Columns {
    names: Vec<String>,
    kinds: HashMap<String, Option<&'static str>>,
}

impl Columns {
    fn add(&mut self, row: &Map<String, Value>) -> Result<(), String> {
        for (name, value) in row {
            let kind = kind_of(value);
            match self.kinds.get_mut(name) {
                None if self.names.len() == MAX_COLUMNS => {
                    return Err(format!(
                        "column `{name}` is one more than the {MAX_COLUMNS} that are read"
                    ));
                }
                None => {
                    self.names.push(name.clone());
                    self.kinds.insert(name.clone(), kind);
                }
                Some(known) => match (*known, kind) {
                    (Some(before), Some(now)) if before != now => {
                        return Err(format!(
                            "column `{name}` is {now} here and {before} in earlier rows"
                        ));
                    }
                    (None, Some(_)) => *known = kind,
                    _ => {}
                },
            }
        }
        Ok(())
    }
}

fn kind_of(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some("a boolean"),
        Value::Number(_) => Some("a number"),
        Value::String(_) => Some("text"),
        Value::Array(_) => Some("a list"),
        Value::Object(_) => Some("an object"),
    }
}

struct Index<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    rows: Starts,
    columns: Columns,
}

impl Index<'_> {
    fn read(&mut self, lines: bool) -> Result<(), RowsError> {
        let start = if self.bytes.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        let mut cursor = Cursor::new(self.bytes, start);
        cursor.skip_space();
        match cursor.peek() {
            Some(b'[') if !lines => self.array(cursor.at),
            Some(b'{') | None => self.lines(cursor.at),
            _ if lines => self.fault(
                cursor.at,
                format!("expected an object, found {}", cursor.found()),
            ),
            _ => self.fault(
                cursor.at,
                format!("expected an array of objects, found {}", cursor.found()),
            ),
        }
    }

    fn fault<T>(&self, offset: usize, what: String) -> Result<T, RowsError> {
        Err(placed(self.path, self.bytes, Fault { offset, what }))
    }

    fn array(&mut self, open: usize) -> Result<(), RowsError> {
        let mut cursor = Cursor::new(self.bytes, open + 1);
        cursor.skip_space();
        let mut ended = cursor.take(b']');
        while !ended {
            cursor.skip_space();
            cursor.at = self.row(cursor.at, self.bytes.len())?;
            cursor.skip_space();
            ended = cursor.take(b']');
            if !ended && !cursor.take(b',') {
                return self.fault(
                    cursor.at,
                    match cursor.peek() {
                        None => format!("the array breaks off after row {}", self.rows.len()),
                        _ => format!(
                            "expected `,` or `]` after row {}, found {}",
                            self.rows.len(),
                            cursor.found()
                        ),
                    },
                );
            }
        }
        cursor.skip_space();
        match cursor.peek() {
            None => Ok(()),
            Some(_) => self.fault(
                cursor.at,
                format!("expected nothing after the array, found {}", cursor.found()),
            ),
        }
    }

    fn lines(&mut self, first: usize) -> Result<(), RowsError> {
        let mut cursor = Cursor::new(self.bytes, first);
        while cursor.peek().is_some() {
            let end = self.end_of_line(cursor.at)?;
            let after = self.row(cursor.at, end)?;
            let mut rest = Cursor::new(&self.bytes[..end], after);
            rest.skip_space();
            if rest.peek().is_some() {
                return self.fault(
                    rest.at,
                    format!("expected one object per line, then found {}", rest.found()),
                );
            }
            cursor.at = end;
            cursor.skip_space();
        }
        Ok(())
    }

    fn end_of_line(&self, start: usize) -> Result<usize, RowsError> {
        let window = start
            .saturating_add(MAX_ROW_BYTES + 1)
            .min(self.bytes.len());
        match self.bytes[start..window]
            .iter()
            .position(|&byte| byte == b'\n')
        {
            Some(length) => Ok(start + length),
            None if window == self.bytes.len() => Ok(window),
            None => Err(self.too_large(start)),
        }
    }

    fn too_large(&self, start: usize) -> RowsError {
        let place = format!("line {}", line_of(self.bytes, start).0);
        RowsError::RowTooLarge {
            path: self.path.to_owned(),
            place,
        }
    }

    /// Reads the row that starts at `start` and ends before `limit`; returns where it ends.
    fn row(&mut self, start: usize, limit: usize) -> Result<usize, RowsError> {
        let cap = start.saturating_add(MAX_ROW_BYTES).min(limit);
        let mut cursor = Cursor::new(&self.bytes[..cap], start);
        match cursor.peek() {
            Some(b'{') => {}
            Some(b']') => {
                return self.fault(
                    start,
                    "a comma before `]`, where a further row should be".into(),
                );
            }
            _ => {
                let (row, found) = (self.rows.len(), cursor.found());
                return self.fault(
                    start,
                    format!("expected an object as row {row}, found {found}"),
                );
            }
        }
        let row = match cursor.object(0) {
            Ok(row) => row,
            Err(_) if cursor.is_spent() => return Err(self.too_large(start)),
            Err(fault) if cap < limit && fault.offset >= cap => return Err(self.too_large(start)),
            Err(fault) => return Err(self.broken(start, limit, fault)),
        };
        if let Err(what) = self.columns.add(&row) {
            return self.fault(start, what);
        }
        self.rows.push(start);
        Ok(cursor.at)
    }

    /// An object spread over several lines is the usual cause of a line that does not end; say so.
    fn broken(&self, start: usize, limit: usize, mut fault: Fault) -> RowsError {
        if limit < self.bytes.len() && fault.offset >= limit {
            fault.what = format!("the object that starts at byte {start} does not end on its line");
        } else if fault.offset >= self.bytes.len() {
            fault.what = format!(
                "the file breaks off inside row {}: {}",
                self.rows.len(),
                fault.what
            );
        }
        placed(self.path, self.bytes, fault)
    }
}
