//! Rows of the Arrow streams of one dataset, found by their number.

use std::path::PathBuf;

use durable::Mapped;

use super::arrow::{CellFault, Cells};
use super::arrow_layout::Layout;
use super::arrow_stream::{Batch, Stream};
use super::dictionaries::Dictionaries;
use super::{MAX_ROW_BYTES, Row, RowsError};

/// Rows of one or many shards.
pub(super) struct ArrowRows {
    shards: Vec<Shard>,
    /// Rows before each batch, and the shard that it is in.
    starts: Vec<(usize, usize)>,
    fields: Vec<(String, Layout)>,
    len: usize,
}

/// What the columns of all batches may take beyond the size of the files.
const COLUMNS_BYTES: usize = 32 << 20;

struct Shard {
    path: PathBuf,
    bytes: Mapped,
    batches: Vec<Batch>,
    dictionaries: Dictionaries,
    first_batch: usize,
    first_row: usize,
}

impl ArrowRows {
    pub(super) fn read(files: Vec<(PathBuf, Mapped)>) -> Result<Self, RowsError> {
        let mut this = Self {
            shards: Vec::new(),
            starts: Vec::new(),
            fields: Vec::new(),
            len: 0,
        };
        let sizes = files.iter().map(|(_, bytes)| bytes.as_ref().len());
        let mut budget = COLUMNS_BYTES + sizes.sum::<usize>();
        for (path, bytes) in files {
            let fault = |(offset, what)| RowsError::Arrow {
                path: path.clone(),
                offset,
                what,
            };
            let stream = Stream::read(bytes.as_ref(), &mut budget).map_err(fault)?;
            match this.shards.first() {
                None => this.fields = stream.fields,
                Some(first) => {
                    if let Some(what) = difference(&this.fields, &stream.fields) {
                        return Err(fault((
                            0,
                            format!("{what}, unlike in `{}`", first.path.display()),
                        )));
                    }
                }
            }
            this.push(path, bytes, stream.batches, stream.dictionaries);
        }
        Ok(this)
    }

    fn push(
        &mut self,
        path: PathBuf,
        bytes: Mapped,
        batches: Vec<Batch>,
        dictionaries: Dictionaries,
    ) {
        let (first_batch, first_row) = (self.starts.len(), self.len);
        for batch in &batches {
            self.starts.push((self.len, self.shards.len()));
            self.len += batch.rows;
        }
        self.shards.push(Shard {
            path,
            bytes,
            batches,
            dictionaries,
            first_batch,
            first_row,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> Vec<&[u8]> {
        self.shards
            .iter()
            .map(|shard| shard.bytes.as_ref())
            .collect()
    }

    pub(super) fn columns(&self) -> Vec<String> {
        let readable = self
            .fields
            .iter()
            .filter(|(_, layout)| layout.unreadable_type().is_none());
        readable.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn unreadable(&self) -> Vec<(String, String)> {
        let named = |(name, layout): &(String, Layout)| {
            Some((name.clone(), layout.unreadable_type()?.to_owned()))
        };
        self.fields.iter().filter_map(named).collect()
    }

    /// The shard, the number of the batch in it, and the row in that of row `index`.
    fn find(&self, index: usize) -> Option<(&Shard, usize, usize)> {
        if index >= self.len {
            return None;
        }
        // Batches of no rows share their start with the next one: the last that starts here or before holds the row.
        let at = self
            .starts
            .partition_point(|&(start, _)| start <= index)
            .checked_sub(1)?;
        let &(start, shard) = self.starts.get(at)?;
        let shard = self.shards.get(shard)?;
        Some((shard, at - shard.first_batch, index - start))
    }

    pub(super) fn row(&self, index: usize) -> Result<Row, RowsError> {
        let (shard, batch, at) = self.find(index).ok_or(RowsError::NoRow {
            index,
            len: self.len,
        })?;
        let bytes = shard.bytes.as_ref();
        let columns = &shard.batches[batch].columns;
        let mut cells = Cells {
            bytes,
            dictionaries: &shard.dictionaries,
            batch,
            budget: MAX_ROW_BYTES,
        };
        let mut row = Row::new();
        for ((name, layout), column) in self.fields.iter().zip(columns) {
            if layout.unreadable_type().is_none() {
                let value = cells
                    .value(layout, column, at)
                    .map_err(|fault| self.fault(shard, index, name, fault))?;
                row.insert(name.clone(), value);
            }
        }
        Ok(row)
    }

    fn fault(&self, shard: &Shard, index: usize, column: &str, fault: CellFault) -> RowsError {
        let path = shard.path.clone();
        match fault {
            CellFault::TooLarge => RowsError::RowTooLarge {
                path,
                place: self.place(index),
            },
            CellFault::Damaged { offset, what } => RowsError::Arrow {
                path,
                offset,
                what: format!("row {index}, column `{column}`: {what}"),
            },
        }
    }

    pub(super) fn place(&self, index: usize) -> String {
        let Some((shard, _, _)) = self.find(index) else {
            return format!("row {index}");
        };
        let name = shard.path.file_name().unwrap_or_default().to_string_lossy();
        format!("row {} of {name}", index - shard.first_row)
    }
}

fn difference(first: &[(String, Layout)], other: &[(String, Layout)]) -> Option<String> {
    let odd = other
        .iter()
        .find(|field| !first.contains(field))
        .map(|(name, _)| name);
    let lost = || {
        first
            .iter()
            .find(|field| !other.contains(field))
            .map(|(name, _)| name)
    };
    match odd.or_else(lost) {
        Some(name) => Some(format!("column `{name}` is missing or has another type")),
        None if first != other => Some("columns are in another order".into()),
        None => None,
    }
}
