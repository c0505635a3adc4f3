//! A dataset as ids and labels, kept in a cache file so that nothing is tokenised twice.

mod cache;
mod inputs;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use durable::Mapped;
use formats::Rows;
use rayon::prelude::*;

use crate::example::{Encoded, encode_row};
use crate::{DataError, Example, Template, Tokenizer};
use inputs::key;

pub use inputs::fingerprint;

/// Rows that one task encodes; progress is told after each.
const BLOCK: usize = 64;

/// All rows of a dataset, encoded.
pub struct EncodedDataset {
    bytes: Mapped,
    rows: Vec<RowIndex>,
    ids_at: usize,
    report: Report,
}

/// What is known of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RowIndex {
    /// Its first id, counted over all rows.
    start: u64,
    /// Ids that are kept.
    len: u32,
    /// How many of them are the prompt's.
    masked: u32,
    /// Ids before the cut.
    full: u32,
    eos_cut: bool,
}

/// What became of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheUse {
    /// No folder was given.
    Off,
    /// Nothing had changed: the ids were read.
    Read,
    /// The ids were made and written.
    Written,
    /// The file was damaged, in the way that is told; the ids were made anew and written.
    Rebuilt(String),
    /// The ids were made, and could not be written for the reason that is told; the next run will make them again.
    NotWritten(String),
}

/// What the cut at `max_length` did, and how long rows are.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// How many rows.
    pub rows: usize,
    /// Ids that are kept.
    pub tokens: u64,
    /// Positions that are learned from: labels other than -100, without the first of a row, which nothing predicts.
    pub label_tokens: u64,
    /// Rows that were cut.
    pub truncated: usize,
    /// Cut rows that lost their end-of-sequence token: the model does not learn from them where to stop.
    pub eos_cut: usize,
    /// Rows without a label, for the most part because the prompt alone fills `max_length`. They are kept, as the Trainer
    /// keeps them, and teach nothing.
    pub all_masked: usize,
    /// Shortest, median, 90th percentile and longest row, in ids before the cut; zeros where there are no rows.
    pub full_lengths: [u32; 4],
    /// What became of the cache.
    pub cache: CacheUse,
}

impl EncodedDataset {
    /// Encodes all rows on all cores, or reads them from `cache` where rows, template, tokenizer and `max_length` are those
    /// of an earlier run.
    ///
    /// * `cache`: folder for cache files, made if need be. A file that cannot be written is reported, not an error.
    /// * `progress`: called with rows done and rows in all, from any thread, rising but not in order.
    ///
    /// # Errors
    /// [`DataError::Row`] for the first row (by index) that cannot be encoded.
    pub fn build(
        rows: &Rows,
        template: &Template,
        tokenizer: &Tokenizer,
        max_length: usize,
        cache: Option<&Path>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, DataError> {
        check(rows, template, tokenizer, max_length)?;
        let key = key(rows, template, tokenizer, max_length);
        let file = cache.map(|folder| folder.join(format!("{}.tokens", &key[..32])));
        let damage = match &file {
            Some(path) if durable::is_file(path) => match cache::open(path, &key) {
                Ok(found) => {
                    progress(rows.len(), rows.len());
                    return Ok(found);
                }
                Err(why) => Some(why),
            },
            _ => None,
        };
        let encoded = encode_all(rows, template, tokenizer, max_length, progress)?;
        let mut this = cache::from_rows(&encoded, &key);
        drop(encoded);
        if let Some(path) = &file {
            this.report.cache = match (cache::write(path, &this.bytes), damage) {
                (Err(why), _) => CacheUse::NotWritten(why),
                (Ok(()), Some(why)) => CacheUse::Rebuilt(why),
                (Ok(()), None) => CacheUse::Written,
            };
        }
        Ok(this)
    }

    /// The number of rows, at most `u32::MAX`.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Row `index`.
    ///
    /// # Panics
    /// As slices do, where `index` is out of range.
    pub fn get(&self, index: usize) -> Example {
        let row = self.rows[index];
        let start = self.ids_at + 4 * row.start as usize;
        let bytes = &self.bytes[start..start + 4 * row.len as usize];
        let ids = bytes
            .chunks_exact(4)
            .map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
        Example::new(ids.collect(), row.masked as usize)
    }

    /// How many ids row `index` has, without reading them.
    ///
    /// # Panics
    /// As slices do, where `index` is out of range.
    pub fn length(&self, index: usize) -> usize {
        self.rows[index].len as usize
    }

    /// What was cut, and how long rows are.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

fn check(
    rows: &Rows,
    template: &Template,
    tokenizer: &Tokenizer,
    max_length: usize,
) -> Result<(), DataError> {
    if max_length == 0 || u32::try_from(max_length).is_err() {
        return Err(DataError::MaxLength(max_length));
    }
    if u32::try_from(rows.len()).is_err() {
        return Err(DataError::TooManyRows(rows.len()));
    }
    if template.appends_eos() && tokenizer.eos_token_id().is_none() {
        return Err(DataError::NoEos {
            path: tokenizer.folder().to_owned(),
        });
    }
    Ok(())
}

fn encode_all(
    rows: &Rows,
    template: &Template,
    tokenizer: &Tokenizer,
    max_length: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Encoded>, DataError> {
    let (total, done, failed) = (
        rows.len(),
        AtomicUsize::new(0),
        AtomicUsize::new(usize::MAX),
    );
    let one = |index: usize| {
        let encoded = rows.row(index).map_err(DataError::from);
        let encoded = encoded.and_then(|row| encode_row(&row, template, tokenizer, max_length));
        encoded.map_err(|source| {
            failed.fetch_min(index, Ordering::Relaxed);
            DataError::Row {
                index,
                place: rows.place(index),
                source: Box::new(with_unreadable(source, rows)),
            }
        })
    };
    let block = |number: usize| {
        let (start, end) = (number * BLOCK, total.min((number + 1) * BLOCK));
        // A row before this one has failed: whatever this block gives is not looked at.
        if failed.load(Ordering::Relaxed) < start {
            return Ok(Vec::new());
        }
        let encoded = (start..end).map(one).collect();
        progress(
            done.fetch_add(end - start, Ordering::Relaxed) + end - start,
            total,
        );
        encoded
    };
    let blocks: Vec<Result<Vec<Encoded>, DataError>> = (0..total.div_ceil(BLOCK))
        .into_par_iter()
        .map(block)
        .collect();
    let mut all = Vec::with_capacity(total);
    for block in blocks {
        all.extend(block?);
    }
    Ok(all)
}

/// A column of images is there and still cannot be text: say so beside the others.
fn with_unreadable(error: DataError, rows: &Rows) -> DataError {
    match error {
        DataError::MissingColumns {
            template,
            missing,
            mut columns,
        } => {
            let unreadable = rows.unreadable_columns().iter();
            columns.extend(
                unreadable
                    .map(|(name, kind)| format!("{name} (of type {kind}, which is not text)")),
            );
            DataError::MissingColumns {
                template,
                missing,
                columns,
            }
        }
        other => other,
    }
}

impl Report {
    fn of(rows: &[RowIndex], cache: CacheUse) -> Self {
        let count = |wanted: fn(&RowIndex) -> bool| rows.iter().filter(|row| wanted(row)).count();
        let mut lengths: Vec<u32> = rows.iter().map(|row| row.full).collect();
        lengths.sort_unstable();
        let at = |share: f64| {
            let last = lengths.len().saturating_sub(1);
            lengths
                .get((share * last as f64).round() as usize)
                .copied()
                .unwrap_or(0)
        };
        Self {
            rows: rows.len(),
            tokens: rows.iter().map(|row| u64::from(row.len)).sum(),
            label_tokens: rows
                .iter()
                .map(|row| u64::from(row.len.saturating_sub(row.masked.max(1))))
                .sum(),
            truncated: count(|row| row.full > row.len),
            eos_cut: count(|row| row.eos_cut),
            all_masked: count(|row| row.len <= row.masked),
            full_lengths: [at(0.0), at(0.5), at(0.9), at(1.0)],
            cache,
        }
    }
}
