//! Keys and values of the tokens seen so far, so that each new token costs one row.

use engine::backend::Backend;
use engine::shapes::{Segment, Span, View, ViewMut, Write};

use crate::block::Pass;
use crate::decoder::Decoder;
use crate::error::ModelError;

/// One sequence in progress.
pub struct KvCache<B: Backend> {
    /// Per block `[capacity, K·E]`.
    keys: Vec<B::Buf>,
    values: Vec<B::Buf>,
    rope: Option<(B::Buf, Span)>,
    len: usize,
    capacity: usize,
}

impl<B: Backend> KvCache<B> {
    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No token seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<B: Backend> Decoder<B> {
    /// An empty cache with room for `capacity` tokens; it grows when they are more.
    pub fn new_cache(&self, capacity: usize) -> KvCache<B> {
        let buffers = || {
            let size = capacity * self.spec.cache_width();
            self.blocks
                .iter()
                .map(|_| self.backend.zeros(size))
                .collect()
        };
        let last = capacity.saturating_sub(1) as u32;
        KvCache {
            keys: buffers(),
            values: buffers(),
            rope: self.rope_table(&[last]),
            len: 0,
            capacity,
        }
    }

    /// Runs `ids` behind the tokens in the cache and returns the logits `[V]` after the last one.
    ///
    /// # Errors
    /// [`ModelError::Generation`] for no ids, [`ModelError::TokenId`], [`ModelError::TooLong`], or the engine's. The
    /// cache is then as it was.
    pub fn extend(&self, cache: &mut KvCache<B>, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        if ids.is_empty() {
            return Err(ModelError::Generation {
                name: "input_ids",
                reason: "must have at least one token",
                value: "0".into(),
            });
        }
        let past = cache.len;
        let len = past + ids.len();
        let segments = [Segment {
            start: 0,
            len: ids.len(),
            prefix: None,
        }];
        self.check(
            ids,
            &[Segment {
                start: 0,
                len,
                prefix: None,
            }],
        )?;
        self.reserve(cache, len);
        let positions: Vec<u32> = (past..len).map(|position| position as u32).collect();
        let position_ids = self.backend.upload_ids(&positions);
        let pass = Pass {
            backend: self.backend(),
            spec: &self.spec,
            segments: &segments,
            positions: &position_ids,
            rope: cache
                .rope
                .as_ref()
                .map(|(buf, span)| View { buf, span: *span }),
            training: None,
        };
        let mut x = self.embed_new(ids, &position_ids);
        let buffers = cache.keys.iter_mut().zip(&mut cache.values);
        for (block, buffers) in self.blocks.iter().zip(buffers) {
            x = block.forward_cached(&pass, &self.trained, x, buffers, past);
        }
        cache.len = len;
        let logits = self.last_logits(&x, ids.len());
        Ok(self.backend.download(&logits)?)
    }

    /// Makes room for `len` tokens, at least doubling, so that a long text costs few copies.
    fn reserve(&self, cache: &mut KvCache<B>, len: usize) {
        if len <= cache.capacity {
            return;
        }
        let width = self.spec.cache_width();
        let mut larger = self.new_cache(len.max(2 * cache.capacity));
        let old = cache.keys.iter().chain(&cache.values);
        for (new, old) in larger.keys.iter_mut().chain(&mut larger.values).zip(old) {
            let write = ViewMut::dense(new, cache.len, width);
            self.backend
                .copy(View::dense(old, cache.len, width), write, Write::Set);
        }
        larger.len = cache.len;
        *cache = larger;
    }

    fn embed_new(&self, ids: &[u32], positions: &B::Ids) -> B::Buf {
        let tokens = ids.len();
        let x = self.embed_tokens(&self.backend.upload_ids(ids), positions, tokens);
        let Some(norm) = &self.embedding_norm else {
            return x;
        };
        norm.forward(
            self.backend(),
            &self.trained,
            View::dense(&x, tokens, self.spec.hidden_size),
        )
        .0
    }

    fn last_logits(&self, x: &B::Buf, tokens: usize) -> B::Buf {
        let hidden_size = self.spec.hidden_size;
        let mut last = self.backend.alloc(hidden_size);
        let read = View {
            buf: x,
            span: Span::dense(tokens, hidden_size).rows(tokens - 1, 1),
        };
        let write = ViewMut::dense(&mut last, 1, hidden_size);
        self.backend.copy(read, write, Write::Set);
        self.head_logits(&last, 1)
    }
}
