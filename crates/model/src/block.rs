//! One block: attention and MLP around two residuals, forward and backward, for every family.
//!
//! What the backward pass needs is in [`Saved`] and nowhere else. Norm outputs, activations and attention
//! are not in it: they are cheap to compute again. Attention's gradient makes the softmax again from the queries, keys and
//! values that were kept; its output is computed again only where a trained projection reads it.

use engine::backend::{Backend, Qkv};
use engine::shapes::{Rotation, Segment, View, ViewMut, Write};

use crate::batch::PassKey;
use crate::norm::NormSlot;
use crate::parameter::Parameter;
use crate::projection::{LowRankInputs, Projection, group_forward};
use crate::spec::DecoderSpec;

mod backward;
mod pass;

pub(crate) struct Block<B: Backend> {
    pub(crate) attention_norm: NormSlot<B>,
    pub(crate) qkv: Vec<Projection<B>>,
    pub(crate) attention_output: Projection<B>,
    pub(crate) mlp_norm: NormSlot<B>,
    pub(crate) mlp_input: Vec<Projection<B>>,
    pub(crate) mlp_output: Projection<B>,
}

/// The parts of a block in the order of the forward pass. The backward pass walks down to the
/// lowest part that has something to learn and stops there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Something below the block learns: the gradient of its input is wanted.
    Input,
    AttentionNorm,
    Qkv,
    AttentionOutput,
    MlpNorm,
    MlpInput,
    MlpOutput,
}

/// What all blocks of a pass share.
pub(crate) struct Pass<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) segments: &'a [Segment],
    pub(crate) positions: &'a B::Ids,
    /// Cosines and sines, for families that rotate.
    pub(crate) rope: Option<View<'a, B::Buf>>,
    /// Present in training: dropout applies.
    pub(crate) training: Option<PassKey>,
}

/// What a forward pass is followed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// No backward pass through this block: nothing is kept.
    Nothing,
    /// A pass with [`Keep::SavedAlone`], from the input: nothing else is kept, and the output has the bits that it has
    /// with [`Keep::Saved`].
    Input,
    /// The backward pass, of [`Saved`].
    Saved,
    /// The same, of a block whose output is known: what makes nothing but the output is left out.
    SavedAlone,
}

/// The rows of the stream that anything above the last block's attention looks at: in training, one for each target.
pub(crate) struct Rows<B: Backend> {
    pub(crate) ids: B::Ids,
    pub(crate) count: usize,
}

/// What one block keeps for its backward pass.
pub(crate) struct Saved<B: Backend> {
    attention: AttentionSaved<B>,
    mlp: MlpSaved<B>,
}

struct AttentionSaved<B: Backend> {
    /// `[T, D]` block input.
    x: B::Kept,
    /// `[T, 2]` of the norm.
    stats: B::Buf,
    /// `[T, (H+2K)·E]` after rotation.
    qkv: B::Kept,
    qkv_inputs: LowRankInputs<B>,
    output_input: Option<B::Buf>,
}

struct MlpSaved<B: Backend> {
    /// `[L, D]` residual between attention and MLP.
    middle: B::Kept,
    /// `[L, 2]` of the norm.
    stats: B::Buf,
    hidden: HiddenKept<B>,
    hidden_inputs: LowRankInputs<B>,
    output_input: Option<B::Buf>,
}

/// What the backward pass needs of the MLP's middle.
enum Hidden<Before, Slopes> {
    /// `[L, I]` or `[L, 2I]`, before the activation.
    Before(Before),
    /// Of `[L, I]` the activation's slopes: nothing trained reads the activation itself.
    Slopes(Slopes),
}

impl Keep {
    fn saves(self) -> bool {
        matches!(self, Self::Saved | Self::SavedAlone)
    }
}

type HiddenKept<B> = Hidden<<B as Backend>::Kept, <B as Backend>::Slopes>;

impl<B: Backend> Block<B> {
    /// The lowest stage with something trained.
    pub(crate) fn lowest_trained(&self) -> Option<Stage> {
        let projections =
            |group: &[Projection<B>]| group.iter().any(|p| p.trained().next().is_some());
        let stages = [
            (
                Stage::AttentionNorm,
                self.attention_norm.trained().next().is_some(),
            ),
            (Stage::Qkv, projections(&self.qkv)),
            (
                Stage::AttentionOutput,
                self.attention_output.trained().next().is_some(),
            ),
            (Stage::MlpNorm, self.mlp_norm.trained().next().is_some()),
            (Stage::MlpInput, projections(&self.mlp_input)),
            (Stage::MlpOutput, self.mlp_output.trained().next().is_some()),
        ];
        stages
            .into_iter()
            .find(|(_, trained)| *trained)
            .map(|(stage, _)| stage)
    }

    pub(crate) fn projections(&self) -> impl Iterator<Item = &Projection<B>> {
        let outputs = [&self.attention_output, &self.mlp_output];
        self.qkv.iter().chain(&self.mlp_input).chain(outputs)
    }

    pub(crate) fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection<B>> {
        let output = std::iter::once(&mut self.attention_output);
        let mlp = std::iter::once(&mut self.mlp_output);
        self.qkv
            .iter_mut()
            .chain(output)
            .chain(&mut self.mlp_input)
            .chain(mlp)
    }

    /// `[T, D]` to `[L, D]`, L being T unless `rows` picks some. With [`Keep::SavedAlone`] the first is no output.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_, B>,
        trained: &[Parameter<B>],
        x: B::Buf,
        rows: Option<&Rows<B>>,
        keep: Keep,
    ) -> (B::Buf, Option<Saved<B>>) {
        let (middle, attention) = self.attention_forward(pass, trained, x, rows, keep);
        let (y, mlp) = self.mlp_forward(pass, trained, middle, rows, keep);
        let saved = attention
            .zip(mlp)
            .map(|(attention, mlp)| Saved { attention, mlp });
        (y, saved)
    }

    fn attention_forward(
        &self,
        pass: &Pass<'_, B>,
        trained: &[Parameter<B>],
        x: B::Buf,
        rows: Option<&Rows<B>>,
        keep: Keep,
    ) -> (B::Buf, Option<AttentionSaved<B>>) {
        let Pass { backend, spec, .. } = *pass;
        let (tokens, hidden_size) = (pass.tokens(), spec.hidden_size);
        let (normed, stats) =
            self.attention_norm
                .forward(backend, trained, View::dense(&x, tokens, hidden_size));
        let (qkv, qkv_inputs) = self.qkv_forward(pass, trained, &normed);
        let made = View::dense(&qkv, tokens, spec.qkv_width);
        let attention = pass.attend(Qkv::Made(made));
        let kept = keep
            .saves()
            .then(|| (backend.keep_copy(&x), backend.keep(qkv)));
        let residual = if spec.residual_after_norm { normed } else { x };
        let mut middle = pass.pick(residual, hidden_size, rows);
        let attention = pass.pick(attention, spec.attention_width(), rows);
        let count = pass.count(rows);
        let read = View::dense(&attention, count, spec.attention_width());
        let write = ViewMut::dense(&mut middle, count, hidden_size);
        let masks = pass.masks(rows);
        let output_input =
            self.attention_output
                .forward(backend, trained, read, write, Write::Add, masks);
        let saved = kept.map(|(x, qkv)| AttentionSaved {
            x,
            stats,
            qkv,
            qkv_inputs,
            output_input,
        });
        (middle, saved)
    }

    /// The forward pass of new tokens behind `past` ones whose keys and values are cached.
    pub(crate) fn forward_cached(
        &self,
        pass: &Pass<'_, B>,
        trained: &[Parameter<B>],
        x: B::Buf,
        cache: (&mut B::Buf, &mut B::Buf),
        past: usize,
    ) -> B::Buf {
        let Pass { backend, spec, .. } = *pass;
        let tokens = pass.tokens();
        let width = spec.attention_width();
        let (normed, _) = self.attention_norm.forward(
            backend,
            trained,
            View::dense(&x, tokens, spec.hidden_size),
        );
        let (qkv, _) = self.qkv_forward(pass, trained, &normed);
        let mut attention = backend.alloc(tokens * width);
        backend.attention_cached(
            &spec.attention,
            View::dense(&qkv, tokens, spec.qkv_width),
            cache.0,
            cache.1,
            past,
            ViewMut::dense(&mut attention, tokens, width),
        );
        let mut middle = if spec.residual_after_norm { normed } else { x };
        let read = View::dense(&attention, tokens, width);
        let write = ViewMut::dense(&mut middle, tokens, spec.hidden_size);
        self.attention_output
            .forward(backend, trained, read, write, Write::Add, None);
        self.mlp_forward(pass, trained, middle, None, Keep::Nothing)
            .0
    }

    fn qkv_forward(
        &self,
        pass: &Pass<'_, B>,
        trained: &[Parameter<B>],
        normed: &B::Buf,
    ) -> (B::Buf, LowRankInputs<B>) {
        let Pass { backend, spec, .. } = *pass;
        let (tokens, width) = (pass.tokens(), spec.qkv_width);
        let mut qkv = backend.alloc(tokens * width);
        let read = View::dense(normed, tokens, spec.hidden_size);
        let write = ViewMut::dense(&mut qkv, tokens, width);
        let masks = pass.masks(None);
        let inputs = group_forward(&self.qkv, backend, trained, read, write, masks);
        pass.rotate(&mut qkv, Rotation::Forward);
        (qkv, inputs)
    }

    fn mlp_forward(
        &self,
        pass: &Pass<'_, B>,
        trained: &[Parameter<B>],
        middle: B::Buf,
        rows: Option<&Rows<B>>,
        keep: Keep,
    ) -> (B::Buf, Option<MlpSaved<B>>) {
        let Pass { backend, spec, .. } = *pass;
        let (hidden_size, width) = (spec.hidden_size, spec.mlp_width());
        let (count, masks) = (pass.count(rows), pass.masks(rows));
        let (normed, stats) =
            self.mlp_norm
                .forward(backend, trained, View::dense(&middle, count, hidden_size));
        let mut hidden = backend.alloc(count * width);
        let read = View::dense(&normed, count, hidden_size);
        let write = ViewMut::dense(&mut hidden, count, width);
        let hidden_inputs = group_forward(&self.mlp_input, backend, trained, read, write, masks);
        let kept_middle = keep.saves().then(|| backend.keep_copy(&middle));
        let (active, hidden) = self.activation_forward(pass, hidden, count, keep);
        let mut y = if spec.residual_after_norm {
            normed
        } else {
            middle
        };
        let read = View::dense(&active, count, spec.intermediate_size);
        let write = ViewMut::dense(&mut y, count, hidden_size);
        let is_wanted = keep != Keep::SavedAlone || self.mlp_output.lora.is_some();
        let output_input = is_wanted
            .then(|| {
                self.mlp_output
                    .forward(backend, trained, read, write, Write::Add, masks)
            })
            .flatten();
        let saved = kept_middle.zip(hidden).map(|(middle, hidden)| MlpSaved {
            middle,
            stats,
            hidden,
            hidden_inputs,
            output_input,
        });
        (y, saved)
    }

    fn activation_forward(
        &self,
        pass: &Pass<'_, B>,
        hidden: B::Buf,
        count: usize,
        keep: Keep,
    ) -> (B::Buf, Option<HiddenKept<B>>) {
        let Pass { backend, spec, .. } = *pass;
        // A value made beside its slope may differ from one made alone by a unit of the last place.
        if keep != Keep::Nothing && !spec.gated_mlp && !self.mlp_output.needs_input() {
            let (active, slopes) = backend.activation_keep(spec.activation, hidden, count);
            return (active, Some(Hidden::Slopes(slopes)));
        }
        let active = pass.activate(&hidden, count);
        let kept = keep.saves().then(|| Hidden::Before(backend.keep(hidden)));
        (active, kept)
    }
}
