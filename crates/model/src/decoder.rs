//! The decoder: embedding, blocks, head; forward, and backward down to the lowest trained parameter.

use std::sync::Arc;

use engine::backend::Backend;
use engine::shapes::{Segment, View};

use crate::batch::{PassKey, TokenBatch, positions};
use crate::block::{Block, Pass, Rows, Stage};
use crate::error::ModelError;
use crate::head::Labels;
use crate::norm::NormSlot;
use crate::parameter::{MatrixSlot, Parameter};
use crate::projection::{Grads, Projection};
use crate::spec::{DecoderSpec, Positions};

mod blocks;

/// A causal decoder whose weights are looked at in their files, with slots for what is trained.
pub struct Decoder<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) spec: DecoderSpec,
    pub(crate) embedding: MatrixSlot<B>,
    pub(crate) position_table: Option<MatrixSlot<B>>,
    pub(crate) embedding_norm: Option<NormSlot<B>>,
    pub(crate) blocks: Vec<Block<B>>,
    pub(crate) final_norm: NormSlot<B>,
    pub(crate) head: Projection<B>,
    pub(crate) trained: Vec<Parameter<B>>,
    pub(crate) label_smoothing: f32,
    pub(crate) activation_checkpointing: bool,
}

/// The lowest place where something learns: nothing below it keeps or computes a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Floor {
    Embedding,
    Block(usize, Stage),
    Head,
}

impl<B: Backend> Decoder<B> {
    /// Where the numbers are.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The same, to keep.
    pub fn shared_backend(&self) -> Arc<B> {
        Arc::clone(&self.backend)
    }

    /// What is computed.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Every trained parameter, in the order in which they were added.
    pub fn trainable(&self) -> &[Parameter<B>] {
        &self.trained
    }

    /// The same, for an optimizer.
    pub fn trainable_mut(&mut self) -> &mut [Parameter<B>] {
        &mut self.trained
    }

    /// Share of the target's probability given to all tokens alike, in training and where a run is evaluated.
    pub fn label_smoothing(&self) -> f32 {
        self.label_smoothing
    }

    /// Sets [`Decoder::label_smoothing`].
    pub fn set_label_smoothing(&mut self, label_smoothing: f32) {
        self.label_smoothing = label_smoothing;
    }

    /// Whether a training pass keeps of each block its input alone, and the backward pass runs the block again: less
    /// memory, more time, the same bits.
    pub fn set_activation_checkpointing(&mut self, activation_checkpointing: bool) {
        self.activation_checkpointing = activation_checkpointing;
    }

    /// Whether a training pass drops anything.
    pub fn has_dropout(&self) -> bool {
        let blocks = self.blocks.iter().flat_map(Block::projections);
        blocks.chain([&self.head]).any(Projection::has_dropout)
    }

    /// Sets every gradient to zero.
    pub fn zero_grad(&mut self) {
        for parameter in &mut self.trained {
            self.backend.fill(&mut parameter.grad, 0.0);
        }
    }

    /// One pass: adds the gradient of `Σ weight·loss` to every trained parameter's `grad`, and returns the
    /// unweighted loss of each target, in order.
    ///
    /// # Errors
    /// A batch that does not fit the model, or a failure of the engine.
    pub fn forward_backward(
        &mut self,
        batch: &TokenBatch,
        key: PassKey,
    ) -> Result<Vec<f32>, ModelError> {
        self.check(&batch.input_ids, &batch.segments)?;
        if batch.targets.is_empty() {
            return Ok(Vec::new());
        }
        let backend = Arc::clone(&self.backend);
        let take =
            |parameter: &mut Parameter<B>| std::mem::replace(&mut parameter.grad, backend.alloc(0));
        let mut grads: Vec<B::Buf> = self.trained.iter_mut().map(take).collect();
        let losses = self.pass(batch, key, &mut grads);
        for (parameter, grad) in self.trained.iter_mut().zip(grads) {
            parameter.grad = grad;
        }
        Ok(self.backend.download(&losses)?)
    }

    /// The loss of each target, without dropout and without gradients.
    ///
    /// * `label_smoothing`: as in training, or 0 for the loss of the targets alone.
    ///
    /// # Errors
    /// As [`Decoder::forward_backward`].
    pub fn losses(&self, batch: &TokenBatch, label_smoothing: f32) -> Result<Vec<f32>, ModelError> {
        self.check(&batch.input_ids, &batch.segments)?;
        if batch.targets.is_empty() {
            return Ok(Vec::new());
        }
        let labels = Labels::new(self.backend(), &batch.targets, label_smoothing);
        let rows: Vec<u32> = batch.targets.iter().map(|target| target.position).collect();
        let x = self.forward_rows(&batch.input_ids, &batch.segments, &rows);
        Ok(self.backend.download(&self.head_losses(&x, &labels))?)
    }

    /// Logits `[rows, V]` at the given positions of one sequence.
    ///
    /// # Errors
    /// As [`Decoder::forward_backward`].
    pub fn logits(&self, input_ids: &[u32], rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        let segments = [Segment {
            start: 0,
            len: input_ids.len(),
            prefix: None,
        }];
        self.check(input_ids, &segments)?;
        let x = self.forward_rows(input_ids, &segments, rows);
        Ok(self.backend.download(&self.head_logits(&x, rows.len()))?)
    }

    fn pass(&self, batch: &TokenBatch, key: PassKey, grads: &mut [B::Buf]) -> B::Buf {
        let backend = self.backend();
        let floor = self.floor();
        let positions = positions(&batch.segments);
        let ids = backend.upload_ids(&positions);
        let rope = self.rope_table(&positions);
        let pass = Pass {
            backend,
            spec: &self.spec,
            segments: &batch.segments,
            positions: &ids,
            rope: rope.as_ref().map(|(table, span)| View {
                buf: table,
                span: *span,
            }),
            training: Some(key),
        };
        let rows: Vec<u32> = batch.targets.iter().map(|target| target.position).collect();
        let rows = Rows {
            ids: backend.upload_ids(&rows),
            count: rows.len(),
        };
        let (x, embedded) = self.embed(&batch.input_ids, &ids);
        let (x, saved) = self.blocks_forward(&pass, x, &rows, floor);
        let labels = Labels::new(backend, &batch.targets, self.label_smoothing);
        let mut into = Grads {
            values: &self.trained,
            grads,
        };
        let (losses, dx) = self.head_backward(&mut into, key, &x, &labels, floor != Floor::Head);
        let dx = dx.and_then(|dx| self.blocks_backward(&pass, &mut into, saved, dx, &rows, floor));
        if let Some(dx) = dx {
            self.embed_backward(&mut into, embedded, &batch.input_ids, &ids, dx);
        }
        losses
    }

    /// The last block's output `[rows, D]`; nothing is kept.
    fn forward_rows(&self, input_ids: &[u32], segments: &[Segment], rows: &[u32]) -> B::Buf {
        let backend = self.backend();
        let positions = positions(segments);
        let ids = backend.upload_ids(&positions);
        let rope = self.rope_table(&positions);
        let pass = Pass {
            backend,
            spec: &self.spec,
            segments,
            positions: &ids,
            rope: rope.as_ref().map(|(table, span)| View {
                buf: table,
                span: *span,
            }),
            training: None,
        };
        let rows = Rows {
            ids: backend.upload_ids(rows),
            count: rows.len(),
        };
        let (x, _) = self.embed(input_ids, &ids);
        self.blocks_forward(&pass, x, &rows, Floor::Head).0
    }

    fn floor(&self) -> Floor {
        let position_table = self.position_table.as_ref().and_then(MatrixSlot::trained);
        let norm = self
            .embedding_norm
            .as_ref()
            .and_then(|norm| norm.trained().next());
        if self
            .embedding
            .trained()
            .or(position_table)
            .or(norm)
            .is_some()
        {
            return Floor::Embedding;
        }
        let lowest = |(number, block): (usize, &Block<B>)| {
            Some(Floor::Block(number, block.lowest_trained()?))
        };
        self.blocks
            .iter()
            .enumerate()
            .find_map(lowest)
            .unwrap_or(Floor::Head)
    }

    /// The table of cosines and sines up to the highest of `positions`, for families that rotate.
    pub(crate) fn rope_table(&self, positions: &[u32]) -> Option<(B::Buf, engine::shapes::Span)> {
        let Positions::Rope {
            inv_freq,
            attention_scaling,
        } = &self.spec.positions
        else {
            return None;
        };
        let rows = positions
            .iter()
            .max()
            .map_or(1, |position| *position as usize + 1);
        Some(crate::rope::table(
            self.backend(),
            inv_freq,
            *attention_scaling,
            rows,
        ))
    }

    pub(crate) fn check(&self, input_ids: &[u32], segments: &[Segment]) -> Result<(), ModelError> {
        let vocab_size = self.spec.vocab_size;
        if let Some(id) = input_ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(ModelError::TokenId {
                id: *id,
                vocab_size,
            });
        }
        let len = segments
            .iter()
            .map(|segment| segment.first_position() + segment.len)
            .max()
            .unwrap_or(0);
        match self.spec.positions {
            Positions::Learned { rows } if len > rows => {
                Err(ModelError::TooLong { len, max: rows })
            }
            _ => Ok(()),
        }
    }
}

impl Floor {
    /// How far down block `number` has to go; `None`: nothing in it or below it learns.
    fn stop(self, number: usize) -> Option<Stage> {
        match self {
            Self::Embedding => Some(Stage::Input),
            Self::Block(lowest, stage) if number == lowest => Some(stage),
            Self::Block(lowest, _) if number > lowest => Some(Stage::Input),
            Self::Block(..) | Self::Head => None,
        }
    }
}
