//! A few new tokens over a cache, read in place: the cache's bytes are what bounds this.

use super::pack::with_scratch;
use super::{Layout, Shape};
use crate::share::SharedMat;
use crate::vector::{Kernel, LANES, Vector, dispatch, exp, update};
use crate::{Isa, Mat};

/// One kv head and the query heads that read it.
pub(super) struct Head<'a> {
    pub(super) shape: &'a Shape<'a>,
    pub(super) kv: usize,
    pub(super) qkv: Mat<'a>,
    pub(super) keys: Mat<'a>,
    pub(super) values: Mat<'a>,
    pub(super) past: usize,
    pub(super) out: SharedMat<'a>,
}

/// Writes the heads of one kind, dense, to the rows of a cache.
pub(super) fn append(shape: &Shape<'_>, qkv: Mat<'_>, layout: Layout, to: &mut [f32]) {
    let width = shape.kv_heads * shape.head_dim;
    for (t, to) in to.chunks_exact_mut(width).enumerate() {
        for (h, to) in to.chunks_exact_mut(shape.head_dim).enumerate() {
            to.copy_from_slice(&qkv.row(t)[shape.columns(layout, h)]);
        }
    }
}

/// A head with its scratch; see `forward::Work`.
struct Work<'a, 's> {
    head: Head<'a>,
    scores: &'s mut [f32],
}

impl Head<'_> {
    /// Does the work.
    pub(super) fn decode(self, isa: Isa) {
        let group = self.shape.heads / self.shape.kv_heads;
        with_scratch([group * self.keys.rows], |[scores]: [&mut [f32]; 1]| {
            dispatch(isa, Work { head: self, scores });
        });
    }
}

impl Kernel for Work<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { head, scores } = self;
        let shape = head.shape;
        let group = shape.heads / shape.kv_heads;
        for t in 0..head.qkv.rows {
            let position = head.past + t;
            let first = shape.first_seen(position);
            let seen = position + 1 - first;
            head.scores(v, t, first, seen, scores);
            for g in 0..group {
                let query_head = head.kv * group + g;
                let columns = query_head * shape.head_dim..(query_head + 1) * shape.head_dim;
                // SAFETY: each task has its own heads.
                let out = unsafe { head.out.part(t, columns) };
                head.attend(v, first, &mut scores[g * seen..][..seen], out);
            }
        }
    }
}

impl Head<'_> {
    /// Of token t with the keys from `first` on, one query head after the other.
    #[inline(always)]
    fn scores<V: Vector>(&self, v: V, t: usize, first: usize, seen: usize, scores: &mut [f32]) {
        let shape = self.shape;
        let group = shape.heads / shape.kv_heads;
        let columns = self.kv * shape.head_dim..(self.kv + 1) * shape.head_dim;
        for j in 0..seen {
            let key = &self.keys.row(first + j)[columns.clone()];
            for g in 0..group {
                let head = self.kv * group + g;
                let query = &self.qkv.row(t)[shape.columns(shape.query, head)];
                let distance = (seen - 1 - j) as f32;
                scores[g * seen + j] =
                    shape.scale * dot(v, query, key) - shape.slope(head) * distance;
            }
        }
    }

    #[inline(always)]
    fn attend<V: Vector>(&self, v: V, first: usize, scores: &mut [f32], out: &mut [f32]) {
        let size = self.shape.head_dim;
        let columns = self.kv * size..(self.kv + 1) * size;
        let top = scores
            .iter()
            .fold(f32::NEG_INFINITY, |top, x| if *x > top { *x } else { top });
        let mut sum = v.zero();
        for part in scores.chunks_mut(LANES) {
            let e = exp(v, v.sub(v.load_part(part, f32::NEG_INFINITY), v.splat(top)));
            sum = v.add(sum, e);
            v.store_part(e, part);
        }
        let scale = 1.0 / v.sum(sum);
        out.fill(0.0);
        for (j, p) in scores.iter().enumerate() {
            let p = v.splat(*p * scale);
            let value = &self.values.row(first + j)[columns.clone()];
            update!(v, out, value, |sum, x| v.fma(p, x, sum));
        }
    }
}

#[inline(always)]
fn dot<V: Vector>(v: V, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    let mut sum = v.zero();
    for (a, b) in a.iter().zip(b) {
        sum = v.fma(v.load(a), v.load(b), sum);
    }
    if !a_tail.is_empty() {
        sum = v.fma(v.load_part(a_tail, 0.0), v.load_part(b_tail, 0.0), sum);
    }
    v.sum(sum)
}
