//! Moving, adding and summing, and draws.

use crate::share::{SharedMat, SharedSlice, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch, update};
use crate::{Context, Mat, MatMut};
use std::ops::Range;

/// Elements whose squares are summed together before the sums are: fixed, so that threads change nothing.
const SUM_BLOCK: usize = 1 << 14;

/// A uniform draw in `[0, 1)` with 24 bits, from a counter: no state, so that the same key and index give the same draw
/// in any order. `SplitMix64` (Steele et al. 2014) over both.
#[inline(always)]
pub fn uniform(key: u64, index: u64) -> f32 {
    (mixed(key, index) >> 40) as f32 / (1u64 << 24) as f32
}

/// 64 bits from a key and a counter.
#[inline(always)]
pub(crate) fn mixed(key: u64, index: u64) -> u64 {
    let mut z = key ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `y = x`, or `y += x` with `add`.
///
/// # Panics
/// When sizes do not fit.
pub fn copy(context: &Context, x: Mat<'_>, y: MatMut<'_>, add: bool) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "a copy");
    let y = SharedMat::new(y);
    in_ranges(context, x.rows, x.cols, 1, |rows| {
        if add {
            return dispatch(context.isa, Add { x, y, rows });
        }
        for r in rows {
            // SAFETY: each task has its own rows.
            unsafe { y.row(r) }.copy_from_slice(x.row(r));
        }
    });
}

/// `y[i] = x[rows[i]]`.
///
/// # Panics
/// When a row is not in `x`, or sizes do not fit.
pub fn gather(context: &Context, x: Mat<'_>, rows: &[u32], y: MatMut<'_>) {
    assert_eq!((rows.len(), x.cols), (y.rows, y.cols), "rows to gather");
    let y = SharedMat::new(y);
    in_ranges(context, rows.len(), x.cols, 1, |range| {
        for i in range {
            assert!((rows[i] as usize) < x.rows, "row {} of {}", rows[i], x.rows);
            // SAFETY: each task has its own rows.
            unsafe { y.row(i) }.copy_from_slice(x.row(rows[i] as usize));
        }
    });
}

/// Sets every element.
pub fn fill(context: &Context, x: &mut [f32], value: f32) {
    let size = x.len();
    let x = SharedSlice::new(x);
    in_ranges(context, size, 1, LANES, |range| {
        // SAFETY: each task has its own range.
        unsafe { x.part(range) }.fill(value);
    });
}

/// `sums[c] += Σ_r x[r][c]`, in the order of r.
///
/// # Panics
/// When sizes do not fit.
pub fn add_column_sums(context: &Context, x: Mat<'_>, sums: &mut [f32]) {
    assert_eq!(sums.len(), x.cols, "sums of columns");
    let shared = SharedSlice::new(sums);
    in_ranges(context, x.cols, x.rows, LANES, |columns| {
        // SAFETY: each task has its own columns.
        let sums = unsafe { shared.part(columns.clone()) };
        dispatch(context.isa, ColumnSums { x, columns, sums });
    });
}

/// `Σ x²` in f64, in a tree that depends on the length alone.
pub fn sum_of_squares(context: &Context, x: &[f32]) -> f64 {
    let mut sums = vec![0.0f64; x.len().div_ceil(SUM_BLOCK)];
    for (sum, block) in sums.iter_mut().zip(x.chunks(SUM_BLOCK)) {
        *sum = dispatch(context.isa, Squares(block));
    }
    sums.iter().sum()
}

struct Add<'a> {
    x: Mat<'a>,
    y: SharedMat<'a>,
    rows: Range<usize>,
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            // SAFETY: each task has its own rows.
            let y = unsafe { self.y.row(r) };
            update!(v, y, self.x.row(r), |y, x| v.add(y, x));
        }
    }
}

struct ColumnSums<'a> {
    x: Mat<'a>,
    columns: Range<usize>,
    sums: &'a mut [f32],
}

impl Kernel for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in 0..self.x.rows {
            let x = &self.x.row(r)[self.columns.clone()];
            update!(v, self.sums, x, |sum, x| v.add(sum, x));
        }
    }
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self, _v: V) -> f64 {
        let mut sums = [0.0f64; LANES];
        let (lanes, tail) = self.0.as_chunks::<LANES>();
        for x in lanes {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        }
        for (sum, x) in sums.iter_mut().zip(tail) {
            *sum += f64::from(*x) * f64::from(*x);
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests;
