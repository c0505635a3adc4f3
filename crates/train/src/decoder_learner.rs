//! A decoder as the loop sees it.

use std::path::Path;
use std::sync::Arc;

use durable::StagedFolder;
use engine::backend::Backend;
use model::{Decoder, ModelError, Parameter, PassKey, TokenBatch};

use crate::error::TrainError;
use crate::learner::Learner;

/// How what a decoder learnt is written and read again.
pub trait ModelFiles<B: Backend> {
    /// Writes everything that makes it usable elsewhere.
    ///
    /// # Errors
    /// A failure to read a value back or to write a file.
    fn save(&self, decoder: &Decoder<B>, folder: &mut StagedFolder) -> Result<(), TrainError>;
    /// Puts back what [`ModelFiles::save`] wrote.
    ///
    /// # Errors
    /// Files that are not of this decoder.
    fn load(&self, decoder: &mut Decoder<B>, folder: &Path) -> Result<(), TrainError>;
}

/// A decoder with its trained parameters and their files.
pub struct DecoderLearner<'a, B: Backend> {
    /// What learns.
    pub decoder: &'a mut Decoder<B>,
    /// How it is written.
    pub files: &'a dyn ModelFiles<B>,
    /// See [`Learner::num_parameters_without_embeddings`].
    pub num_parameters_without_embeddings: u64,
}

impl<B: Backend> Learner for DecoderLearner<'_, B> {
    type Backend = B;

    fn backend(&self) -> Arc<B> {
        self.decoder.shared_backend()
    }

    fn parameters(&self) -> &[Parameter<B>] {
        self.decoder.trainable()
    }

    fn parameters_mut(&mut self) -> &mut [Parameter<B>] {
        self.decoder.trainable_mut()
    }

    fn zero_grad(&mut self) {
        self.decoder.zero_grad();
    }

    fn forward_backward(
        &mut self,
        batch: &TokenBatch,
        key: PassKey,
    ) -> Result<Vec<f32>, ModelError> {
        self.decoder.forward_backward(batch, key)
    }

    fn losses(&self, batch: &TokenBatch) -> Result<Vec<f32>, ModelError> {
        let label_smoothing = self.decoder.label_smoothing();
        self.decoder.losses(batch, label_smoothing)
    }

    fn set_label_smoothing(&mut self, label_smoothing: f32) {
        self.decoder.set_label_smoothing(label_smoothing);
    }

    fn set_activation_checkpointing(&mut self, activation_checkpointing: bool) {
        self.decoder
            .set_activation_checkpointing(activation_checkpointing);
    }

    fn counts_first_label(&self) -> bool {
        self.decoder.spec().counts_first_label()
    }

    fn num_parameters_without_embeddings(&self) -> u64 {
        self.num_parameters_without_embeddings
    }

    fn shares_prefixes(&self, training: bool) -> bool {
        !(training && self.decoder.has_dropout())
    }

    fn save(&self, folder: &mut StagedFolder) -> Result<(), TrainError> {
        self.files.save(self.decoder, folder)
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.files.load(self.decoder, folder)
    }
}
