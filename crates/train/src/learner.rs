//! What the loop trains, and what it reads: the two things that it knows of a model and of a data set.

use std::path::Path;
use std::sync::Arc;

use data::{EncodedDataset, Example};
use durable::StagedFolder;
use engine::backend::Backend;
use model::{ModelError, Parameter, PassKey, TokenBatch};

use crate::error::TrainError;

/// Something with parameters and gradients.
pub trait Learner {
    /// Where its numbers are.
    type Backend: Backend;

    /// The backend itself.
    fn backend(&self) -> Arc<Self::Backend>;
    /// Everything that is trained, always in the same order.
    fn parameters(&self) -> &[Parameter<Self::Backend>];
    /// The same, for the optimizer.
    fn parameters_mut(&mut self) -> &mut [Parameter<Self::Backend>];
    /// Sets every gradient to zero.
    fn zero_grad(&mut self);
    /// Adds the gradient of `Σ weight·loss` and returns the unweighted loss of each target.
    ///
    /// # Errors
    /// A batch that does not fit the model, or a failure of the engine.
    fn forward_backward(
        &mut self,
        batch: &TokenBatch,
        key: PassKey,
    ) -> Result<Vec<f32>, ModelError>;
    /// The loss of each target, without dropout and gradients, with label smoothing as the Trainer's `eval_loss` has it.
    ///
    /// # Errors
    /// As [`Learner::forward_backward`].
    fn losses(&self, batch: &TokenBatch) -> Result<Vec<f32>, ModelError>;
    /// Share of the target's probability given to all tokens alike.
    fn set_label_smoothing(&mut self, label_smoothing: f32);
    /// Whether passes keep of each block its input alone. Nothing to do where there are no blocks.
    fn set_activation_checkpointing(&mut self, _activation_checkpointing: bool) {}
    /// Whether the Trainer counts a label at position 0, which nothing predicts, among the tokens that
    /// it divides by. It does for GPT-2, whose class name does not tell it that labels shift.
    fn counts_first_label(&self) -> bool {
        false
    }
    /// Elements of all its parameters, frozen ones too, but not of embeddings: what the Trainer's estimate of floating-point
    /// operations multiplies by. 0 where there is no such count, as the Trainer does.
    fn num_parameters_without_embeddings(&self) -> u64 {
        0
    }
    /// Whether rows that begin alike may compute their beginning once. Not where dropout makes them differ.
    ///
    /// * `training`: whether dropout applies.
    fn shares_prefixes(&self, _training: bool) -> bool {
        false
    }
    /// Writes the files that make what was learnt usable elsewhere: the adapter, the tokenizer.
    ///
    /// # Errors
    /// A failure to read a value back or to write a file.
    fn save(&self, folder: &mut StagedFolder) -> Result<(), TrainError>;
    /// Takes the values that [`Learner::save`] wrote.
    ///
    /// # Errors
    /// Files that are not of this learner's shape.
    fn load(&mut self, folder: &Path) -> Result<(), TrainError>;
}

/// Encoded rows by number.
pub trait Examples {
    /// Rows.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// One row; `labels[t]` is `input_ids[t]` or -100, not shifted.
    ///
    /// # Errors
    /// A row that can no longer be read.
    fn example(&self, index: usize) -> Result<Row, TrainError>;
}

impl Examples for EncodedDataset {
    fn len(&self) -> usize {
        self.len()
    }

    fn example(&self, index: usize) -> Result<Row, TrainError> {
        let Example { input_ids, labels } = self.get(index);
        Ok(Row {
            index,
            input_ids,
            labels,
        })
    }
}

/// One encoded row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number in the data set.
    pub index: usize,
    /// T ids.
    pub input_ids: Vec<u32>,
    /// T labels; a negative one is not learnt.
    pub labels: Vec<i32>,
}

impl Row {
    /// Whether its first token has a label.
    pub(crate) fn labels_first(&self) -> bool {
        self.labels.first().is_some_and(|label| *label >= 0)
    }

    /// What is learnt from it: the position whose hidden state predicts, and the id to predict.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (usize, u32)> {
        let next = self.labels.iter().skip(1);
        next.enumerate()
            .filter_map(|(position, label)| u32::try_from(*label).ok().map(|id| (position, id)))
    }
}
