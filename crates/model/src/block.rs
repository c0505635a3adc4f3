//! One block: attention and MLP around two residuals, forward and backward, for every family.
//!
//! What the backward pass needs is in [`Saved`] and nowhere else. Norm outputs and activations are
//! not in it: they are cheap to compute again, and only where something trained reads them.

use engine::backend::Backend;
use engine::shapes::{Rotation, Segment, View, ViewMut, Write};

use crate::batch::PassKey;
use crate::norm::NormSlot;
use crate::parameter::Parameter;
use crate::projection::{Grads, LowRankInputs, Projection, group_backward, group_forward};
use crate::spec::DecoderSpec;

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

/// The rows of the stream that anything above the last block's attention looks at.
pub(crate) struct Rows<B: Backend> {
    pub(crate) ids: B::Ids,
    pub(crate) count: usize,
}

/// What one block keeps for its backward pass.
pub(crate) struct Saved<B: Backend> {
    /// `[T, D]` block input.
    x: B::Buf,
    /// `[T, 2]`
    attention_stats: B::Buf,
    /// `[T, (H+2K)·E]` after rotation.
    qkv: B::Buf,
    qkv_inputs: LowRankInputs<B>,
    /// `[T, H·E]`
    attention: B::Buf,
    /// `[T, H]`
    lse: B::Buf,
    /// `[L, H·E]`: the rows of `attention` that go on, in the last block.
    attention_rows: Option<B::Buf>,
    output_input: Option<B::Buf>,
    /// `[L, D]` residual between attention and MLP.
    middle: B::Buf,
    /// `[L, 2]`
    mlp_stats: B::Buf,
    /// `[L, I]` or `[L, 2I]`, before the activation.
    hidden: B::Buf,
    hidden_inputs: LowRankInputs<B>,
    mlp_output_input: Option<B::Buf>,
}

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

    pub(crate) fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection<B>> {
        let output = std::iter::once(&mut self.attention_output);
        let mlp = std::iter::once(&mut self.mlp_output);
        self.qkv
            .iter_mut()
            .chain(output)
            .chain(&mut self.mlp_input)
            .chain(mlp)
    }

    /// `[T, D]` to `[L, D]`, L being T unless `rows` picks some. With `keep`, what the backward pass needs.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_, B>,
        trained: &[Parameter<B>],
        x: B::Buf,
        rows: Option<&Rows<B>>,
        keep: bool,
    ) -> (B::Buf, Option<Saved<B>>) {
        let Pass { backend, spec, .. } = *pass;
        let tokens = pass.tokens();
        let (hidden_size, width) = (spec.hidden_size, spec.attention_width());
        let (normed, attention_stats) =
            self.attention_norm
                .forward(backend, trained, View::dense(&x, tokens, hidden_size));
        let (qkv, qkv_inputs) = self.qkv_forward(pass, trained, &normed);
        let mut attention = backend.alloc(tokens * width);
        let mut lse = backend.alloc(tokens * spec.attention.heads);
        backend.attention(
            &spec.attention,
            View::dense(&qkv, tokens, spec.qkv_width),
            pass.segments,
            ViewMut::dense(&mut attention, tokens, width),
            &mut lse,
        );
        let kept_input = keep.then(|| pass.duplicate(&x, tokens, hidden_size));
        let residual = if spec.residual_after_norm { normed } else { x };
        let (mut middle, attention_rows) = pass.pick(residual, &attention, rows);
        let output_input = {
            let count = rows.map_or(tokens, |rows| rows.count);
            let read = View::dense(attention_rows.as_ref().unwrap_or(&attention), count, width);
            let write = ViewMut::dense(&mut middle, count, hidden_size);
            self.attention_output
                .forward(backend, trained, read, write, Write::Add, pass.training)
        };
        let count = rows.map_or(tokens, |rows| rows.count);
        let mlp = self.mlp_forward(pass, trained, middle, count, keep);
        let saved = kept_input.zip(mlp.middle).map(|(x, middle)| Saved {
            x,
            attention_stats,
            qkv,
            qkv_inputs,
            attention,
            lse,
            attention_rows,
            output_input,
            middle,
            mlp_stats: mlp.stats,
            hidden: mlp.hidden,
            hidden_inputs: mlp.hidden_inputs,
            mlp_output_input: mlp.output_input,
        });
        (mlp.y, saved)
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
        self.mlp_forward(pass, trained, middle, tokens, false).y
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
        let inputs = group_forward(&self.qkv, backend, trained, read, write, pass.training);
        pass.rotate(&mut qkv, Rotation::Forward);
        (qkv, inputs)
    }

    fn mlp_forward(
        &self,
        pass: &Pass<'_, B>,
        trained: &[Parameter<B>],
        middle: B::Buf,
        count: usize,
        keep: bool,
    ) -> MlpOutput<B> {
        let Pass { backend, spec, .. } = *pass;
        let (hidden_size, width) = (spec.hidden_size, spec.mlp_width());
        let (normed, stats) =
            self.mlp_norm
                .forward(backend, trained, View::dense(&middle, count, hidden_size));
        let mut hidden = backend.alloc(count * width);
        let read = View::dense(&normed, count, hidden_size);
        let write = ViewMut::dense(&mut hidden, count, width);
        let hidden_inputs = group_forward(
            &self.mlp_input,
            backend,
            trained,
            read,
            write,
            pass.training,
        );
        let active = pass.activate(&hidden, count);
        let kept = keep.then(|| pass.duplicate(&middle, count, hidden_size));
        let mut y = if spec.residual_after_norm {
            normed
        } else {
            middle
        };
        let read = View::dense(&active, count, spec.intermediate_size);
        let write = ViewMut::dense(&mut y, count, hidden_size);
        let output_input =
            self.mlp_output
                .forward(backend, trained, read, write, Write::Add, pass.training);
        MlpOutput {
            y,
            middle: kept,
            stats,
            hidden,
            hidden_inputs,
            output_input,
        }
    }

    /// Adds the gradients of everything trained in this block from `stop` upwards, and returns the gradient of
    /// the block's input when `stop` is [`Stage::Input`].
    #[expect(
        clippy::too_many_arguments,
        reason = "the gradient of a block with what its forward pass kept"
    )]
    pub(crate) fn backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        key: PassKey,
        saved: Saved<B>,
        dy: B::Buf,
        rows: Option<&Rows<B>>,
        stop: Stage,
    ) -> Option<B::Buf> {
        let count = rows.map_or(pass.tokens(), |rows| rows.count);
        let dmiddle = self.mlp_backward(pass, into, key, &saved, dy, count, stop)?;
        let dattention = self.output_backward(pass, into, key, &saved, &dmiddle, count, stop)?;
        let (dattention, dresidual) = pass.spread(dattention, dmiddle, rows);
        self.attention_backward(pass, into, key, &saved, dattention, dresidual, stop)
    }

    /// Returns the gradient of the residual between attention and MLP, where it is wanted.
    #[expect(clippy::too_many_arguments, reason = "one stage of the backward pass")]
    fn mlp_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        key: PassKey,
        saved: &Saved<B>,
        dy: B::Buf,
        count: usize,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let hidden_size = spec.hidden_size;
        let dhidden = self.mlp_output_backward(pass, into, key, saved, &dy, count, stop)?;
        let middle = View::dense(&saved.middle, count, hidden_size);
        let needs_input = self.mlp_input.iter().any(Projection::needs_input);
        let normed = needs_input.then(|| self.mlp_norm.forward(backend, into.values, middle).0);
        let mut dnormed = (stop < Stage::MlpInput).then(|| backend.alloc(count * hidden_size));
        group_backward(
            &self.mlp_input,
            backend,
            into,
            key,
            normed
                .as_ref()
                .map(|normed| View::dense(normed, count, hidden_size)),
            &saved.hidden_inputs,
            View::dense(&dhidden, count, spec.mlp_width()),
            dnormed
                .as_mut()
                .map(|dnormed| ViewMut::dense(dnormed, count, hidden_size)),
        );
        let norm = (&self.mlp_norm, middle, &saved.mlp_stats);
        pass.norm_backward(into, norm, dnormed?, dy, stop < Stage::MlpNorm)
    }

    /// Returns the gradient of the MLP's middle, where it is wanted.
    #[expect(clippy::too_many_arguments, reason = "one stage of the backward pass")]
    fn mlp_output_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        key: PassKey,
        saved: &Saved<B>,
        dy: &B::Buf,
        count: usize,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let (inner, width) = (spec.intermediate_size, spec.mlp_width());
        let active = self
            .mlp_output
            .needs_input()
            .then(|| pass.activate(&saved.hidden, count));
        let mut dactive = (stop < Stage::MlpOutput).then(|| backend.alloc(count * inner));
        self.mlp_output.backward(
            backend,
            into,
            key,
            active
                .as_ref()
                .map(|active| View::dense(active, count, inner)),
            saved.mlp_output_input.as_ref(),
            View::dense(dy, count, spec.hidden_size),
            dactive
                .as_mut()
                .map(|dactive| (ViewMut::dense(dactive, count, inner), Write::Set)),
        );
        let dactive = dactive?;
        let mut dhidden = backend.alloc(count * width);
        let hidden = View::dense(&saved.hidden, count, width);
        let dactive = View::dense(&dactive, count, inner);
        let write = ViewMut::dense(&mut dhidden, count, width);
        if spec.gated_mlp {
            backend.gated_activation_backward(spec.activation, hidden, dactive, write);
        } else {
            backend.activation_backward(spec.activation, hidden, dactive, write);
        }
        Some(dhidden)
    }

    /// Returns the gradient of the attention's output rows, where it is wanted.
    #[expect(clippy::too_many_arguments, reason = "one stage of the backward pass")]
    fn output_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        key: PassKey,
        saved: &Saved<B>,
        dmiddle: &B::Buf,
        count: usize,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let width = spec.attention_width();
        let read = saved.attention_rows.as_ref().unwrap_or(&saved.attention);
        let mut dattention = (stop < Stage::AttentionOutput).then(|| backend.alloc(count * width));
        self.attention_output.backward(
            backend,
            into,
            key,
            Some(View::dense(read, count, width)),
            saved.output_input.as_ref(),
            View::dense(dmiddle, count, spec.hidden_size),
            dattention
                .as_mut()
                .map(|dattention| (ViewMut::dense(dattention, count, width), Write::Set)),
        );
        dattention
    }

    #[expect(clippy::too_many_arguments, reason = "one stage of the backward pass")]
    fn attention_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        key: PassKey,
        saved: &Saved<B>,
        dattention: B::Buf,
        dresidual: B::Buf,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let (tokens, hidden_size, width) =
            (pass.tokens(), spec.hidden_size, spec.attention_width());
        let mut dqkv = backend.alloc(tokens * spec.qkv_width);
        backend.attention_backward(
            &spec.attention,
            View::dense(&saved.qkv, tokens, spec.qkv_width),
            pass.segments,
            View::dense(&saved.attention, tokens, width),
            &saved.lse,
            View::dense(&dattention, tokens, width),
            ViewMut::dense(&mut dqkv, tokens, spec.qkv_width),
        );
        pass.rotate(&mut dqkv, Rotation::Backward);
        let x = View::dense(&saved.x, tokens, hidden_size);
        let needs_input = self.qkv.iter().any(Projection::needs_input);
        let normed = needs_input.then(|| self.attention_norm.forward(backend, into.values, x).0);
        let mut dnormed = (stop < Stage::Qkv).then(|| backend.alloc(tokens * hidden_size));
        group_backward(
            &self.qkv,
            backend,
            into,
            key,
            normed
                .as_ref()
                .map(|normed| View::dense(normed, tokens, hidden_size)),
            &saved.qkv_inputs,
            View::dense(&dqkv, tokens, spec.qkv_width),
            dnormed
                .as_mut()
                .map(|dnormed| ViewMut::dense(dnormed, tokens, hidden_size)),
        );
        let norm = (&self.attention_norm, x, &saved.attention_stats);
        pass.norm_backward(into, norm, dnormed?, dresidual, stop < Stage::AttentionNorm)
    }
}

struct MlpOutput<B: Backend> {
    y: B::Buf,
    middle: Option<B::Buf>,
    stats: B::Buf,
    hidden: B::Buf,
    hidden_inputs: LowRankInputs<B>,
    output_input: Option<B::Buf>,
}

impl<B: Backend> Pass<'_, B> {
    pub(crate) fn tokens(&self) -> usize {
        self.segments
            .last()
            .map_or(0, |segment| segment.start + segment.len)
    }

    fn duplicate(&self, x: &B::Buf, rows: usize, cols: usize) -> B::Buf {
        let mut copy = self.backend.alloc(rows * cols);
        let write = ViewMut::dense(&mut copy, rows, cols);
        self.backend
            .copy(View::dense(x, rows, cols), write, Write::Set);
        copy
    }

    fn rotate(&self, qkv: &mut B::Buf, rotation: Rotation) {
        if let Some(table) = self.rope {
            let qkv = ViewMut::dense(qkv, self.tokens(), self.spec.qkv_width);
            self.backend
                .rotate(&self.spec.attention, qkv, self.positions, table, rotation);
        }
    }

    fn activate(&self, hidden: &B::Buf, count: usize) -> B::Buf {
        let spec = self.spec;
        let mut active = self.backend.alloc(count * spec.intermediate_size);
        let read = View::dense(hidden, count, spec.mlp_width());
        let write = ViewMut::dense(&mut active, count, spec.intermediate_size);
        if spec.gated_mlp {
            self.backend.gated_activation(spec.activation, read, write);
        } else {
            self.backend.activation(spec.activation, read, write);
        }
        active
    }

    /// The rows of residual and attention that go on; all of them without `rows`.
    fn pick(
        &self,
        residual: B::Buf,
        attention: &B::Buf,
        rows: Option<&Rows<B>>,
    ) -> (B::Buf, Option<B::Buf>) {
        let Some(rows) = rows else {
            return (residual, None);
        };
        let gather = |from: &B::Buf, cols: usize| {
            let mut picked = self.backend.alloc(rows.count * cols);
            let write = ViewMut::dense(&mut picked, rows.count, cols);
            self.backend
                .gather_rows(View::dense(from, self.tokens(), cols), &rows.ids, write);
            picked
        };
        let residual = gather(&residual, self.spec.hidden_size);
        (
            residual,
            Some(gather(attention, self.spec.attention_width())),
        )
    }

    /// The gradient of [`Pass::pick`].
    fn spread(
        &self,
        dattention: B::Buf,
        dresidual: B::Buf,
        rows: Option<&Rows<B>>,
    ) -> (B::Buf, B::Buf) {
        let Some(rows) = rows else {
            return (dattention, dresidual);
        };
        let scatter = |from: &B::Buf, cols: usize| {
            let mut full = self.backend.zeros(self.tokens() * cols);
            let write = ViewMut::dense(&mut full, self.tokens(), cols);
            self.backend
                .scatter_rows(View::dense(from, rows.count, cols), &rows.ids, write);
            full
        };
        (
            scatter(&dattention, self.spec.attention_width()),
            scatter(&dresidual, self.spec.hidden_size),
        )
    }

    /// Through a norm and the residual beside it: `dresidual` is the gradient of the sum that the branch was
    /// added to. Returns the gradient of the norm's input, residual included, where it is wanted.
    fn norm_backward(
        &self,
        into: &mut Grads<'_, B>,
        (norm, x, stats): (&NormSlot<B>, View<'_, B::Buf>, &B::Buf),
        mut dnormed: B::Buf,
        mut dresidual: B::Buf,
        wanted: bool,
    ) -> Option<B::Buf> {
        let (rows, cols) = (x.span.rows, x.span.cols);
        let write = if self.spec.residual_after_norm {
            let dnormed = ViewMut::dense(&mut dnormed, rows, cols);
            self.backend
                .copy(View::dense(&dresidual, rows, cols), dnormed, Write::Add);
            Write::Set
        } else {
            Write::Add
        };
        let dx = wanted.then(|| (ViewMut::dense(&mut dresidual, rows, cols), write));
        norm.backward(
            self.backend,
            into,
            x,
            stats,
            View::dense(&dnormed, rows, cols),
            dx,
        );
        wanted.then_some(dresidual)
    }
}
