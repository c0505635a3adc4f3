//! Rotation and attention, packed and cached.

use super::{Output, collect, random, span, view, view_mut};
use lowrank_engine::backend::{Backend, Qkv};
use lowrank_engine::shapes::{
    AttentionShape, HeadLayout, Prefix, Rotation, Segment, Span, View, Write,
};
use proptest::prelude::*;

/// Rotation and attention.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    lens: Vec<usize>,
    shared: bool,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    layout: u8,
    alibi: bool,
    window: Option<usize>,
    gap: usize,
    key: u64,
}

impl Attention {
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        // Keys come in panels of 64: some rows and windows reach over one and two of them, alone or with their prefix.
        let lens = prop_oneof![
            2 => prop::collection::vec(1usize..24, 1..5),
            1 => prop::collection::vec(60usize..140, 1..3),
        ];
        let tokens = (lens, any::<bool>(), 0usize..4);
        // A quarter of a head turns in pairs: from 32 on, more than a vector of them.
        let half = prop_oneof![3 => 1usize..20, 1 => 32usize..40];
        let heads = (1usize..4, 1usize..3, half, 0u8..2);
        let window = prop::option::of(prop_oneof![1usize..30, 60usize..140]);
        let rest = (any::<bool>(), window, any::<u64>());
        (tokens, heads, rest).prop_map(
            |((lens, shared, gap), (kv_heads, group, half, layout), (alibi, window, key))| Self {
                lens,
                shared,
                kv_heads,
                group,
                head_dim: 2 * half,
                layout,
                alibi,
                window,
                gap,
                key,
            },
        )
    }

    /// BLOOM's interleaved row (which has no groups), or all queries, all keys, all values.
    fn shape(&self) -> AttentionShape {
        let size = self.head_dim;
        let interleaved = self.layout == 0;
        let kv_heads = self.kv_heads;
        let heads = if interleaved {
            kv_heads
        } else {
            kv_heads * self.group
        };
        let at = |first: usize, place: usize| HeadLayout {
            offset: if interleaved {
                place * size
            } else {
                first * size
            },
            stride: if interleaved { 3 * size } else { size },
        };
        AttentionShape {
            heads,
            kv_heads,
            head_dim: size,
            scale: 1.0 / (size as f32).sqrt(),
            query: at(0, 0),
            key: at(heads, 1),
            value: at(heads + kv_heads, 2),
            alibi_slopes: self
                .alibi
                .then(|| (0..heads).map(|h| 0.7f32.powi(h as i32 + 1)).collect()),
            sliding_window: self.window,
        }
    }

    fn segments(&self) -> Vec<Segment> {
        let first = Prefix {
            start: 0,
            len: self.lens[0],
        };
        let mut start = 0;
        self.lens
            .iter()
            .map(|len| {
                let prefix = (self.shared && start > 0).then_some(first);
                start += len;
                Segment {
                    start: start - len,
                    len: *len,
                    prefix,
                }
            })
            .collect()
    }

    pub(super) fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let shape = self.shape();
        let tokens: usize = self.lens.iter().sum();
        let at = span(
            tokens,
            (shape.heads + 2 * shape.kv_heads) * shape.head_dim,
            self.gap,
        );
        let to = span(tokens, shape.heads * shape.head_dim, self.gap);
        let input = |len, k| backend.upload(&random(len, self.key ^ k));
        let mut qkv = input(at.end(), 1);
        let half = shape.head_dim.div_ceil(4);
        let table = input(tokens * 2 * half, 2);
        let table = Span::dense(tokens, 2 * half).of(&table);
        let positions: Vec<u32> = (0..tokens as u32).rev().collect();
        let positions = backend.upload_ids(&positions);
        backend.rotate(
            &shape,
            view_mut(&mut qkv, at),
            &positions,
            table,
            Rotation::Forward,
        );
        let mut out = input(to.end(), 3);
        let segments = self.segments();
        let made = Qkv::Made(view(&qkv, at));
        backend.attention(&shape, made, &segments, view_mut(&mut out, to));
        let dense = span(at.rows, at.cols, 0);
        let mut copy = backend.alloc(dense.end());
        backend.copy(view(&qkv, at), view_mut(&mut copy, dense), Write::Set);
        let kept = backend.keep(copy);
        let mut again = input(to.end(), 3);
        let write = view_mut(&mut again, to);
        backend.attention(&shape, Qkv::Kept(&kept), &segments, write);
        let (dout, mut dqkv) = (input(to.end(), 4), input(at.end(), 5));
        backend.attention_backward(
            &shape,
            &kept,
            &segments,
            view(&dout, to),
            view_mut(&mut dqkv, at),
        );
        backend.rotate(
            &shape,
            view_mut(&mut dqkv, at),
            &positions,
            table,
            Rotation::Backward,
        );
        let mut outputs = vec![
            collect(backend, "rotated", &qkv),
            collect(backend, "attended", &out),
            collect(backend, "dqkv", &dqkv),
        ];
        outputs.push(self.cached(backend, &shape, &qkv, at));
        outputs.push(collect(backend, "attended, from what was kept", &again));
        outputs
    }

    /// The first tokens in one go, then some few at a time, the others in one go.
    fn cached<B: Backend>(
        &self,
        backend: &B,
        shape: &AttentionShape,
        qkv: &B::Buf,
        at: Span,
    ) -> Output {
        let width = shape.kv_heads * shape.head_dim;
        let [mut keys, mut values] = [
            backend.zeros(at.rows * width),
            backend.zeros(at.rows * width),
        ];
        let to = span(at.rows, shape.heads * shape.head_dim, self.gap);
        let mut out = backend.zeros(to.end());
        let (mut past, mut steps) = (0, 0);
        while past < at.rows {
            let new = match steps {
                0 => self.lens[0],
                1..8 => 1 + past % 3,
                _ => at.rows,
            }
            .min(at.rows - past);
            steps += 1;
            let rows = view_mut(&mut out, to.rows(past, new));
            backend.attention_cached(
                shape,
                view(qkv, at.rows(past, new)),
                &mut keys,
                &mut values,
                past,
                rows,
            );
            past += new;
        }
        collect(backend, "cached", &out)
    }
}

/// Spans as views, for a buffer that is read often.
trait Of {
    fn of<T>(self, buf: &T) -> View<'_, T>;
}

impl Of for Span {
    fn of<T>(self, buf: &T) -> View<'_, T> {
        View { buf, span: self }
    }
}
