//! Causal softmax attention over a packed stream, forward and backward.
//!
//! One task is one head of one segment. Keys are packed transposed, in panels, and values row by row, so that
//! scores and outputs are products of small dense matrices (`tile`), a panel of keys at a time and, where the panel
//! reaches past the queries, only the stairs below the diagonal; a block of query rows holds its
//! scores over all its keys. The backward pass makes them again (Dao et al. 2022, arXiv:2205.14135) and, since it holds
//! whole rows of weights and of their gradients, needs nothing of the forward pass: no log-sum-exp, and as
//! `dout·out` the sum `Σ p·dp`. `ALiBi` (Press et al. 2021, arXiv:2108.12409) is added as
//! `-slope · distance`, which keeps scores small where `slope · position` would round them.
//!
//! Products read f32, or pairs of bf16 (`word`), the same code over both; softmax, its gradient and every sum are f32.

mod backward;
mod decode;
mod forward;
mod pack;
mod stream;
mod tile;
mod word;

pub use stream::Stream;

use crate::gemm::Precision;
use crate::share::SharedMat;
use crate::{Context, Mat, MatMut};
use std::ops::Range;

/// Where the heads of one kind lie in a row: head h starts at `offset + h·stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Column of head 0.
    pub offset: usize,
    /// Columns between the starts of neighbouring heads.
    pub stride: usize,
}

/// The arithmetic of one attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Multiplies scores.
    pub scale: f32,
    /// Queries in a row.
    pub query: Layout,
    /// Keys in a row.
    pub key: Layout,
    /// Values in a row.
    pub value: Layout,
    /// Per query head, subtracted once per token of distance.
    pub alibi_slopes: Option<&'a [f32]>,
    /// A query sees this many tokens, itself included.
    pub sliding_window: Option<usize>,
    /// Of what products read: queries, keys, values, weights and gradients. Scores, softmax and sums are f32.
    /// [`cached`] reads f32.
    pub precision: Precision,
}

/// Tokens that attend to themselves, causally, and to all of a prefix before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First token.
    pub start: usize,
    /// Tokens.
    pub len: usize,
    /// First token and length of a segment without a prefix that this one continues.
    pub prefix: Option<(usize, usize)>,
}

impl Segment {
    fn prefix_len(&self) -> usize {
        self.prefix.map_or(0, |(_, len)| len)
    }

    /// The rows of its keys: the prefix's, then its own.
    fn key_rows(&self) -> [Range<usize>; 2] {
        let prefix = self.prefix.map_or(0..0, |(start, len)| start..start + len);
        [prefix, self.start..self.start + self.len]
    }
}

impl Shape<'_> {
    fn kv_of(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    fn columns(&self, layout: Layout, head: usize) -> Range<usize> {
        let start = layout.offset + head * layout.stride;
        start..start + self.head_dim
    }

    fn slope(&self, head: usize) -> f32 {
        self.alibi_slopes.map_or(0.0, |slopes| slopes[head])
    }

    /// The first position that the query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        let window = self.sliding_window.unwrap_or(usize::MAX);
        (position + 1).saturating_sub(window)
    }

    fn check(&self, (rows, cols): (usize, usize), segments: &[Segment]) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{} heads over {} kv heads",
            self.heads,
            self.kv_heads
        );
        assert!(
            self.alibi_slopes.is_none_or(|s| s.len() == self.heads),
            "a slope for each head"
        );
        for (layout, count) in [
            (self.query, self.heads),
            (self.key, self.kv_heads),
            (self.value, self.kv_heads),
        ] {
            let end = self.columns(layout, count - 1).end;
            assert!(end <= cols, "heads up to column {end} of {cols}");
        }
        for segment in segments {
            let [prefix, own] = segment.key_rows();
            assert!(
                prefix.end <= own.start && own.end <= rows,
                "{segment:?} in {rows} tokens"
            );
        }
        disjoint(segments, |segment| {
            segment.start..segment.start + segment.len
        });
    }

    /// Heads may not overlap where their gradients are written: each task has heads of its own.
    fn check_columns(&self) {
        let kinds = [
            (self.query, self.heads),
            (self.key, self.kv_heads),
            (self.value, self.kv_heads),
        ];
        let heads = kinds.map(|(layout, count)| (0..count).map(move |head| (layout, head)));
        let heads: Vec<_> = heads.into_iter().flatten().collect();
        disjoint(&heads, |(layout, head)| self.columns(*layout, *head));
    }
}

/// Segments, or heads, may not overlap: each writes its own rows, or columns.
fn disjoint<T>(all: &[T], span: impl Fn(&T) -> Range<usize>) {
    let mut spans: Vec<_> = all.iter().map(span).collect();
    spans.sort_unstable_by_key(|span| (span.start, span.end));
    for pair in spans.windows(2) {
        assert!(
            pair[0].end <= pair[1].start,
            "segments or heads overlap: {pair:?}"
        );
    }
}

/// Attention of every segment: `out` is `[T, H·E]`.
///
/// # Panics
/// When sizes do not fit, or segments overlap.
pub fn forward<'a>(
    context: &Context,
    shape: &Shape<'_>,
    qkv: impl Into<Stream<'a>>,
    segments: &[Segment],
    out: MatMut<'_>,
) {
    let qkv = qkv.into();
    shape.check(qkv.size(), segments);
    let size = (qkv.size().0, shape.heads * shape.head_dim);
    assert_eq!(size, (out.rows, out.cols), "attention's output");
    let out = SharedMat::new(out);
    let order = longest_first(segments);
    context.threads.run(segments.len() * shape.heads, |task| {
        let segment = segments[order[task / shape.heads]];
        let head = task % shape.heads;
        let kv = shape.kv_of(head);
        let work = forward::Head {
            shape,
            head,
            queries: qkv,
            query_rows: segment.start..segment.start + segment.len,
            first_position: segment.prefix_len(),
            keys: qkv,
            key_columns: shape.columns(shape.key, kv),
            values: qkv,
            value_columns: shape.columns(shape.value, kv),
            key_rows: segment.key_rows(),
            out,
        };
        work.attend(context.isa);
    });
}

/// Gradient of [`forward`]: sets the query, key and value columns of every segment's rows. Gradients of
/// a shared prefix's keys and values are summed in the order of the segments.
///
/// # Panics
/// When sizes do not fit, segments or heads overlap, or a prefix is not a segment of its own.
pub fn backward<'a>(
    context: &Context,
    shape: &Shape<'_>,
    qkv: impl Into<Stream<'a>>,
    segments: &[Segment],
    dout: Mat<'_>,
    dqkv: MatMut<'_>,
) {
    let qkv = qkv.into();
    shape.check(qkv.size(), segments);
    let size = (qkv.size().0, shape.heads * shape.head_dim);
    assert_eq!(size, (dout.rows, dout.cols), "attention's gradient");
    let size = (dqkv.rows, dqkv.cols);
    assert_eq!(qkv.size(), size, "attention's gradient");
    shape.check_columns();
    let dqkv = SharedMat::new(dqkv);
    let families = families(segments);
    context
        .threads
        .run(families.len() * shape.kv_heads, |task| {
            let work = backward::Family {
                shape,
                kv: task % shape.kv_heads,
                segments: &families[task / shape.kv_heads],
                qkv,
                dout: dout.into(),
                dqkv,
            };
            work.differentiate(context.isa);
        });
}

/// Attention of new tokens, at positions from `past` on, over a cache of keys and values
/// (`[capacity, K·E]`), to which theirs are added first.
///
/// # Panics
/// When sizes do not fit, the cache's among them.
pub fn cached(
    context: &Context,
    shape: &Shape<'_>,
    qkv: Mat<'_>,
    keys: &mut [f32],
    values: &mut [f32],
    past: usize,
    out: MatMut<'_>,
) {
    let shape = &Shape {
        precision: Precision::F32,
        ..*shape
    };
    shape.check((qkv.rows, qkv.cols), &[]);
    let size = (qkv.rows, shape.heads * shape.head_dim);
    assert_eq!(size, (out.rows, out.cols), "attention's output");
    let width = shape.kv_heads * shape.head_dim;
    let total = past + qkv.rows;
    for (cache, layout) in [(&mut *keys, shape.key), (&mut *values, shape.value)] {
        decode::append(shape, qkv, layout, &mut cache[past * width..total * width]);
    }
    let keys = Mat::dense(&keys[..total * width], total, width);
    let values = Mat::dense(&values[..total * width], total, width);
    let out = SharedMat::new(out);
    // Few rows do not pay for packing the cache.
    if qkv.rows < 4 {
        context.threads.run(shape.kv_heads, |kv| {
            let work = decode::Head {
                shape,
                kv,
                qkv,
                keys,
                values,
                past,
                out,
            };
            work.decode(context.isa);
        });
        return;
    }
    context.threads.run(shape.heads, |head| {
        let kv = shape.kv_of(head);
        let columns = kv * shape.head_dim..(kv + 1) * shape.head_dim;
        let work = forward::Head {
            shape,
            head,
            queries: qkv.into(),
            query_rows: 0..qkv.rows,
            first_position: past,
            keys: keys.into(),
            key_columns: columns.clone(),
            values: values.into(),
            value_columns: columns,
            key_rows: [0..0, 0..total],
            out,
        };
        work.attend(context.isa);
    });
}

/// Indices of segments, those with most work first, so that the last tasks are short ones.
fn longest_first(segments: &[Segment]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..segments.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(segments[*i].len + segments[*i].prefix_len()));
    order
}

/// Segments grouped by the prefix that they share (the prefix itself first, the others in order), the
/// groups with most tokens first.
fn families(segments: &[Segment]) -> Vec<Vec<Segment>> {
    let mut families: Vec<Vec<Segment>> = segments
        .iter()
        .filter(|segment| segment.prefix.is_none())
        .map(|segment| vec![*segment])
        .collect();
    for segment in segments {
        let Some(prefix) = segment.prefix else {
            continue;
        };
        let family = families
            .iter_mut()
            .find(|family| (family[0].start, family[0].len) == prefix);
        match family {
            Some(family) => family.push(*segment),
            None => panic!("the prefix of {segment:?} is not a segment"),
        }
    }
    families.sort_by_key(|family| std::cmp::Reverse(family.iter().map(|s| s.len).sum::<usize>()));
    families
}

#[cfg(test)]
mod tests;
