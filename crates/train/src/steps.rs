//! Which rows make which update: the Trainer's step arithmetic.

use std::ops::Range;

/// How a data set is cut into micro-batches, updates and epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Rows of the data set.
    pub examples: usize,
    /// Rows of one micro-batch.
    pub batch_size: usize,
    /// Micro-batches of one update.
    pub accumulation: usize,
    /// Micro-batches of one epoch, at least 1.
    pub batches_per_epoch: u64,
}

/// Where an update lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Its micro-batches, numbered inside the epoch.
    pub batches: Range<u64>,
    /// Whether it is the epoch's last.
    pub ends_epoch: bool,
}

impl Steps {
    /// `None` where not even one micro-batch comes out.
    pub fn new(
        examples: usize,
        batch_size: usize,
        accumulation: usize,
        drop_last: bool,
    ) -> Option<Self> {
        let batches = match (batch_size, drop_last) {
            (0, _) => 0,
            (size, true) => examples / size,
            (size, false) => examples.div_ceil(size),
        };
        let batches_per_epoch = batches as u64;
        let possible = batches_per_epoch > 0 && accumulation > 0;
        possible.then_some(Self {
            examples,
            batch_size,
            accumulation,
            batches_per_epoch,
        })
    }

    /// Updates of one epoch: a short last group of micro-batches is an update of its own.
    pub fn updates_per_epoch(&self) -> u64 {
        self.batches_per_epoch.div_ceil(self.accumulation as u64)
    }

    /// Where the update that follows `done` updates lies.
    pub fn place(&self, done: u64) -> Place {
        let per_epoch = self.updates_per_epoch();
        let (epoch, inside) = (done / per_epoch, done % per_epoch);
        let accumulation = self.accumulation as u64;
        let first = inside * accumulation;
        let end = (first + accumulation).min(self.batches_per_epoch);
        Place {
            epoch,
            batches: first..end,
            ends_epoch: end == self.batches_per_epoch,
        }
    }

    /// Epochs after `done` updates, as logged: not rounded (transformers 4 rounded to two decimals).
    pub fn epoch_after(&self, done: u64) -> f64 {
        let Some(last) = done.checked_sub(1) else {
            return 0.0;
        };
        let place = self.place(last);
        place.epoch as f64 + place.batches.end as f64 / self.batches_per_epoch as f64
    }

    /// The rows of an epoch's micro-batch, as positions in the epoch's order.
    pub fn rows(&self, batch: u64) -> Range<usize> {
        let first = batch as usize * self.batch_size;
        first..(first + self.batch_size).min(self.examples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tutorials_run_has_one_update_for_every_eight_rows_and_a_short_last_one() {
        let steps = Steps::new(26_858, 1, 8, false).unwrap();
        assert_eq!(steps.updates_per_epoch(), 3358);
        assert_eq!(steps.place(3357).batches, 26_856..26_858);
        assert!(steps.place(3357).ends_epoch);
        assert_eq!(
            steps.place(3358),
            Place {
                epoch: 1,
                batches: 0..8,
                ends_epoch: false
            }
        );
    }

    #[test]
    fn a_short_last_batch_is_kept_or_dropped() {
        let kept = Steps::new(10, 4, 1, false).unwrap();
        assert_eq!((kept.updates_per_epoch(), kept.rows(2)), (3, 8..10));
        let dropped = Steps::new(10, 4, 1, true).unwrap();
        assert_eq!((dropped.updates_per_epoch(), dropped.rows(1)), (2, 4..8));
        assert_eq!(Steps::new(3, 4, 1, true), None);
        assert_eq!(Steps::new(0, 4, 1, false), None);
    }

    #[test]
    fn the_logged_epoch_counts_micro_batches() {
        let steps = Steps::new(7, 1, 3, false).unwrap();
        let logged: Vec<f64> = (0..=4).map(|done| steps.epoch_after(done)).collect();
        assert_eq!(logged, [0.0, 3.0 / 7.0, 6.0 / 7.0, 1.0, 1.0 + 3.0 / 7.0]);
    }

    #[test]
    fn every_row_is_in_exactly_one_update_of_an_epoch() {
        for (examples, batch, accumulation) in [(1, 1, 1), (7, 2, 3), (64, 8, 4), (65, 3, 5)] {
            let steps = Steps::new(examples, batch, accumulation, false).unwrap();
            let rows: Vec<usize> = (0..steps.updates_per_epoch())
                .flat_map(|update| steps.place(update).batches)
                .flat_map(|micro| steps.rows(micro))
                .collect();
            assert_eq!(rows, (0..examples).collect::<Vec<_>>());
        }
    }
}
