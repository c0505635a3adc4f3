//! The start of the decoder: rows of the embedding's table, learned positions, and BLOOM's norm behind them.

use engine::backend::Backend;
use engine::shapes::{View, ViewMut, Write};

use crate::decoder::Decoder;
use crate::parameter::MatrixSlot;
use crate::projection::Grads;

/// What the embedding keeps for its backward pass.
pub(crate) struct EmbeddingSaved<B: Backend> {
    ids: B::Ids,
    /// Before the embedding's norm, and that norm's statistics.
    normed: Option<(B::Buf, B::Buf)>,
}

impl<B: Backend> Decoder<B> {
    pub(crate) fn embed_tokens(&self, ids: &B::Ids, positions: &B::Ids, tokens: usize) -> B::Buf {
        let backend = self.backend();
        let hidden_size = self.spec.hidden_size;
        let mut x = backend.alloc(tokens * hidden_size);
        let table = self.embedding.operand(&self.trained);
        backend.embed(
            table,
            ids,
            ViewMut::dense(&mut x, tokens, hidden_size),
            Write::Set,
        );
        if let Some(table) = &self.position_table {
            let table = table.operand(&self.trained);
            backend.embed(
                table,
                positions,
                ViewMut::dense(&mut x, tokens, hidden_size),
                Write::Add,
            );
        }
        x
    }

    pub(crate) fn embed(
        &self,
        input_ids: &[u32],
        positions: &B::Ids,
    ) -> (B::Buf, EmbeddingSaved<B>) {
        let tokens = input_ids.len();
        let ids = self.backend.upload_ids(input_ids);
        let x = self.embed_tokens(&ids, positions, tokens);
        let Some(norm) = &self.embedding_norm else {
            return (x, EmbeddingSaved { ids, normed: None });
        };
        let read = View::dense(&x, tokens, self.spec.hidden_size);
        let (y, stats) = norm.forward(self.backend(), &self.trained, read);
        (
            y,
            EmbeddingSaved {
                ids,
                normed: Some((x, stats)),
            },
        )
    }

    pub(crate) fn embed_backward(
        &self,
        into: &mut Grads<'_, B>,
        saved: EmbeddingSaved<B>,
        input_ids: &[u32],
        positions: &B::Ids,
        mut dx: B::Buf,
    ) {
        let backend = self.backend();
        let (tokens, hidden_size) = (input_ids.len(), self.spec.hidden_size);
        if let (Some(norm), Some((x, stats))) = (&self.embedding_norm, &saved.normed) {
            let mut dembedded = backend.alloc(tokens * hidden_size);
            let write = Some((
                ViewMut::dense(&mut dembedded, tokens, hidden_size),
                Write::Set,
            ));
            let read = View::dense(x, tokens, hidden_size);
            norm.backward(
                backend,
                into,
                read,
                stats,
                View::dense(&dx, tokens, hidden_size),
                write,
            );
            dx = dembedded;
        }
        let dy = View::dense(&dx, tokens, hidden_size);
        if let Some(index) = self.embedding.trained() {
            self.token_rows_backward(dy, &saved.ids, input_ids, &mut into.grads[index]);
        }
        if let Some(index) = self.position_table.as_ref().and_then(MatrixSlot::trained) {
            backend.embed_backward(dy, positions, &mut into.grads[index]);
        }
    }

    /// Adds the rows of `dy` to those of their tokens, the padding token's left out.
    fn token_rows_backward(
        &self,
        dy: View<'_, B::Buf>,
        ids: &B::Ids,
        input_ids: &[u32],
        dtable: &mut B::Buf,
    ) {
        let (backend, hidden_size) = (self.backend(), self.spec.hidden_size);
        let learns = |id: &u32| Some(*id) != self.spec.padding_idx;
        if input_ids.iter().all(learns) {
            backend.embed_backward(dy, ids, dtable);
            return;
        }
        let positions = (0..).zip(input_ids).filter(|(_, id)| learns(id));
        let (rows, ids): (Vec<u32>, Vec<u32>) = positions.unzip();
        let mut kept = backend.alloc(rows.len() * hidden_size);
        let write = ViewMut::dense(&mut kept, rows.len(), hidden_size);
        backend.gather_rows(dy, &backend.upload_ids(&rows), write);
        let kept = View::dense(&kept, rows.len(), hidden_size);
        backend.embed_backward(kept, &backend.upload_ids(&ids), dtable);
    }
}
