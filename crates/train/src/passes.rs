//! Rows of one update, packed into token streams.
//!
//! A row's tokens behind its last learnt position are left out, since nothing depends on them, and a
//! row without a learnt position goes nowhere. Both change no gradient.

use engine::shapes::{Prefix, Segment};
use model::{Target, TokenBatch};

use crate::arguments::LossNormalization;
use crate::learner::Row;
use crate::prefixes::{Group, groups};

/// One update's work.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    pub(crate) passes: Vec<Pass>,
    /// Learnt tokens of the whole update: the Trainer's `num_items_in_batch`.
    pub(crate) num_items: usize,
    /// Tokens of all rows, as the Trainer counts `num_input_tokens_seen`.
    pub(crate) input_tokens: u64,
    /// The same with each micro-batch padded to its longest row, as the Trainer computes it; ours computes no padding.
    pub(crate) padded_tokens: u64,
}

/// One stream for the model.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) batch: TokenBatch,
    /// For each target the row that it is from, as a number in the data set.
    pub(crate) rows: Vec<usize>,
}

/// How rows become streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packing {
    pub(crate) normalization: LossNormalization,
    /// Of one pass; a row that is longer gets a pass of its own.
    pub(crate) max_tokens: usize,
    /// See [`crate::Learner::counts_first_label`].
    pub(crate) counts_first: bool,
    /// See [`crate::Learner::shares_prefixes`].
    pub(crate) shares_prefixes: bool,
}

/// A row with something to learn.
struct Item<'a> {
    row: &'a Row,
    /// Tokens up to the last one that predicts.
    len: usize,
    /// Of each of its targets.
    weight: f32,
}

impl<'a> Item<'a> {
    /// The tokens before the first that predicts something.
    fn prompt(&self) -> &'a [u32] {
        let first = self.row.targets().next().map_or(0, |(first, _)| first);
        &self.row.input_ids[..first]
    }
}

/// A row in the order in which rows are packed, with the number of its group.
type Placed = (usize, usize);

impl Passes {
    pub(crate) fn new(micro_batches: &[Vec<Row>], packing: Packing) -> Self {
        let mut this = Self::default();
        let items = this.items(micro_batches, packing);
        let groups = if packing.shares_prefixes {
            groups(&items.iter().map(Item::prompt).collect::<Vec<_>>())
        } else {
            (0..items.len()).map(Group::alone).collect()
        };
        let placed: Vec<Placed> = groups
            .iter()
            .enumerate()
            .flat_map(|(number, group)| group.rows.iter().map(move |row| (*row, number)))
            .collect();
        for rows in balanced(&items, &groups, &placed, packing.max_tokens) {
            this.passes.push(Pass::new(&items, &groups, rows));
        }
        this
    }

    /// The rows that teach something; counts all.
    fn items<'a>(&mut self, micro_batches: &'a [Vec<Row>], packing: Packing) -> Vec<Item<'a>> {
        let learnt = |rows: &Vec<Row>| rows.iter().map(|row| row.targets().count()).sum::<usize>();
        let counts: Vec<usize> = micro_batches.iter().map(learnt).collect();
        let all = || micro_batches.iter().flatten();
        self.num_items = counts.iter().sum();
        self.input_tokens = all().map(|row| row.input_ids.len() as u64).sum();
        let padded = |rows: &Vec<Row>| {
            let longest = rows.iter().map(|row| row.input_ids.len()).max();
            (rows.len() * longest.unwrap_or(0)) as u64
        };
        self.padded_tokens = micro_batches.iter().map(padded).sum();
        let firsts = all().filter(|row| row.labels_first()).count();
        let mut items = Vec::new();
        for (rows, count) in micro_batches.iter().zip(counts) {
            let divisor = match packing.normalization {
                LossNormalization::Tokens if packing.counts_first => self.num_items + firsts,
                LossNormalization::Tokens => self.num_items,
                LossNormalization::MeanOfMicroBatches => count * micro_batches.len(),
            };
            // In f64 first: f32 cannot hold every count.
            let weight = (1.0 / divisor as f64) as f32;
            items.extend(rows.iter().filter_map(|row| {
                let len = row.targets().last()?.0 + 1;
                Some(Item { row, len, weight })
            }));
        }
        items
    }
}

/// As few passes of at most `max_tokens` as the order allows, the largest of them as small as that many allow.
fn balanced<'a>(
    items: &[Item<'_>],
    groups: &[Group],
    placed: &'a [Placed],
    max_tokens: usize,
) -> Vec<&'a [Placed]> {
    let split = |limit| split(items, groups, placed, limit);
    let fewest = split(max_tokens).len();
    let (mut low, mut high) = (1, max_tokens);
    while low < high {
        let middle = low + (high - low) / 2;
        if split(middle).len() > fewest {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    split(low)
}

/// Cuts `placed` before every row that would carry a pass over `limit` tokens.
fn split<'a>(
    items: &[Item<'_>],
    groups: &[Group],
    placed: &'a [Placed],
    limit: usize,
) -> Vec<&'a [Placed]> {
    let (mut passes, mut first, mut tokens) = (Vec::new(), 0, 0);
    for (at, (row, group)) in placed.iter().enumerate() {
        let (whole, shared) = (items[*row].len, groups[*group].prefix);
        let follows = at > first && placed[at - 1].1 == *group;
        let cost = if follows { whole - shared } else { whole };
        if at > first && tokens + cost > limit {
            passes.push(&placed[first..at]);
            (first, tokens) = (at, whole);
        } else {
            tokens += cost;
        }
    }
    passes.extend(placed.get(first..).filter(|rest| !rest.is_empty()));
    passes
}

impl Pass {
    fn new(items: &[Item<'_>], groups: &[Group], placed: &[Placed]) -> Self {
        let mut pass = Self {
            batch: TokenBatch::default(),
            rows: Vec::new(),
        };
        for rows in placed.chunk_by(|one, next| one.1 == next.1) {
            let prefix = rows.first().and_then(|(row, group)| {
                let ids = &items[*row].row.input_ids[..groups[*group].prefix];
                pass.add_prefix(ids)
            });
            for (row, _) in rows {
                pass.add(&items[*row], prefix);
            }
        }
        pass
    }

    fn add_prefix(&mut self, ids: &[u32]) -> Option<Prefix> {
        let (start, len) = (self.batch.input_ids.len(), ids.len());
        self.batch.input_ids.extend(ids);
        (len > 0).then(|| {
            let prefix = None;
            self.batch.segments.push(Segment { start, len, prefix });
            Prefix { start, len }
        })
    }

    /// The tokens of a row behind the prefix, which ends before the row's first target.
    fn add(&mut self, item: &Item<'_>, prefix: Option<Prefix>) {
        let Item { row, len, weight } = *item;
        let start = self.batch.input_ids.len();
        let shared = prefix.map_or(0, |prefix| prefix.len);
        self.batch.input_ids.extend(&row.input_ids[shared..len]);
        self.batch.segments.push(Segment {
            start,
            len: len - shared,
            prefix,
        });
        for (position, id) in row.targets() {
            let position = (start + position - shared) as u32;
            self.batch.targets.push(Target {
                position,
                id,
                weight,
            });
            self.rows.push(row.index);
        }
    }

    /// `Σ weight·loss`.
    pub(crate) fn weighted(&self, losses: &[f32]) -> f64 {
        let pairs = self.batch.targets.iter().zip(losses);
        pairs
            .map(|(target, loss)| f64::from(target.weight) * f64::from(*loss))
            .sum()
    }

    /// The rows with a loss that is not finite, each once.
    pub(crate) fn rows_not_finite(&self, losses: &[f32]) -> Vec<usize> {
        let pairs = self.rows.iter().zip(losses);
        let mut rows: Vec<usize> = pairs
            .filter(|(_, loss)| !loss.is_finite())
            .map(|(row, _)| *row)
            .collect();
        rows.dedup();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: usize, ids: &[u32], learnt: std::ops::Range<usize>) -> Row {
        let label = |(at, id): (usize, &u32)| {
            if learnt.contains(&at) {
                *id as i32
            } else {
                -100
            }
        };
        let labels = ids.iter().enumerate().map(label).collect();
        Row {
            index,
            input_ids: ids.to_vec(),
            labels,
        }
    }

    fn rows() -> Vec<Vec<Row>> {
        vec![
            vec![row(7, &[1, 2, 3, 4], 2..4), row(3, &[5, 6], 0..0)],
            vec![row(4, &[8, 9, 10, 11, 12], 1..3)],
            vec![row(9, &[20, 21], 0..2)],
        ]
    }

    const PACKING: Packing = Packing {
        normalization: LossNormalization::Tokens,
        max_tokens: 100,
        counts_first: false,
        shares_prefixes: false,
    };

    fn packed(rows: &[Vec<Row>], max_tokens: usize) -> Passes {
        let packing = Packing {
            max_tokens,
            ..PACKING
        };
        Passes::new(rows, packing)
    }

    #[test]
    fn labels_are_shifted_inside_each_row_and_tails_are_left_out() {
        let packed = packed(&rows(), 100);
        assert_eq!((packed.num_items, packed.input_tokens), (5, 13));
        let [pass] = &packed.passes[..] else {
            panic!("one pass")
        };
        assert_eq!(pass.batch.input_ids, [1, 2, 3, 8, 9, 20]);
        let segments: Vec<_> = pass
            .batch
            .segments
            .iter()
            .map(|s| (s.start, s.len))
            .collect();
        assert_eq!(segments, [(0, 3), (3, 2), (5, 1)]);
        let targets: Vec<_> = pass
            .batch
            .targets
            .iter()
            .map(|t| (t.position, t.id))
            .collect();
        assert_eq!(targets, [(1, 3), (2, 4), (3, 9), (4, 10), (5, 21)]);
        assert_eq!(pass.rows, [7, 7, 4, 4, 9]);
    }

    #[test]
    fn weights_sum_to_one_by_tokens_or_by_micro_batches() {
        let weights = |normalization| -> Vec<f32> {
            let packing = Packing {
                normalization,
                ..PACKING
            };
            let packed = Passes::new(&rows(), packing);
            packed.passes[0]
                .batch
                .targets
                .iter()
                .map(|target| target.weight)
                .collect()
        };
        assert_eq!(weights(LossNormalization::Tokens), [0.2; 5]);
        let sixth = 1.0 / 6.0;
        assert_eq!(
            weights(LossNormalization::MeanOfMicroBatches),
            [sixth, sixth, sixth, sixth, 1.0 / 3.0]
        );
    }

    #[test]
    fn a_label_that_nothing_predicts_may_count() {
        let packing = Packing {
            counts_first: true,
            ..PACKING
        };
        let packed = Passes::new(&rows(), packing);
        assert_eq!(packed.num_items, 5);
        assert_eq!(packed.passes[0].batch.targets[0].weight, 1.0 / 6.0);
    }

    #[test]
    fn a_token_budget_splits_an_update_and_changes_no_target() {
        let whole = packed(&rows(), 100);
        let split = packed(&rows(), 3);
        let lens: Vec<_> = split
            .passes
            .iter()
            .map(|pass| pass.batch.input_ids.len())
            .collect();
        assert_eq!(lens, [3, 3]);
        let targets = |passes: &Passes| -> Vec<(u32, f32)> {
            let batches = passes.passes.iter().flat_map(|pass| &pass.batch.targets);
            batches.map(|target| (target.id, target.weight)).collect()
        };
        assert_eq!(targets(&whole), targets(&split));
        assert_eq!(packed(&rows(), 1).passes.len(), 3);
    }

    #[test]
    fn an_update_of_masked_rows_has_no_pass() {
        let masked = vec![vec![row(0, &[1, 2, 3], 0..0)]];
        let packed = packed(&masked, 100);
        assert!(packed.passes.is_empty() && packed.num_items == 0 && packed.input_tokens == 3);
    }

    #[test]
    fn a_row_with_a_bad_loss_is_named_once() {
        let packed = packed(&rows(), 100);
        let losses = [f32::NAN, f32::INFINITY, 1.0, 1.0, f32::NAN];
        assert_eq!(packed.passes[0].rows_not_finite(&losses), [7, 9]);
    }

    fn lens(passes: &Passes) -> Vec<usize> {
        let each = passes.passes.iter();
        each.map(|pass| pass.batch.input_ids.len()).collect()
    }

    #[test]
    fn passes_are_as_even_as_their_number_allows() {
        let ids: Vec<u32> = (0..40).collect();
        let micro = |len: usize| vec![row(0, &ids[..=len], 1..len + 1)];
        let rows: Vec<_> = [6, 5, 4, 3, 2, 8].map(micro).into();
        assert_eq!(lens(&packed(&rows, 20)), [15, 13]);
        assert_eq!(lens(&packed(&rows, 28)), [28]);
    }

    /// Two groups that begin alike, one row between them that does not.
    fn alike() -> Vec<Vec<Row>> {
        vec![
            vec![row(0, &[1, 2, 3, 4, 5], 3..5)],
            vec![row(1, &[9, 8, 7], 2..3), row(2, &[1, 2, 3, 6, 5, 4], 3..6)],
            vec![row(3, &[5, 5], 1..2), row(4, &[9, 8, 6], 2..3)],
        ]
    }

    #[test]
    fn rows_that_begin_alike_compute_their_beginning_once() {
        let packing = Packing {
            shares_prefixes: true,
            ..PACKING
        };
        let passes = Passes::new(&alike(), packing).passes;
        let [pass] = &passes[..] else {
            panic!("one pass")
        };
        let batch = &pass.batch;
        // The last shared token of a prompt predicts a row's own answer, so it stays with the row.
        assert_eq!(batch.input_ids, [1, 2, 3, 4, 3, 6, 5, 9, 8, 8, 5]);
        let parts = batch.segments.iter();
        let parts: Vec<_> = parts
            .map(|s| (s.start, s.len, s.prefix.map(|p| (p.start, p.len))))
            .collect();
        let (long, short) = (Some((0, 2)), Some((7, 1)));
        let want = [
            (0, 2, None),
            (2, 2, long),
            (4, 3, long),
            (7, 1, None),
            (8, 1, short),
            (9, 1, short),
            (10, 1, None),
        ];
        assert_eq!(parts, want);
        let targets: Vec<_> = batch.targets.iter().map(|t| (t.position, t.id)).collect();
        let want = [
            (2, 4),
            (3, 5),
            (4, 6),
            (5, 5),
            (6, 4),
            (8, 7),
            (9, 6),
            (10, 5),
        ];
        assert_eq!(targets, want);
        assert_eq!(pass.rows, [0, 0, 2, 2, 2, 1, 4, 3]);
    }

    #[test]
    fn a_prefix_is_in_every_pass_that_needs_it() {
        let prompt: Vec<u32> = (100..120).collect();
        let micro = |index: usize| {
            let ids = [&prompt[..], &[index as u32; 4]].concat();
            vec![row(index, &ids, 21..24)]
        };
        let packing = Packing {
            shares_prefixes: true,
            max_tokens: 30,
            ..PACKING
        };
        let passes = Passes::new(&(0..6).map(micro).collect::<Vec<_>>(), packing);
        assert_eq!(lens(&passes), [29, 29]);
        assert!(
            passes
                .passes
                .iter()
                .all(|pass| pass.batch.segments[0].len == 20)
        );
    }
}
