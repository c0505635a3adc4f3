//! Products of small matrices whose sizes are rounded up by zeros: no tails.

use super::word::Word;
use crate::vector::{LANES, Lanes, Vector};

/// Rows of a register tile.
pub(super) const ROWS: usize = 4;
/// Rows of a tile that makes the best of narrow registers: twelve hold its sums.
const TALL: usize = 6;

/// The left factor: word (m, k) is `data[m·row + k·column]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, W> {
    pub(super) data: &'a [W],
    pub(super) row: usize,
    pub(super) column: usize,
}

impl<W> Left<'_, W> {
    /// Row `row` and those behind it.
    #[inline(always)]
    pub(super) fn behind(self, row: usize) -> Self {
        Self {
            data: &self.data[row * self.row..],
            ..self
        }
    }
}

/// The right factor: word (k, n) is `data[k·stride + n]`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a, W> {
    pub(super) data: &'a [W],
    pub(super) stride: usize,
}

/// `to[m·stride + n] = Σ_k a(m, k)·b(k, n)`, k ascending; with `add` the sum goes on from what is there, so that a
/// product may be cut along k anywhere.
///
/// * `size`: `[M, N, K]` with M a multiple of [`ROWS`] and N of [`LANES`], K in words.
#[inline(always)]
pub(super) fn product<V: Vector, W: Word>(
    v: V,
    size: [usize; 3],
    a: Left<'_, W>,
    b: Right<'_, W>,
    to: &mut [f32],
    stride: usize,
    add: bool,
) {
    let [rows, cols, depth] = size;
    assert!(
        rows.is_multiple_of(ROWS) && cols.is_multiple_of(LANES),
        "{size:?}"
    );
    if rows == 0 || cols == 0 {
        return;
    }
    let last = depth.saturating_sub(1);
    assert!(
        depth == 0 || (rows - 1) * a.row + last * a.column < a.data.len(),
        "left {size:?}"
    );
    assert!(
        depth == 0 || last * b.stride + cols <= b.data.len(),
        "right {size:?}"
    );
    assert!(
        (rows - 1) * stride + cols <= to.len() && cols <= stride,
        "output {size:?}"
    );
    let mut n = 0;
    while n < cols {
        let vectors = match (cols - n) / LANES {
            4.. if V::WIDE => 4,
            2 | 3 if V::WIDE => 2,
            _ => 1,
        };
        let tall = tall_rows::<V, W>(rows);
        for m in (0..tall).step_by(TALL) {
            let to = &mut to[m * stride + n..];
            // SAFETY: rows m..m+6 and columns n..n+16 are inside by the assertions above.
            unsafe { tile::<V, W, TALL, 1>(v, m, n, depth, a, b, to, stride, add) };
        }
        for m in (tall..rows).step_by(ROWS) {
            let to = &mut to[m * stride + n..];
            // SAFETY: rows m..m+4 and columns n..n+16·vectors are inside by the assertions above.
            unsafe {
                match vectors {
                    4 => tile::<V, W, ROWS, 4>(v, m, n, depth, a, b, to, stride, add),
                    2 => tile::<V, W, ROWS, 2>(v, m, n, depth, a, b, to, stride, add),
                    _ => tile::<V, W, ROWS, 1>(v, m, n, depth, a, b, to, stride, add),
                }
            }
        }
        n += vectors * LANES;
    }
}

/// The first rows of `rows`, those that tiles of [`TALL`] take: two of them are three of [`ROWS`]. None where registers are
/// wide, since columns fill them, nor for pairs, which need registers to be taken apart in.
#[inline(always)]
fn tall_rows<V: Vector, W: Word>(rows: usize) -> usize {
    if V::WIDE || W::DEPTH > 1 {
        0
    } else {
        rows / (2 * TALL) * (2 * TALL)
    }
}

/// # Safety
/// Rows `m..m + M` of `a`, columns `n..n + 16·N` of `b`, `depth` words of each, and as many rows
/// and columns from the start of `to` are inside their slices.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "a tile is its place in three matrices"
)]
unsafe fn tile<V: Vector, W: Word, const M: usize, const N: usize>(
    v: V,
    m: usize,
    n: usize,
    depth: usize,
    a: Left<'_, W>,
    b: Right<'_, W>,
    to: &mut [f32],
    stride: usize,
    add: bool,
) {
    let mut sums = [[v.zero(); N]; M];
    if add {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *sum = v.load(unsafe { lanes(to.as_ptr().add(i * stride + j * LANES)) });
            }
        }
    }
    for k in 0..depth {
        // SAFETY: the caller's promise.
        unsafe {
            let right = b.data.as_ptr().add(k * b.stride + n);
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = *a.data.get_unchecked((m + i) * a.row + k * a.column);
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = W::step(v, left, lanes(right.add(j * LANES)), *sum);
                }
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            let to = unsafe { &mut *to.as_mut_ptr().add(i * stride + j * LANES).cast::<Lanes>() };
            v.store(sum, to);
        }
    }
}

/// # Safety
/// Sixteen elements from `at` on are readable for `'a`.
#[inline(always)]
unsafe fn lanes<'a, W>(at: *const W) -> &'a [W; LANES] {
    // SAFETY: the caller's promise; an array needs no more alignment than its elements.
    unsafe { &*at.cast() }
}
