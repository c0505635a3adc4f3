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

/// Keys of a panel: what a register tile is wide, and as many as one product takes at a time, so that all that
/// it reads stays in the first cache.
pub(super) const PANEL: usize = 64;

/// Elements that [`panels`] writes.
pub(super) fn panels_len(rows: usize, size: usize) -> usize {
    rows.next_multiple_of(PANEL) * size
}

/// Rows as columns, in panels: element e of row i is in panel `p = i / PANEL`, at `(p·E + e)·PANEL + i % PANEL`;
/// up to the next multiple of sixteen, columns behind the last row are zero.
#[inline(always)]
pub(super) fn panels<V: Vector>(
    v: V,
    from: Mat<'_>,
    rows: [Range<usize>; 2],
    columns: Range<usize>,
    to: &mut [f32],
) {
    let count = rows[0].len() + rows[1].len();
    for first in (0..count).step_by(LANES) {
        let used = (count - first).min(LANES);
        let panel = first / PANEL * PANEL * columns.len() + first % PANEL;
        for e in (0..columns.len()).step_by(LANES) {
            // Each line of the rows is read once: they would push each other out of the first cache.
            let mut square = [[0.0; LANES]; LANES];
            let elements = columns.start + e..(columns.start + e + LANES).min(columns.end);
            for (i, to) in square[..used].iter_mut().enumerate() {
                let row = &from.row(row_of(&rows, first + i))[elements.clone()];
                match row.first_chunk() {
                    Some(whole) => v.store(v.load(whole), to),
                    None => to[..row.len()].copy_from_slice(row),
                }
            }
            for j in 0..elements.len() {
                let to = &mut to[panel + (e + j) * PANEL..][..LANES];
                for (to, row) in to.iter_mut().zip(&square) {
                    *to = row[j];
                }
            }
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
