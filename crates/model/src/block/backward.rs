//! A block's backward pass, from its output down to the lowest part that has something to learn.

use engine::backend::{Backend, Qkv};
use engine::shapes::{Rotation, View, ViewMut, Write};

use super::{AttentionSaved, Block, Hidden, HiddenKept, MlpSaved, Pass, Rows, Saved, Stage};
use crate::norm::NormSlot;
use crate::projection::{Grads, LowRankInputs, Projection, group_backward};

impl<B: Backend> Block<B> {
    /// Adds the gradients of everything trained in this block from `stop` upwards, and returns the gradient of
    /// the block's input when `stop` is [`Stage::Input`].
    pub(crate) fn backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        saved: Saved<B>,
        dy: B::Buf,
        rows: Option<&Rows<B>>,
        stop: Stage,
    ) -> Option<B::Buf> {
        let dmiddle = self.mlp_backward(pass, into, saved.mlp, dy, rows, stop)?;
        self.attention_backward(pass, into, saved.attention, dmiddle, rows, stop)
    }

    /// Returns the gradient of the residual between attention and MLP, where it is wanted.
    fn mlp_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        saved: MlpSaved<B>,
        dy: B::Buf,
        rows: Option<&Rows<B>>,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let (count, hidden_size) = (pass.count(rows), spec.hidden_size);
        let output_input = saved.output_input.as_ref();
        let hidden = (saved.hidden, output_input);
        let dhidden = self.mlp_output_backward(pass, into, hidden, &dy, rows, stop)?;
        let middle = backend.recall(saved.middle);
        let middle = View::dense(&middle, count, hidden_size);
        let needs_input = self.mlp_input.iter().any(Projection::needs_input);
        let normed = needs_input.then(|| self.mlp_norm.forward(backend, into.values, middle).0);
        let mut dnormed = (stop < Stage::MlpInput).then(|| backend.alloc(count * hidden_size));
        group_backward(
            &self.mlp_input,
            backend,
            into,
            pass.masks(rows),
            normed
                .as_ref()
                .map(|normed| View::dense(normed, count, hidden_size)),
            &saved.hidden_inputs,
            View::dense(&dhidden, count, spec.mlp_width()),
            dnormed
                .as_mut()
                .map(|dnormed| ViewMut::dense(dnormed, count, hidden_size)),
        );
        let norm = (&self.mlp_norm, middle, &saved.stats);
        pass.norm_backward(into, norm, dnormed?, dy, stop < Stage::MlpNorm)
    }

    /// Returns the gradient of the MLP's middle, where it is wanted.
    fn mlp_output_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        (hidden, output_input): (HiddenKept<B>, Option<&B::Buf>),
        dy: &B::Buf,
        rows: Option<&Rows<B>>,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let (count, inner) = (pass.count(rows), spec.intermediate_size);
        let hidden = match hidden {
            Hidden::Before(kept) => Hidden::Before(backend.recall(kept)),
            Hidden::Slopes(slopes) => Hidden::Slopes(slopes),
        };
        let active = match &hidden {
            Hidden::Before(hidden) if self.mlp_output.needs_input() => {
                Some(pass.activate(hidden, count))
            }
            _ => None,
        };
        let mut dactive = (stop < Stage::MlpOutput).then(|| backend.alloc(count * inner));
        self.mlp_output.backward(
            backend,
            into,
            pass.masks(rows),
            active
                .as_ref()
                .map(|active| View::dense(active, count, inner)),
            output_input,
            View::dense(dy, count, spec.hidden_size),
            dactive
                .as_mut()
                .map(|dactive| (ViewMut::dense(dactive, count, inner), Write::Set)),
        );
        let mut dactive = dactive?;
        Some(match hidden {
            Hidden::Before(hidden) => pass.activation_backward(hidden, dactive, count),
            Hidden::Slopes(slopes) => {
                let over = ViewMut::dense(&mut dactive, count, inner);
                backend.activation_recall(spec.activation, slopes, over);
                dactive
            }
        })
    }

    /// From the gradient of the residual behind attention to that of the block's input.
    fn attention_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        saved: AttentionSaved<B>,
        dmiddle: B::Buf,
        rows: Option<&Rows<B>>,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let (tokens, hidden_size) = (pass.tokens(), spec.hidden_size);
        // Computed again, and only where what is trained reads it.
        let needs_input = self.attention_output.needs_input();
        let attended = needs_input.then(|| pass.attend(Qkv::Kept(&saved.qkv)));
        let output_input = saved.output_input.as_ref();
        let dattention =
            self.output_backward(pass, into, (attended, output_input), &dmiddle, rows, stop)?;
        let dqkv = pass.attention_backward(&saved.qkv, &dattention);
        let dresidual = pass.spread(dmiddle, hidden_size, rows);
        let x = backend.recall(saved.x);
        let x = View::dense(&x, tokens, hidden_size);
        let dnormed = self.qkv_backward(pass, into, x, &saved.qkv_inputs, &dqkv, stop)?;
        let norm = (&self.attention_norm, x, &saved.stats);
        pass.norm_backward(into, norm, dnormed, dresidual, stop < Stage::AttentionNorm)
    }

    /// Returns the gradient of the attention's output, where it is wanted.
    fn output_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        (attended, output_input): (Option<B::Buf>, Option<&B::Buf>),
        dmiddle: &B::Buf,
        rows: Option<&Rows<B>>,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let width = spec.attention_width();
        let count = pass.count(rows);
        let picked = attended.map(|attended| pass.pick(attended, width, rows));
        let mut dattention = (stop < Stage::AttentionOutput).then(|| backend.alloc(count * width));
        self.attention_output.backward(
            backend,
            into,
            pass.masks(rows),
            picked
                .as_ref()
                .map(|picked| View::dense(picked, count, width)),
            output_input,
            View::dense(dmiddle, count, spec.hidden_size),
            dattention
                .as_mut()
                .map(|dattention| (ViewMut::dense(dattention, count, width), Write::Set)),
        );
        Some(pass.spread(dattention?, width, rows))
    }

    /// Returns the gradient of the norm's output, where it is wanted.
    fn qkv_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        x: View<'_, B::Buf>,
        inputs: &LowRankInputs<B>,
        dqkv: &B::Buf,
        stop: Stage,
    ) -> Option<B::Buf> {
        let Pass { backend, spec, .. } = *pass;
        let (tokens, hidden_size) = (pass.tokens(), spec.hidden_size);
        let needs_input = self.qkv.iter().any(Projection::needs_input);
        let normed = needs_input.then(|| self.attention_norm.forward(backend, into.values, x).0);
        let mut dnormed = (stop < Stage::Qkv).then(|| backend.alloc(tokens * hidden_size));
        group_backward(
            &self.qkv,
            backend,
            into,
            pass.masks(None),
            normed
                .as_ref()
                .map(|normed| View::dense(normed, tokens, hidden_size)),
            inputs,
            View::dense(dqkv, tokens, spec.qkv_width),
            dnormed
                .as_mut()
                .map(|dnormed| ViewMut::dense(dnormed, tokens, hidden_size)),
        );
        dnormed
    }
}

impl<B: Backend> Pass<'_, B> {
    /// The gradient of [`Pass::activate`], over that of the two buffers which has its size.
    fn activation_backward(&self, mut hidden: B::Buf, mut dactive: B::Buf, count: usize) -> B::Buf {
        let (backend, spec) = (self.backend, self.spec);
        let (inner, width) = (spec.intermediate_size, spec.mlp_width());
        if spec.gated_mlp {
            let over = ViewMut::dense(&mut hidden, count, width);
            let dactive = View::dense(&dactive, count, inner);
            backend.gated_activation_backward(spec.activation, over, dactive);
            return hidden;
        }
        let over = ViewMut::dense(&mut dactive, count, inner);
        let hidden = View::dense(&hidden, count, width);
        backend.activation_backward(spec.activation, hidden, over);
        dactive
    }

    /// The gradient of queries, keys and values before their rotation.
    fn attention_backward(&self, qkv: &B::Kept, dattention: &B::Buf) -> B::Buf {
        let (tokens, spec) = (self.tokens(), self.spec);
        let width = spec.attention_width();
        let mut dqkv = self.backend.alloc(tokens * spec.qkv_width);
        self.backend.attention_backward(
            &spec.attention,
            qkv,
            self.segments,
            View::dense(dattention, tokens, width),
            ViewMut::dense(&mut dqkv, tokens, spec.qkv_width),
        );
        self.rotate(&mut dqkv, Rotation::Backward);
        dqkv
    }

    /// The gradient of [`Pass::pick`].
    fn spread(&self, dx: B::Buf, cols: usize, rows: Option<&Rows<B>>) -> B::Buf {
        let Some(rows) = rows else {
            return dx;
        };
        let mut full = self.backend.zeros(self.tokens() * cols);
        let write = ViewMut::dense(&mut full, self.tokens(), cols);
        self.backend
            .scatter_rows(View::dense(&dx, rows.count, cols), &rows.ids, write);
        full
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
