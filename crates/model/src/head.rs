//! The end of the decoder: final norm, head and loss, over labelled positions only and in chunks, so that
//! tokens × vocabulary never exists.

use engine::backend::Backend;
use engine::shapes::{LossMode, Span, View, ViewMut, Write};

use crate::batch::{Masks, PassKey, Target};
use crate::decoder::Decoder;
use crate::projection::Grads;

/// Logits of one chunk take at most this many elements (32 MiB): a part of what the blocks keep meanwhile,
/// and rows enough that reading the head's matrix costs little (180 for 46 thousand tokens).
const CHUNK_ELEMENTS: usize = 8 << 20;

/// The labelled positions of a pass.
pub(crate) struct Labels<B: Backend> {
    ids: B::Ids,
    weights: B::Buf,
    pub(crate) count: usize,
    pub(crate) label_smoothing: f32,
}

impl<B: Backend> Labels<B> {
    pub(crate) fn new(backend: &B, targets: &[Target], label_smoothing: f32) -> Self {
        let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
        let weights: Vec<f32> = targets.iter().map(|target| target.weight).collect();
        Self {
            ids: backend.upload_ids(&ids),
            weights: backend.upload(&weights),
            count: targets.len(),
            label_smoothing,
        }
    }
}

/// Equal chunks of `count` rows, none with more than [`CHUNK_ELEMENTS`] logits.
fn chunks(count: usize, vocab_size: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = (CHUNK_ELEMENTS / vocab_size).max(1);
    let size = count.div_ceil(count.div_ceil(most).max(1)).max(1);
    (0..count)
        .step_by(size)
        .map(move |first| (first, size.min(count - first)))
}

impl<B: Backend> Decoder<B> {
    /// Losses of the rows `x` `[L, D]`, the last block's output at the labelled positions.
    pub(crate) fn head_losses(&self, x: &B::Buf, labels: &Labels<B>) -> B::Buf {
        let backend = self.backend();
        let (normed, _) =
            self.final_norm
                .forward(backend, &self.trained, self.rows_view(x, labels.count));
        let mut losses = backend.alloc(labels.count);
        for (first, rows) in chunks(labels.count, self.spec().vocab_size) {
            let mut logits = self.chunk_logits(&normed, first, rows, None).0;
            self.chunk_loss(
                &mut logits,
                labels,
                (first, rows),
                LossMode::Loss,
                &mut losses,
            );
        }
        losses
    }

    /// Losses of the rows `x`, and the gradient of the weighted sum with respect to `x`, where it is `wanted`.
    pub(crate) fn head_backward(
        &self,
        into: &mut Grads<'_, B>,
        key: PassKey,
        x: &B::Buf,
        labels: &Labels<B>,
        wanted: bool,
    ) -> (B::Buf, Option<B::Buf>) {
        let backend = self.backend();
        let hidden_size = self.spec().hidden_size;
        let rows_view = self.rows_view(x, labels.count);
        let (normed, stats) = self.final_norm.forward(backend, &self.trained, rows_view);
        let mut losses = backend.alloc(labels.count);
        let below = wanted || self.final_norm.trained().next().is_some();
        let mut dnormed = below.then(|| backend.alloc(labels.count * hidden_size));
        for chunk in chunks(labels.count, self.spec().vocab_size) {
            self.chunk_backward(
                into,
                key.targets(chunk.0),
                &normed,
                labels,
                chunk,
                &mut losses,
                dnormed.as_mut(),
            );
        }
        let Some(dnormed) = dnormed else {
            return (losses, None);
        };
        let mut dx = wanted.then(|| backend.alloc(labels.count * hidden_size));
        let write = dx
            .as_mut()
            .map(|dx| (ViewMut::dense(dx, labels.count, hidden_size), Write::Set));
        let dnormed = self.rows_view(&dnormed, labels.count);
        self.final_norm
            .backward(backend, into, rows_view, &stats, dnormed, write);
        (losses, dx)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one chunk of the loss with its gradient"
    )]
    fn chunk_backward(
        &self,
        into: &mut Grads<'_, B>,
        masks: Masks,
        normed: &B::Buf,
        labels: &Labels<B>,
        (first, rows): (usize, usize),
        losses: &mut B::Buf,
        dnormed: Option<&mut B::Buf>,
    ) {
        let (mut logits, xa) = self.chunk_logits(normed, first, rows, Some(masks));
        self.chunk_loss(
            &mut logits,
            labels,
            (first, rows),
            LossMode::LossAndGradient,
            losses,
        );
        let span = Span::dense(labels.count, self.spec().hidden_size).rows(first, rows);
        self.head.backward(
            self.backend(),
            into,
            Some(masks),
            Some(View { buf: normed, span }),
            xa.as_ref(),
            View::dense(&logits, rows, self.spec().vocab_size),
            dnormed.map(|buf| (ViewMut { buf, span }, Write::Set)),
        );
    }

    fn chunk_logits(
        &self,
        normed: &B::Buf,
        first: usize,
        rows: usize,
        masks: Option<Masks>,
    ) -> (B::Buf, Option<B::Buf>) {
        let vocab_size = self.spec().vocab_size;
        let mut logits = self.backend().alloc(rows * vocab_size);
        let span = Span::dense(first + rows, self.spec().hidden_size).rows(first, rows);
        let write = ViewMut::dense(&mut logits, rows, vocab_size);
        let read = View { buf: normed, span };
        let xa = self.head.forward(
            self.backend(),
            &self.trained,
            read,
            write,
            Write::Set,
            masks,
        );
        (logits, xa)
    }

    fn chunk_loss(
        &self,
        logits: &mut B::Buf,
        labels: &Labels<B>,
        (first, rows): (usize, usize),
        mode: LossMode,
        losses: &mut B::Buf,
    ) {
        let logits = ViewMut::dense(logits, rows, self.spec().vocab_size);
        let smoothing = labels.label_smoothing;
        self.backend().cross_entropy(
            logits,
            &labels.ids,
            &labels.weights,
            first,
            smoothing,
            mode,
            losses,
        );
    }

    /// Logits `[L, V]` of the rows `x` `[L, D]`.
    pub(crate) fn head_logits(&self, x: &B::Buf, count: usize) -> B::Buf {
        let (normed, _) =
            self.final_norm
                .forward(self.backend(), &self.trained, self.rows_view(x, count));
        self.chunk_logits(&normed, 0, count, None).0
    }

    fn rows_view<'a>(&self, x: &'a B::Buf, count: usize) -> View<'a, B::Buf> {
        View::dense(x, count, self.spec().hidden_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_rows_once_and_stay_small() {
        for (count, vocab_size) in [(1, 10), (399, 46145), (5000, 151_936), (3, 1 << 25)] {
            let cut: Vec<_> = chunks(count, vocab_size).collect();
            assert_eq!(cut.iter().map(|(_, rows)| rows).sum::<usize>(), count);
            assert!(
                cut.windows(2)
                    .all(|pair| pair[0].0 + pair[0].1 == pair[1].0)
            );
            assert!(
                cut.iter()
                    .all(|(_, rows)| *rows == 1 || rows * vocab_size <= CHUNK_ELEMENTS)
            );
        }
        assert_eq!(chunks(0, 7).count(), 0);
    }
}
