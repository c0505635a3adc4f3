//! Copies of heads, in scratch that a thread keeps, in the layouts that products read.
//!
//! Rows of the stream lie a multiple of 4,096 bytes apart in common models, so that reading them in place
//! would use a handful of cache sets.

use super::stream::Stream;
use super::tile::Right;
use super::word::Word;
use crate::gemm::arena;
use crate::vector::{LANES, Vector};
use std::ops::Range;

/// Lends slices of these sizes, each from a cache line on, with what they had before in them.
#[inline(always)]
pub(super) fn with_scratch<W: Word, const N: usize, T>(
    sizes: [usize; N],
    work: impl FnOnce([&mut [W]; N]) -> T,
) -> T {
    let sizes = sizes.map(|size| size.next_multiple_of(LANES));
    arena::with(sizes.iter().sum(), |all| {
        let mut rest: &mut [W] = bytemuck::cast_slice_mut(all);
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

/// Words from one row of a right factor to the next: an odd number of cache lines, so that the lines of a
/// column lie in all sets of the first cache and not in an eighth of them, where they push each other out.
pub(super) const fn stride(width: usize) -> usize {
    (width.div_ceil(LANES) | 1) * LANES
}

/// Words from one row of a panel to the next.
const PANEL_STRIDE: usize = stride(PANEL);

/// Words that [`panels`] writes.
pub(super) fn panels_len<W: Word>(rows: usize, size: usize) -> usize {
    rows.div_ceil(PANEL) * PANEL_STRIDE * size.div_ceil(W::DEPTH)
}

/// The panel that starts with this key, of keys of so many words, as a right factor.
#[inline(always)]
pub(super) fn panel<W>(panels: &[W], first: usize, words: usize) -> Right<'_, W> {
    Right {
        data: &panels[first / PANEL * PANEL_STRIDE * words..],
        stride: PANEL_STRIDE,
    }
}

/// Rows as columns, in panels: of a row's W words, word k of row i is in panel `p = i / PANEL`, at
/// `(p·W + k)·PANEL_STRIDE + i % PANEL`; up to the next multiple of sixteen, columns behind the last row are zero.
#[inline(always)]
pub(super) fn panels<V: Vector, W: Word>(
    v: V,
    from: Stream<'_>,
    rows: [Range<usize>; 2],
    columns: Range<usize>,
    to: &mut [W],
) {
    let count = rows[0].len() + rows[1].len();
    let words = columns.len().div_ceil(W::DEPTH);
    for first in (0..count).step_by(LANES) {
        let used = (count - first).min(LANES);
        let panel = first / PANEL * PANEL_STRIDE * words + first % PANEL;
        for word in (0..words).step_by(LANES) {
            // Each line of the rows is read once: they would push each other out of the first cache.
            let mut square = [[W::zeroed(); LANES]; LANES];
            let elements = columns.start + word * W::DEPTH..columns.end;
            for (i, to) in square[..used].iter_mut().enumerate() {
                *to = W::first(v, from.row(row_of(&rows, first + i), elements.clone()));
            }
            let last = (words - word).min(LANES) - 1;
            let to = &mut to[panel + word * PANEL_STRIDE..][..last * PANEL_STRIDE + LANES];
            v.turn(
                bytemuck::cast_ref(&square),
                bytemuck::cast_slice_mut(to),
                PANEL_STRIDE,
            );
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

/// Copies rows, [`stride`] apart; what is behind a row's last column is zero, and so are rows up to `total`.
#[inline(always)]
pub(super) fn straight(
    from: Stream<'_>,
    rows: [Range<usize>; 2],
    columns: Range<usize>,
    to: &mut [f32],
    total: usize,
) {
    let size = columns.len();
    let stride = stride(size);
    let count = rows[0].len() + rows[1].len();
    for (row, to) in rows.into_iter().flatten().zip(to.chunks_exact_mut(stride)) {
        let (to, pad) = to.split_at_mut(size);
        from.row(row, columns.clone()).write(to);
        pad.fill(0.0);
    }
    to[count * stride..total * stride].fill(0.0);
}
