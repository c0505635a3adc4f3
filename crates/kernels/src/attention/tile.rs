//! Products of small f32 matrices whose sizes are rounded up by zeros: no tails.

use crate::vector::{LANES, Lanes, Vector};

/// Rows of a register tile.
pub(super) const ROWS: usize = 4;

/// The left factor: element (m, k) is `data[m·row + k·column]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

impl Left<'_> {
    /// Row `row` and those behind it.
    #[inline(always)]
    pub(super) fn behind(self, row: usize) -> Self {
        let data = &self.data[row * self.row..];
        Self { data, ..self }
    }
}

/// The right factor: element (k, n) is `data[k·stride + n]`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

/// `to[m·stride + n] = Σ_k a(m, k)·b(k, n)`, k ascending; with `add` the sum goes on from what is there, so that a
/// product may be cut along k anywhere.
///
/// * `size`: `[M, N, K]` with M a multiple of [`ROWS`] and N of [`LANES`].
#[inline(always)]
pub(super) fn product<V: Vector>(
    v: V,
    size: [usize; 3],
    a: Left<'_>,
    b: Right<'_>,
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
        for m in (0..rows).step_by(ROWS) {
            let at = m * stride + n;
            // SAFETY: rows m..m+4 and columns n..n+16·vectors are inside by the assertions above.
            unsafe {
                match vectors {
                    4 => tile::<V, 4>(v, m, n, depth, a, b, &mut to[at..], stride, add),
                    2 => tile::<V, 2>(v, m, n, depth, a, b, &mut to[at..], stride, add),
                    _ => tile::<V, 1>(v, m, n, depth, a, b, &mut to[at..], stride, add),
                }
            }
        }
        n += vectors * LANES;
    }
}

/// # Safety
/// Rows `m..m + ROWS` of `a`, columns `n..n + 16·N` of `b`, `depth` elements of each, and as many rows
/// and columns from the start of `to` are inside their slices.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "a tile is its place in three matrices"
)]
unsafe fn tile<V: Vector, const N: usize>(
    v: V,
    m: usize,
    n: usize,
    depth: usize,
    a: Left<'_>,
    b: Right<'_>,
    to: &mut [f32],
    stride: usize,
    add: bool,
) {
    let mut sums = [[v.zero(); N]; ROWS];
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
            let mut right = [v.zero(); N];
            for (j, right) in right.iter_mut().enumerate() {
                *right = v.load(lanes(b.data.as_ptr().add(k * b.stride + n + j * LANES)));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = v.splat(*a.data.get_unchecked((m + i) * a.row + k * a.column));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = v.fma(left, right, *sum);
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
unsafe fn lanes<'a>(at: *const f32) -> &'a Lanes {
    // SAFETY: the caller's promise; an array of f32 needs no more alignment than one.
    unsafe { &*at.cast::<Lanes>() }
}
