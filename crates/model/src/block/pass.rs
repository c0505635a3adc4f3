//! What a pass does to the activations of any block.

use engine::backend::{Backend, Qkv};
use engine::shapes::{Rotation, View, ViewMut};

use super::{Pass, Rows};
use crate::batch::Masks;

impl<B: Backend> Pass<'_, B> {
    pub(crate) fn tokens(&self) -> usize {
        self.segments
            .last()
            .map_or(0, |segment| segment.start + segment.len)
    }

    /// How many rows go on.
    pub(super) fn count(&self, rows: Option<&Rows<B>>) -> usize {
        rows.map_or(self.tokens(), |rows| rows.count)
    }

    /// What is dropped of rows that go on: nothing outside training.
    pub(super) fn masks(&self, rows: Option<&Rows<B>>) -> Option<Masks> {
        let key = self.training?;
        Some(match rows {
            Some(_) => key.targets(0),
            None => key.tokens(),
        })
    }

    pub(super) fn rotate(&self, qkv: &mut B::Buf, rotation: Rotation) {
        if let Some(table) = self.rope {
            let qkv = ViewMut::dense(qkv, self.tokens(), self.spec.qkv_width);
            self.backend
                .rotate(&self.spec.attention, qkv, self.positions, table, rotation);
        }
    }

    pub(super) fn activate(&self, hidden: &B::Buf, count: usize) -> B::Buf {
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

    /// Attention `[T, H·E]`.
    pub(super) fn attend(&self, qkv: Qkv<'_, B>) -> B::Buf {
        let (backend, spec, tokens) = (self.backend, self.spec, self.tokens());
        let width = spec.attention_width();
        let mut out = backend.alloc(tokens * width);
        backend.attention(
            &spec.attention,
            qkv,
            self.segments,
            ViewMut::dense(&mut out, tokens, width),
        );
        out
    }

    /// The rows that go on; all of them without `rows`.
    pub(super) fn pick(&self, x: B::Buf, cols: usize, rows: Option<&Rows<B>>) -> B::Buf {
        match rows {
            None => x,
            Some(rows) => self.gather(&x, cols, rows),
        }
    }

    pub(super) fn gather(&self, x: &B::Buf, cols: usize, rows: &Rows<B>) -> B::Buf {
        let mut picked = self.backend.alloc(rows.count * cols);
        let write = ViewMut::dense(&mut picked, rows.count, cols);
        self.backend
            .gather_rows(View::dense(x, self.tokens(), cols), &rows.ids, write);
        picked
    }
}
