//! Arrow columns read in place: a layout from the schema, and for each record batch the byte ranges of its buffers.
//!
//! Columnar format: <https://arrow.apache.org/docs/format/Columnar.html>. Cells are decoded straight from the mapped
//! file, each access checked, because `arrow-array` panics on buffers whose length is no multiple of their element.

use std::ops::Range;

use half::f16;
use serde_json::{Map, Number, Value};

use super::arrow_layout::{Layout, What};
use super::dictionaries::Dictionaries;

/// One column of one batch: how many cells, and where their buffers lie in the file.
#[derive(Debug)]
pub(super) struct Column {
    length: usize,
    nulls: usize,
    buffers: Vec<Range<usize>>,
    children: Vec<Column>,
}

/// The lists of a record batch message, in the order in which columns use them up.
pub(super) struct Parts<'a, N, B, V> {
    /// The file.
    pub(super) bytes: &'a [u8],
    /// (length, null count) of each node.
    pub(super) nodes: N,
    /// Byte range of each buffer in the file.
    pub(super) buffers: B,
    /// Buffers that each view column adds.
    pub(super) view_counts: V,
    /// Bytes that columns may still take.
    pub(super) budget: &'a mut usize,
}

/// What the allocator adds to a list.
const LIST_BYTES: usize = 16;

impl<N, B, V> Parts<'_, N, B, V>
where
    N: Iterator<Item = Result<(usize, usize), What>>,
    B: Iterator<Item = Result<Range<usize>, What>>,
    V: Iterator<Item = i64>,
{
    /// Takes what `layout` needs and checks that the buffers are long enough for the cells.
    pub(super) fn column(&mut self, layout: &Layout) -> Result<Column, What> {
        let (length, nulls) = self
            .nodes
            .next()
            .ok_or("the batch has fewer nodes than the schema wants")??;
        let (own, view) = layout.buffers();
        let added = if view {
            self.view_counts
                .next()
                .ok_or("the batch lacks a view count")?
        } else {
            0
        };
        let count = usize::try_from(added)
            .map_err(|_| format!("negative view count {added}"))?
            .saturating_add(own);
        let room = count.min(self.buffers.size_hint().0);
        self.spend(size_of::<Column>() + LIST_BYTES + room * size_of::<Range<usize>>())?;
        let mut buffers = Vec::with_capacity(room);
        for _ in 0..count {
            buffers.push(
                self.buffers
                    .next()
                    .ok_or("the batch has fewer buffers than the schema wants")??,
            );
        }
        let below = layout.children();
        let mut children = Vec::with_capacity(below.len());
        for child in below {
            children.push(self.column(child)?);
        }
        let column = Column {
            length,
            nulls,
            buffers,
            children,
        };
        column.check(layout)?;
        column.check_nulls(layout, self.bytes)?;
        column.check_offsets(layout, self.bytes)?;
        Ok(column)
    }

    /// A column of nothing has 16 bytes in a batch, and several times as many here.
    fn spend(&mut self, bytes: usize) -> Result<(), What> {
        let left = self.budget.checked_sub(bytes);
        *self.budget = left.ok_or("the batches have too many columns for a file of this size")?;
        Ok(())
    }
}

impl Column {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    fn size(&self, buffer: usize) -> usize {
        self.buffers.get(buffer).map_or(0, ExactSizeIterator::len)
    }

    fn check(&self, layout: &Layout) -> Result<(), What> {
        let need = |buffer: usize, bytes: Option<usize>| match bytes {
            Some(bytes) if self.size(buffer) >= bytes => Ok(()),
            _ => Err(format!(
                "buffer of {} bytes is too short for {} cells",
                self.size(buffer),
                self.length
            )),
        };
        let offsets = |wide: bool| {
            let width = if wide { 8 } else { 4 };
            // A column of no cells may leave its offsets out altogether.
            let empty = self.length == 0 && self.size(1) == 0;
            need(
                1,
                if empty {
                    Some(0)
                } else {
                    self.length
                        .checked_add(1)
                        .and_then(|n| n.checked_mul(width))
                },
            )
        };
        if self.nulls > 0 && !matches!(layout, Layout::Null | Layout::Unreadable { .. }) {
            need(0, Some(self.length.div_ceil(8)))?;
        }
        match layout {
            Layout::Null | Layout::Unreadable { .. } => Ok(()),
            Layout::Bool => need(1, Some(self.length.div_ceil(8))),
            Layout::Int { width, .. }
            | Layout::Float { width }
            | Layout::Dictionary { width, .. } => need(1, self.length.checked_mul(*width)),
            Layout::TextView => need(1, self.length.checked_mul(16)),
            Layout::Text { wide } | Layout::List { wide, .. } => offsets(*wide),
            Layout::FixedList { size, .. } => self.children_hold(self.length.checked_mul(*size)),
            Layout::Struct(_) => self.children_hold(Some(self.length)),
        }
    }

    /// As many cells must be null as the column claims: one damaged bit would make a null of a value, or the other way.
    fn check_nulls(&self, layout: &Layout, bytes: &[u8]) -> Result<(), What> {
        if self.nulls == 0 || matches!(layout, Layout::Null | Layout::Unreadable { .. }) {
            return Ok(());
        }
        let range = self.buffers.first().cloned().unwrap_or_default();
        let bits = bytes.get(range).unwrap_or_default();
        let whole = bits.iter().take(self.length / 8);
        let last = bits
            .get(self.length / 8)
            .map(|byte| byte & ((1 << (self.length % 8)) - 1));
        let valid: usize = whole
            .chain(&last)
            .map(|byte| byte.count_ones() as usize)
            .sum();
        match self.length - valid {
            nulls if nulls == self.nulls => Ok(()),
            nulls => Err(format!(
                "a column claims {} nulls, its bits say {nulls}",
                self.nulls
            )),
        }
    }

    /// Offsets must rise and end within the values: then neighbours cannot overlap.
    fn check_offsets(&self, layout: &Layout, bytes: &[u8]) -> Result<(), What> {
        let (wide, limit) = match layout {
            Layout::Text { wide } => (*wide, self.size(2)),
            Layout::List { wide, .. } => (*wide, self.children.first().map_or(0, Self::len)),
            _ => return Ok(()),
        };
        let width = if wide { 8 } else { 4 };
        let range = self.buffers.get(1).cloned().unwrap_or_default();
        let offsets = bytes.get(range).unwrap_or_default().chunks_exact(width);
        let mut before = 0;
        for offset in offsets.take(self.length.saturating_add(1)).map(unsigned) {
            // A negative offset is beyond any limit when read as unsigned.
            if offset < before || offset > limit as u64 {
                return Err(format!(
                    "offset {offset} follows {before} in values of {limit}"
                ));
            }
            before = offset;
        }
        Ok(())
    }

    fn children_hold(&self, cells: Option<usize>) -> Result<(), What> {
        match cells {
            Some(cells) if self.children.iter().all(|child| child.length >= cells) => Ok(()),
            _ => Err(format!("children are too short for {} cells", self.length)),
        }
    }
}

/// What a cell takes as a value: a column of nulls has no bytes of its own, and would unfold into far more than its row.
const CELL_BYTES: usize = size_of::<Value>();

/// Decodes cells; `budget` bounds what one row may come to.
pub(super) struct Cells<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) dictionaries: &'a Dictionaries,
    /// The number of their batch in its stream.
    pub(super) batch: usize,
    pub(super) budget: usize,
}

/// Why a cell could not be decoded.
pub(super) enum CellFault {
    /// The row is larger than the budget.
    TooLarge,
    /// The bytes at this offset are not what they should be.
    Damaged { offset: usize, what: What },
}

type Cell<T> = Result<T, CellFault>;

fn damaged<T>(offset: usize, what: impl Into<What>) -> Cell<T> {
    Err(CellFault::Damaged {
        offset,
        what: what.into(),
    })
}

impl Cells<'_> {
    /// The value of cell `index`.
    pub(super) fn value(&mut self, layout: &Layout, column: &Column, index: usize) -> Cell<Value> {
        self.spend(CELL_BYTES)?;
        if index >= column.length {
            let start = column.buffers.first().map_or(0, |range| range.start);
            return damaged(
                start,
                format!("cell {index} of a column of {}", column.length),
            );
        }
        if column.nulls > 0 && !matches!(layout, Layout::Null) && !self.bit(column, 0, index)? {
            return Ok(Value::Null);
        }
        match layout {
            Layout::Null | Layout::Unreadable { .. } => Ok(Value::Null),
            Layout::Bool => Ok(Value::Bool(self.bit(column, 1, index)?)),
            Layout::Int { width, signed } => {
                Ok(Value::Number(self.int(column, index, *width, *signed)?))
            }
            Layout::Float { width } => self.float(column, index, *width),
            Layout::Text { wide } => {
                let range = self.extent(column, index, *wide, column.size(2))?;
                self.text(column, 2, range)
            }
            Layout::TextView => self.text_view(column, index),
            Layout::List { wide, item } => {
                let values = column.children.first();
                let range = self.extent(column, index, *wide, values.map_or(0, Column::len))?;
                self.list(item, values, range)
            }
            Layout::FixedList { size, item } => {
                let start = index.saturating_mul(*size);
                self.list(
                    item,
                    column.children.first(),
                    start..start.saturating_add(*size),
                )
            }
            Layout::Struct(fields) => {
                let mut map = Map::new();
                for ((name, layout), child) in fields.iter().zip(&column.children) {
                    self.spend(name.len())?;
                    map.insert(name.clone(), self.value(layout, child, index)?);
                }
                Ok(Value::Object(map))
            }
            Layout::Dictionary { id, width, values } => {
                self.dictionary(column, index, *width, *id, values)
            }
        }
    }

    fn spend(&mut self, cost: usize) -> Cell<()> {
        self.budget = self.budget.checked_sub(cost).ok_or(CellFault::TooLarge)?;
        Ok(())
    }

    /// `width` bytes of element `index` of a buffer, with their offset in the file.
    fn element(
        &self,
        column: &Column,
        buffer: usize,
        index: usize,
        width: usize,
    ) -> Cell<(&[u8], usize)> {
        let range = column.buffers.get(buffer).cloned().unwrap_or_default();
        let start = index.saturating_mul(width).saturating_add(range.start);
        let end = start.saturating_add(width);
        match self.bytes.get(start..end) {
            Some(bytes) if end <= range.end => Ok((bytes, start)),
            _ => damaged(
                range.start,
                format!("element {index} is outside its buffer"),
            ),
        }
    }

    fn bit(&self, column: &Column, buffer: usize, index: usize) -> Cell<bool> {
        let (bytes, _) = self.element(column, buffer, index / 8, 1)?;
        Ok(bytes[0] >> (index % 8) & 1 == 1)
    }

    fn int(&self, column: &Column, index: usize, width: usize, signed: bool) -> Cell<Number> {
        let (bytes, _) = self.element(column, 1, index, width)?;
        let raw = unsigned(bytes);
        let shift = 64 - 8 * width as u32;
        Ok(if signed {
            Number::from(((raw << shift) as i64) >> shift)
        } else {
            Number::from(raw)
        })
    }

    /// A float that is not finite has no JSON number and comes as null.
    fn float(&self, column: &Column, index: usize, width: usize) -> Cell<Value> {
        let raw = unsigned(self.element(column, 1, index, width)?.0);
        let value = match width {
            2 => f16::from_bits(raw as u16).to_f64(),
            4 => f64::from(f32::from_bits(raw as u32)),
            _ => f64::from_bits(raw),
        };
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    /// The range that offsets `index` and `index + 1` span, within `limit`.
    fn extent(
        &self,
        column: &Column,
        index: usize,
        wide: bool,
        limit: usize,
    ) -> Cell<Range<usize>> {
        let width = if wide { 8 } else { 4 };
        let (first, at) = self.element(column, 1, index, width)?;
        let (second, _) = self.element(column, 1, index.saturating_add(1), width)?;
        // A negative offset is beyond any limit when read as unsigned.
        let end = usize::try_from(unsigned(second)).unwrap_or(usize::MAX);
        match usize::try_from(unsigned(first)) {
            Ok(start) if start <= end && end <= limit => Ok(start..end),
            _ => damaged(
                at,
                format!(
                    "offsets {} to {end} do not lie in order within {limit}",
                    unsigned(first)
                ),
            ),
        }
    }

    fn text(&mut self, column: &Column, buffer: usize, range: Range<usize>) -> Cell<Value> {
        self.spend(range.len())?;
        let whole = column.buffers.get(buffer).cloned().unwrap_or_default();
        let (start, end) = (
            whole.start.saturating_add(range.start),
            whole.start.saturating_add(range.end),
        );
        match self.bytes.get(start..end) {
            Some(bytes) if end <= whole.end => valid_text(bytes, start),
            _ => damaged(whole.start, "text lies outside its buffer"),
        }
    }

    /// 16 bytes: length, then the text itself if it is at most 12 bytes, else 4 bytes of it, buffer and offset.
    fn text_view(&mut self, column: &Column, index: usize) -> Cell<Value> {
        let (view, at) = self.element(column, 1, index, 16)?;
        let word = |start: usize| unsigned(&view[start..start + 4]) as usize;
        let (length, buffer, offset) = (word(0), word(8), word(12));
        if length <= 12 {
            let (text, rest) = view[4..].split_at(length);
            return match rest.iter().any(|&byte| byte != 0) {
                true => damaged(at, "bytes follow a short text in its view"),
                false => valid_text(text, at + 4),
            };
        }
        let begins: [u8; 4] = [view[4], view[5], view[6], view[7]];
        let range = offset..offset.saturating_add(length);
        match self.text(column, buffer.saturating_add(2), range)? {
            Value::String(text) if !text.as_bytes().starts_with(&begins) => {
                damaged(at, "a text begins otherwise than its view says")
            }
            text => Ok(text),
        }
    }

    fn list(&mut self, item: &Layout, values: Option<&Column>, range: Range<usize>) -> Cell<Value> {
        let Some(values) = values else {
            return damaged(0, "a list column without values");
        };
        let mut items = Vec::new();
        for index in range {
            items.push(self.value(item, values, index)?);
        }
        Ok(Value::Array(items))
    }

    fn dictionary(
        &mut self,
        column: &Column,
        index: usize,
        width: usize,
        id: i64,
        values: &Layout,
    ) -> Cell<Value> {
        let (bytes, at) = self.element(column, 1, index, width)?;
        let index_read = unsigned(bytes);
        // A negative index is beyond any dictionary when read as unsigned.
        let key = usize::try_from(index_read).unwrap_or(usize::MAX);
        let dictionaries = self.dictionaries;
        match dictionaries.find(id, self.batch, key) {
            Some((chunk, at)) => self.value(values, chunk, at),
            None => damaged(at, format!("index {index_read} is not in dictionary {id}")),
        }
    }
}

/// Little-endian, up to eight bytes.
fn unsigned(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn valid_text(bytes: &[u8], offset: usize) -> Cell<Value> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::String(text.to_owned())),
        Err(error) => damaged(offset + error.valid_up_to(), "not valid UTF-8"),
    }
}
