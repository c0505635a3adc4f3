//! The order of rows in each epoch.

use data::order::epoch_order;

use crate::arguments::SamplingStrategy;
use crate::plan::Plan;

/// Orders by epoch; the one at hand is kept.
pub(crate) struct RowOrder {
    strategy: SamplingStrategy,
    seed: u64,
    rows: usize,
    epoch: Option<u64>,
    order: Vec<u32>,
}

impl RowOrder {
    pub(crate) fn new(plan: &Plan, rows: usize) -> Self {
        let strategy = plan.arguments.train_sampling_strategy;
        Self {
            strategy,
            seed: plan.data_seed,
            rows,
            epoch: None,
            order: Vec::new(),
        }
    }

    pub(crate) fn of_epoch(&mut self, epoch: u64) -> &[u32] {
        if self.epoch != Some(epoch) {
            self.order = match self.strategy {
                SamplingStrategy::Random => epoch_order(self.rows, self.seed, epoch),
                SamplingStrategy::Sequential => (0..self.rows as u32).collect(),
            };
            self.epoch = Some(epoch);
        }
        &self.order
    }
}
