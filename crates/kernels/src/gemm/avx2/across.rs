//! Few rows over stored rows along n: sums run down the matrix. Two vectors of each of four stored rows are decoded in
//! registers, where every row of x meets them; nothing is packed.

use super::pack::Source;
use super::{LANES, add_to};
use crate::gemm::K_BLOCK;
use crate::gemm::few::{DEPTH_ACROSS, ROWS_ACROSS};
use crate::gemm::kernel::Few;
use std::arch::x86_64::*;
use std::ops::Range;

/// Vectors of columns at a time, and stored rows: eight vectors of weights, two of sums.
const VECTORS: usize = 2;
const COLUMNS: usize = VECTORS * LANES;
const DEPTH: usize = 4;
/// Stored rows from one to that whose line it asks for.
const AHEAD: usize = 8;
const _: () = assert!(
    DEPTH_ACROSS.is_multiple_of(DEPTH),
    "runs of x are met in whole"
);
/// Sums that are kept between runs of stored rows: half of the first cache.
const SUMS: usize = 4096;
const _: () = assert!(
    ROWS_ACROSS * COLUMNS <= SUMS,
    "some columns' sums of all rows"
);

/// `[columns, sixteen at a time][row][column]`
#[repr(align(32))]
struct Sums([f32; SUMS]);

/// # Safety
/// As [`Few`] says, for at most [`ROWS_ACROSS`] rows; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn float<S: Source>(few: &Few) {
    debug_assert!(few.rows <= ROWS_ACROSS);
    let mut sums = Sums([0.0; SUMS]);
    let strip = SUMS / few.rows / COLUMNS * COLUMNS;
    for first_k in (0..few.k).step_by(K_BLOCK) {
        let block = first_k..few.k.min(first_k + K_BLOCK);
        for first in (0..few.n).step_by(strip) {
            let columns = first..few.n.min(first + strip);
            // SAFETY: the caller's promise; the sums of a strip fit.
            unsafe {
                add_block::<S>(few, block.clone(), columns.clone(), &mut sums);
                for (some, column) in columns.step_by(COLUMNS).enumerate() {
                    let sums = &sums.0[some * few.rows * COLUMNS..];
                    finish(few, column, first_k == 0, sums);
                }
            }
        }
    }
}

/// Sums of a block of k over the columns of a strip.
///
/// # Safety
/// As [`float`]; the block and the columns exist.
#[inline(always)]
unsafe fn add_block<S: Source>(
    few: &Few,
    block: Range<usize>,
    columns: Range<usize>,
    sums: &mut Sums,
) {
    sums.0[..columns.len().next_multiple_of(COLUMNS) * few.rows].fill(0.0);
    for k in block.clone().step_by(DEPTH) {
        let run = DEPTH.min(block.end - k);
        let x = few
            .x
            .wrapping_add(k / DEPTH_ACROSS * few.x_stride + k % DEPTH_ACROSS);
        for (some, column) in columns.clone().step_by(COLUMNS).enumerate() {
            let mut meeting = Meeting {
                weights: few.bytes.wrapping_add(k * few.row_bytes + column * S::SIZE),
                row_bytes: few.row_bytes,
                columns: columns.end - column,
                x: x.cast(),
                rows: few.rows,
                sums: sums.0[some * few.rows * COLUMNS..].as_mut_ptr(),
            };
            // SAFETY: these rows of the matrix and of x exist.
            unsafe {
                if run == DEPTH {
                    meeting.add::<S, DEPTH>();
                    continue;
                }
                for _ in 0..run {
                    meeting.add::<S, 1>();
                    meeting.weights = meeting.weights.wrapping_add(few.row_bytes);
                    meeting.x = meeting.x.wrapping_add(1);
                }
            }
        }
    }
}

/// Some columns of some stored rows, and all rows of x.
struct Meeting {
    weights: *const u8,
    row_bytes: usize,
    /// That there are from the first of these on.
    columns: usize,
    /// Rows are [`DEPTH_ACROSS`] apart.
    x: *const f32,
    rows: usize,
    /// Rows are [`COLUMNS`] apart.
    sums: *mut f32,
}

impl Meeting {
    /// Adds the products with `D` stored rows, upwards.
    ///
    /// # Safety
    /// The stored rows exist, so do x and the sums; the processor has the features of [`float`].
    #[inline(always)]
    unsafe fn add<S: Source, const D: usize>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut weights = [[_mm256_setzero_ps(); VECTORS]; D];
            for (depth, weights) in weights.iter_mut().enumerate() {
                let row = self.weights.wrapping_add(depth * self.row_bytes);
                let ahead = row.wrapping_add(AHEAD * self.row_bytes);
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                for (v, weights) in weights.iter_mut().enumerate() {
                    let at = row.wrapping_add(v * LANES * S::SIZE);
                    // One question for both: a question for each costs a third where rows are few.
                    *weights = if self.columns >= COLUMNS {
                        S::values(at)
                    } else {
                        S::up_to(at, self.columns.saturating_sub(v * LANES))
                    };
                }
            }
            for row in 0..self.rows {
                let at = self.sums.add(row * COLUMNS);
                let mut sums = [_mm256_load_ps(at), _mm256_load_ps(at.add(LANES))];
                for (depth, weights) in weights.iter().enumerate() {
                    let x = _mm256_broadcast_ss(&*self.x.add(row * DEPTH_ACROSS + depth));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm256_fmadd_ps(x, *weights, *sum);
                    }
                }
                _mm256_store_ps(at, sums[0]);
                _mm256_store_ps(at.add(LANES), sums[1]);
            }
        }
    }
}

/// Adds some columns' sums of all rows to y, the bias with the first block.
///
/// # Safety
/// As [`float`]; the first of the columns exists.
#[inline(always)]
unsafe fn finish(few: &Few, column: usize, first: bool, sums: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = _mm256_set1_ps(few.scale);
        for (row, sums) in sums.chunks_exact(COLUMNS).take(few.rows).enumerate() {
            for (column, sums) in (column..few.n).step_by(LANES).zip(sums.chunks_exact(LANES)) {
                let columns = few.n - column;
                let mut bias = std::ptr::null();
                if first && !few.bias.is_null() {
                    bias = few.bias.wrapping_add(column);
                }
                let y = few.y.wrapping_add(row * few.stride + column);
                let sum = _mm256_load_ps(sums.as_ptr());
                let keep = few.add || !first;
                if columns >= LANES {
                    add_to::<false>(y, columns, keep, bias, scale, sum);
                } else {
                    add_to::<true>(y, columns, keep, bias, scale, sum);
                }
            }
        }
    }
}
