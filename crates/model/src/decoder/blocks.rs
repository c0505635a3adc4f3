//! All blocks, up and down again.
//!
//! A block that something is learnt in or below keeps what its backward pass needs; with activation checkpointing
//! (Chen et al. 2016, arXiv:1604.06174) it keeps its input alone, as it came, and its backward pass runs the forward
//! pass again. Kernels, their order and the dropout masks are the same, so all bits are. The last block keeps
//! everything either way: its backward pass is the next thing to happen.

use engine::backend::Backend;
use engine::shapes::{View, ViewMut, Write};

use super::{Decoder, Floor};
use crate::block::{Block, Keep, Pass, Rows, Saved};
use crate::projection::Grads;

/// What a block's backward pass starts from.
pub(super) enum Kept<B: Backend> {
    Nothing,
    Saved(Saved<B>),
    /// `[T, D]`, what the block read.
    Input(B::Buf),
}

impl<B: Backend> Decoder<B> {
    pub(super) fn blocks_forward(
        &self,
        pass: &Pass<'_, B>,
        mut x: B::Buf,
        rows: &Rows<B>,
        floor: Floor,
    ) -> (B::Buf, Vec<Kept<B>>) {
        let last = self.blocks.len() - 1;
        let mut kept = Vec::with_capacity(self.blocks.len());
        for (number, block) in self.blocks.iter().enumerate() {
            let rows = (number == last).then_some(rows);
            let keep = self.keep(number, floor);
            let input = (keep == Keep::Input).then(|| Kept::Input(pass.copy(&x)));
            let (y, saved) = block.forward(pass, &self.trained, x, rows, keep);
            x = y;
            kept.push(input.or(saved.map(Kept::Saved)).unwrap_or(Kept::Nothing));
        }
        (x, kept)
    }

    fn keep(&self, number: usize, floor: Floor) -> Keep {
        let is_last = number == self.blocks.len() - 1;
        match floor.stop(number) {
            None => Keep::Nothing,
            Some(_) if self.activation_checkpointing && !is_last => Keep::Input,
            Some(_) => Keep::Saved,
        }
    }

    pub(super) fn blocks_backward(
        &self,
        pass: &Pass<'_, B>,
        into: &mut Grads<'_, B>,
        kept: Vec<Kept<B>>,
        mut dx: B::Buf,
        rows: &Rows<B>,
        floor: Floor,
    ) -> Option<B::Buf> {
        let last = self.blocks.len() - 1;
        for ((number, block), kept) in self.blocks.iter().enumerate().zip(kept).rev() {
            let rows = (number == last).then_some(rows);
            let stop = floor.stop(number)?;
            let saved = self.saved(pass, block, kept, rows)?;
            dx = block.backward(pass, into, saved, dx, rows, stop)?;
        }
        Some(dx)
    }

    /// What was kept, or is computed again.
    fn saved(
        &self,
        pass: &Pass<'_, B>,
        block: &Block<B>,
        kept: Kept<B>,
        rows: Option<&Rows<B>>,
    ) -> Option<Saved<B>> {
        match kept {
            Kept::Nothing => None,
            Kept::Saved(saved) => Some(saved),
            Kept::Input(x) => {
                block
                    .forward(pass, &self.trained, x, rows, Keep::SavedAlone)
                    .1
            }
        }
    }
}

impl<B: Backend> Pass<'_, B> {
    /// A stream `[T, D]` once more, in f32: rounded as other kept values are it would give other bits.
    fn copy(&self, x: &B::Buf) -> B::Buf {
        let (tokens, hidden_size) = (self.tokens(), self.spec.hidden_size);
        let mut copy = self.backend.alloc(tokens * hidden_size);
        self.backend.copy(
            View::dense(x, tokens, hidden_size),
            ViewMut::dense(&mut copy, tokens, hidden_size),
            Write::Set,
        );
        copy
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::reference::Reference;
    use engine::shapes::{ComputeDtype, Segment};
    use formats::hf_config::HfConfig;
    use formats::weights::WeightStore;

    use super::*;
    use crate::batch::positions;
    use crate::parameter::LoraInit;

    /// A tiny Mistral of three blocks that learns in its second one.
    fn decoder() -> Decoder<Reference> {
        let case = testkit::golden("mistral/attention");
        let config = HfConfig::open_file(&case.path("config")).expect("the golden's config");
        let spec = crate::families::decoder_spec(&config).expect("a known family");
        let weights = WeightStore::open(&case.path("model")).expect("the golden's weights");
        let backend = Arc::new(Reference::new(ComputeDtype::F32));
        let mut decoder = Decoder::load(backend, spec, &weights).expect("weights that fit");
        let init = LoraInit {
            rank: 1,
            scaling: 1.0,
            dropout: 0.0,
            a: vec![0.1; 36],
            b: vec![0.1; 36],
        };
        let path = "model.layers.1.self_attn.q_proj";
        decoder.add_lora(path, init).expect("a projection");
        decoder
    }

    fn kept(decoder: &Decoder<Reference>) -> Vec<Kept<Reference>> {
        let backend = decoder.backend();
        let segments = [Segment {
            start: 0,
            len: 2,
            prefix: None,
        }];
        let positions = positions(&segments);
        let ids = backend.upload_ids(&positions);
        let rope = decoder.rope_table(&positions);
        let pass = Pass {
            backend,
            spec: decoder.spec(),
            segments: &segments,
            positions: &ids,
            rope: rope.as_ref().map(|(buf, span)| View { buf, span: *span }),
            training: None,
        };
        let rows = Rows {
            ids: backend.upload_ids(&[1]),
            count: 1,
        };
        let x = decoder.embed_tokens(&backend.upload_ids(&[5, 6]), &ids, 2);
        let floor = decoder.floor();
        decoder.blocks_forward(&pass, x, &rows, floor).1
    }

    #[test]
    fn with_activation_checkpointing_all_blocks_that_learn_but_the_last_keep_their_input() {
        let mut decoder = decoder();
        let [Kept::Nothing, Kept::Saved(_), Kept::Saved(_)] = &kept(&decoder)[..] else {
            panic!("everything is kept from the lowest trained block upwards")
        };
        decoder.set_activation_checkpointing(true);
        let [Kept::Nothing, Kept::Input(x), Kept::Saved(_)] = &kept(&decoder)[..] else {
            panic!("of the last block alone everything is kept")
        };
        assert_eq!(x.len(), 2 * 36);
    }
}
