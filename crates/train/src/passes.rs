//! Rows of one update, packed into token streams.
//!
//! A row's tokens behind its last learnt position are left out, since nothing depends on them, and a
//! row without a learnt position goes nowhere. Both change no gradient.

use engine::shapes::Segment;
use model::{Target, TokenBatch};

use crate::arguments::LossNormalization;
use crate::learner::Row;

/// One update's work.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    pub(crate) passes: Vec<Pass>,
    /// Learnt tokens of the whole update: the Trainer's `num_items_in_batch`.
    pub(crate) num_items: usize,
    /// Tokens of all rows, as the Trainer counts `num_input_tokens_seen`.
    pub(crate) input_tokens: u64,
}

/// One stream for the model.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) batch: TokenBatch,
    /// For each target the row that it is from, as a number in the data set.
    pub(crate) rows: Vec<usize>,
}

impl Passes {
    /// * `max_tokens`: of one pass; a row that is longer gets a pass of its own.
    /// * `counts_first`: see [`crate::Learner::counts_first_label`].
    pub(crate) fn new(
        micro_batches: &[Vec<Row>],
        normalization: LossNormalization,
        max_tokens: usize,
        counts_first: bool,
    ) -> Self {
        let items = |rows: &Vec<Row>| rows.iter().map(|row| row.targets().count()).sum::<usize>();
        let counts: Vec<usize> = micro_batches.iter().map(items).collect();
        let num_items: usize = counts.iter().sum();
        let firsts = micro_batches
            .iter()
            .flatten()
            .filter(|row| row.labels_first())
            .count();
        let mut this = Self {
            num_items,
            ..Self::default()
        };
        for (rows, count) in micro_batches.iter().zip(counts) {
            let divisor = match normalization {
                LossNormalization::Tokens if counts_first => num_items + firsts,
                LossNormalization::Tokens => num_items,
                LossNormalization::MeanOfMicroBatches => count * micro_batches.len(),
            };
            for row in rows {
                this.input_tokens += row.input_ids.len() as u64;
                // In f64 first: f32 cannot hold every count.
                this.add(row, (1.0 / divisor as f64) as f32, max_tokens);
            }
        }
        this
    }

    fn add(&mut self, row: &Row, weight: f32, max_tokens: usize) {
        let Some((last, _)) = row.targets().last() else {
            return;
        };
        let len = last + 1;
        let has_room = |pass: &Pass| pass.batch.input_ids.len() + len <= max_tokens;
        if !self.passes.last().is_some_and(has_room) {
            self.passes.push(Pass::empty());
        }
        let pass = self
            .passes
            .last_mut()
            .expect("one was pushed where there was none");
        pass.add(row, len, weight);
    }
}

impl Pass {
    fn empty() -> Self {
        let batch = TokenBatch {
            input_ids: Vec::new(),
            segments: Vec::new(),
            targets: Vec::new(),
        };
        Self {
            batch,
            rows: Vec::new(),
        }
    }

    fn add(&mut self, row: &Row, len: usize, weight: f32) {
        let start = self.batch.input_ids.len();
        self.batch.input_ids.extend(row.input_ids.iter().take(len));
        self.batch.segments.push(Segment {
            start,
            len,
            prefix: None,
        });
        for (position, id) in row.targets() {
            let position = (start + position) as u32;
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

    #[test]
    fn labels_are_shifted_inside_each_row_and_tails_are_left_out() {
        let packed = Passes::new(&rows(), LossNormalization::Tokens, 100, false);
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
            let packed = Passes::new(&rows(), normalization, 100, false);
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
        let packed = Passes::new(&rows(), LossNormalization::Tokens, 100, true);
        assert_eq!(packed.num_items, 5);
        assert_eq!(packed.passes[0].batch.targets[0].weight, 1.0 / 6.0);
    }

    #[test]
    fn a_token_budget_splits_an_update_and_changes_no_target() {
        let whole = Passes::new(&rows(), LossNormalization::Tokens, 100, false);
        let split = Passes::new(&rows(), LossNormalization::Tokens, 3, false);
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
        assert_eq!(
            Passes::new(&rows(), LossNormalization::Tokens, 1, false)
                .passes
                .len(),
            3
        );
    }

    #[test]
    fn an_update_of_masked_rows_has_no_pass() {
        let masked = vec![vec![row(0, &[1, 2, 3], 0..0)]];
        let packed = Passes::new(&masked, LossNormalization::Tokens, 100, false);
        assert!(packed.passes.is_empty() && packed.num_items == 0 && packed.input_tokens == 3);
    }

    #[test]
    fn a_row_with_a_bad_loss_is_named_once() {
        let packed = Passes::new(&rows(), LossNormalization::Tokens, 100, false);
        let losses = [f32::NAN, f32::INFINITY, 1.0, 1.0, f32::NAN];
        assert_eq!(packed.passes[0].rows_not_finite(&losses), [7, 9]);
    }
}
