//! One query head over its keys.

use super::Shape;
use super::pack::{straight, transposed, with_scratch};
use super::tile::{Left, ROWS, Right, product};
use crate::share::{SharedMat, SharedSlice};
use crate::vector::{Kernel, LANES, Vector, dispatch, exp, map};
use crate::{Isa, Mat};
use std::ops::Range;

/// Query rows whose scores are made together.
const BLOCK: usize = 32;

/// Lane numbers.
pub(super) const IOTA: [f32; LANES] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
];

/// A query head, the rows that ask and the rows that answer.
pub(super) struct Head<'a> {
    pub(super) shape: &'a Shape<'a>,
    pub(super) head: usize,
    pub(super) queries: Mat<'a>,
    pub(super) query_rows: Range<usize>,
    pub(super) first_position: usize,
    pub(super) keys: Mat<'a>,
    pub(super) key_columns: Range<usize>,
    pub(super) values: Mat<'a>,
    pub(super) value_columns: Range<usize>,
    pub(super) key_rows: [Range<usize>; 2],
    pub(super) out: SharedMat<'a>,
    pub(super) lse: Option<SharedSlice<'a>>,
}

/// A head with its scratch, which is fetched before the instruction set is chosen: what a closure calls
/// would be compiled without it.
struct Work<'a, 's> {
    head: Head<'a>,
    padded: usize,
    scratch: [&'s mut [f32]; 5],
}

impl Head<'_> {
    /// Does the work.
    pub(super) fn attend(self, isa: Isa) {
        let size = self.shape.head_dim;
        let width = size.next_multiple_of(LANES);
        let keys = self.key_rows[0].len() + self.key_rows[1].len();
        let padded = keys.next_multiple_of(LANES);
        let sizes = [
            size * padded,
            padded * width,
            BLOCK * width,
            BLOCK * padded,
            BLOCK * width,
        ];
        with_scratch(sizes, |scratch| {
            dispatch(
                isa,
                Work {
                    head: self,
                    padded,
                    scratch,
                },
            );
        });
    }
}

impl Kernel for Work<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self {
            head,
            padded,
            scratch: [kt, values, queries, scores, sums],
        } = self;
        let width = head.shape.head_dim.next_multiple_of(LANES);
        let keys = head.key_columns.clone();
        transposed(v, head.keys, head.key_rows.clone(), keys, kt, padded);
        let columns = head.value_columns.clone();
        let rows = head.key_rows.clone();
        straight(v, head.values, rows, columns, 1.0, values, width, padded);
        for first in head.query_rows.clone().step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(head.query_rows.end);
            head.block(
                v,
                rows,
                padded,
                [&*kt, values],
                [&mut *queries, scores, sums],
            );
        }
    }
}

impl Head<'_> {
    #[inline(always)]
    fn block<V: Vector>(
        &self,
        v: V,
        rows: Range<usize>,
        padded: usize,
        [kt, values]: [&[f32]; 2],
        [queries, scores, sums]: [&mut [f32]; 3],
    ) {
        let shape = self.shape;
        let size = shape.head_dim;
        let width = size.next_multiple_of(LANES);
        let count = rows.len().next_multiple_of(ROWS);
        let position = self.first_position + rows.start - self.query_rows.start;
        let columns = shape.columns(shape.query, self.head);
        straight(
            v,
            self.queries,
            [rows.clone(), 0..0],
            columns,
            shape.scale,
            queries,
            width,
            count,
        );
        let seen = Seen::new(shape, position, rows.len(), padded);
        let left = Left {
            data: queries,
            row: width,
            column: 1,
        };
        let right = Right {
            data: &kt[seen.first..],
            stride: padded,
        };
        product(
            v,
            [count, seen.span, size],
            left,
            right,
            scores,
            seen.span,
            false,
        );
        let mut scales = [0.0; BLOCK];
        for i in 0..rows.len() {
            let row = &mut scores[i * seen.span..][..seen.span];
            seen.mask(shape, i, row);
            let (sum, lse) = softmax(v, row, shape.slope(self.head), seen.distance(i));
            scales[i] = 1.0 / sum;
            if let Some(shared) = &self.lse {
                let at = (rows.start + i) * shape.heads + self.head;
                // SAFETY: each task has its own rows and head.
                let slot = unsafe { shared.part(at..at + 1) };
                slot[0] = lse;
            }
        }
        scores[rows.len() * seen.span..count * seen.span].fill(0.0);
        let left = Left {
            data: scores,
            row: seen.span,
            column: 1,
        };
        let right = Right {
            data: &values[seen.first * width..],
            stride: width,
        };
        product(
            v,
            [count, width, seen.span],
            left,
            right,
            sums,
            width,
            false,
        );
        for (i, row) in rows.enumerate() {
            let start = self.head * size;
            // SAFETY: each task has its own rows and head.
            let out = unsafe { self.out.part(row, start..start + size) };
            let scale = v.splat(scales[i]);
            map!(v, sums[i * width..][..size], out, |x| v.mul(x, scale));
        }
    }
}

/// The keys that a block of queries looks at: a run of whole vectors.
pub(super) struct Seen {
    /// First key, a multiple of sixteen.
    pub(super) first: usize,
    /// Keys, a multiple of sixteen.
    pub(super) span: usize,
    /// Position of the block's first query.
    position: usize,
}

impl Seen {
    pub(super) fn new(shape: &Shape<'_>, position: usize, queries: usize, padded: usize) -> Self {
        let first = shape.first_seen(position) / LANES * LANES;
        let end = (position + queries).next_multiple_of(LANES).min(padded);
        Self {
            first,
            span: end - first,
            position,
        }
    }

    /// Query i's own key, counted from the run's first.
    pub(super) fn distance(&self, i: usize) -> f32 {
        (self.position + i - self.first) as f32
    }

    /// Query i's visible part of the run.
    pub(super) fn visible(&self, shape: &Shape<'_>, i: usize) -> Range<usize> {
        let position = self.position + i;
        let first = shape.first_seen(position).max(self.first);
        first - self.first..position + 1 - self.first
    }

    fn mask(&self, shape: &Shape<'_>, i: usize, scores: &mut [f32]) {
        let visible = self.visible(shape, i);
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
    }
}

/// Replaces scores by exponentials about their maximum; gives their sum and the log of the whole sum.
#[inline(always)]
fn softmax<V: Vector>(v: V, scores: &mut [f32], slope: f32, own: f32) -> (f32, f32) {
    let (lanes, _) = scores.as_chunks_mut::<LANES>();
    let mut top = v.splat(f32::NEG_INFINITY);
    if slope == 0.0 {
        for x in &*lanes {
            top = v.max(v.load(x), top);
        }
    } else {
        let slope = v.splat(slope);
        for (i, x) in lanes.iter_mut().enumerate() {
            let distance = v.add(v.load(&IOTA), v.splat((i * LANES) as f32 - own));
            let score = v.fma(slope, distance, v.load(x));
            top = v.max(score, top);
            v.store(score, x);
        }
    }
    let highest = v.highest(top);
    let top = v.splat(highest);
    let mut sum = v.zero();
    for x in lanes {
        let e = exp(v, v.sub(v.load(x), top));
        sum = v.add(sum, e);
        v.store(e, x);
    }
    let sum = v.sum(sum);
    (sum, (f64::from(highest) + f64::from(sum).ln()) as f32)
}
