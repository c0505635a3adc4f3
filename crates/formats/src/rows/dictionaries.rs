//! The dictionaries of an Arrow stream, whose messages give them, replace them and add to them between batches.

use std::collections::HashMap;

use super::arrow::Column;
use super::arrow_layout::What;

/// Every message's values are kept once, with the batches that see them: a list of its own for each batch would grow
/// with the square of a file that adds to a dictionary before each.
#[derive(Default)]
pub(super) struct Dictionaries(HashMap<i64, Vec<Chunk>>);

/// The values of one message.
struct Chunk {
    /// Batches of the stream that come before it and do not see it.
    batches: usize,
    /// The chunk that its dictionary begins with: one that is given again begins anew.
    first: usize,
    /// Values of its dictionary in earlier chunks.
    before: usize,
    values: Column,
}

impl Dictionaries {
    /// Takes the values that a message gives after `batches` batches; `added`: to those that are there.
    pub(super) fn take(
        &mut self,
        id: i64,
        values: Column,
        batches: usize,
        added: bool,
    ) -> Result<(), What> {
        let chunks = self.0.entry(id).or_default();
        let (first, before) = match chunks.last() {
            Some(last) if added => (last.first, last.before.checked_add(last.values.len())),
            None if added => return Err(format!("dictionary {id} is added to before it is given")),
            _ => (chunks.len(), Some(0)),
        };
        let before = before.ok_or_else(|| format!("dictionary {id} has too many values"))?;
        chunks.push(Chunk {
            batches,
            first,
            before,
            values,
        });
        Ok(())
    }

    /// Where value `key` of a dictionary is, as batch number `batch` sees it: a column and the cell in it.
    pub(super) fn find(&self, id: i64, batch: usize, key: usize) -> Option<(&Column, usize)> {
        let chunks = self.0.get(&id)?;
        let seen = &chunks[..chunks.partition_point(|chunk| chunk.batches <= batch)];
        let own = &seen[seen.last()?.first..];
        // A chunk without values starts where the next one does: the last that starts here or before holds the value.
        let chunk = own[..own.partition_point(|chunk| chunk.before <= key)].last()?;
        let at = key - chunk.before;
        (at < chunk.values.len()).then_some((&chunk.values, at))
    }
}
