//! Copies of heads, in scratch that a thread keeps, in the layouts that products read.
//!
//! Rows of the stream lie a multiple of 4,096 bytes apart in common models, so that reading them in place
//! would use a handful of cache sets.

use crate::Mat;
use crate::gemm::arena;
use crate::vector::{LANES, Vector};
use std::ops::Range;

/// Lends slices of these sizes, each from a cache line on, with what they had before in them.
#[inline(always)]
pub(super) fn with_scratch<const N: usize, T>(
    sizes: [usize; N],
    work: impl FnOnce([&mut [f32]; N]) -> T,
) -> T {
    let sizes = sizes.map(|size| size.next_multiple_of(LANES));
    arena::with(sizes.iter().sum(), |all| {
        let mut rest: &mut [f32] = bytemuck::cast_slice_mut(all);
        work(sizes.map(|size| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(size);
            rest = after;
            part
        }))
    })
}

/// Rows as columns: `to[e·stride + i]` is element e of row i; columns behind the last row are zero.
#[inline(always)]
pub(super) fn transposed<V: Vector>(
    _v: V,
    from: Mat<'_>,
    rows: [Range<usize>; 2],
    columns: Range<usize>,
    to: &mut [f32],
    stride: usize,
) {
    let count = rows[0].len() + rows[1].len();
    let mut block = [0usize; LANES];
    for first in (0..stride).step_by(LANES) {
        let used = count.saturating_sub(first).min(LANES);
        for (i, row) in block[..used].iter_mut().enumerate() {
            *row = row_of(&rows, first + i);
        }
        for (e, column) in columns.clone().enumerate() {
            let to = &mut to[e * stride + first..][..LANES];
            for (to, row) in to.iter_mut().zip(&block[..used]) {
                *to = from.data[row * from.stride + column];
            }
            to[used..].fill(0.0);
        }
    }
}

fn row_of(rows: &[Range<usize>; 2], i: usize) -> usize {
    if i < rows[0].len() {
        rows[0].start + i
    } else {
        rows[1].start + i - rows[0].len()
    }
}

/// Rows of `stride` elements, times `factor`; columns behind the last and rows up to `total` are zero.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "a copy is two places and two sizes"
)]
pub(super) fn straight<V: Vector>(
    v: V,
    from: Mat<'_>,
    rows: [Range<usize>; 2],
    columns: Range<usize>,
    factor: f32,
    to: &mut [f32],
    stride: usize,
    total: usize,
) {
    let size = columns.len();
    let count = rows[0].len() + rows[1].len();
    let factor = v.splat(factor);
    for (row, to) in rows.into_iter().flatten().zip(to.chunks_exact_mut(stride)) {
        let (to, pad) = to.split_at_mut(size);
        let from = &from.row(row)[columns.clone()];
        crate::vector::map!(v, from, to, |x| v.mul(x, factor));
        pad.fill(0.0);
    }
    to[count * stride..total * stride].fill(0.0);
}
