//! One row of x over stored rows along k, and where sums of few rows end: four columns at a time.

use super::LANES;
use super::pack::{Source, lane_mask};
use crate::gemm::K_BLOCK;
use crate::gemm::kernel::Few;
use crate::gemm::scalar;
use std::arch::x86_64::*;

pub(super) const COLUMNS: usize = 4;
/// Halves of the sixteen sums of an element.
pub(super) const HALVES: usize = scalar::LANES / LANES;

/// Sums of a row, half by half.
type Sums = [[__m256; COLUMNS]; HALVES];

/// Weights meet the row as they are decoded, so that memory is read all the time.
///
/// # Safety
/// As [`Few`] says, for one row; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn one_row<S: Source>(few: &Few) {
    for column in (0..few.n).step_by(COLUMNS) {
        for first in (0..few.k).step_by(K_BLOCK) {
            let mut rows = [few.bytes; COLUMNS];
            for (c, row) in rows.iter_mut().enumerate() {
                // Columns past the last are the last again.
                let column = few.n.min(column + c + 1) - 1;
                *row = row.wrapping_add(column * few.row_bytes + first * S::SIZE);
            }
            let run = K_BLOCK.min(few.k - first);
            // SAFETY: the run is inside the rows and x.
            unsafe {
                let x = few.x.add(first).cast::<f32>();
                let sums = block_sums::<S>(x, rows, COLUMNS * few.row_bytes, run);
                finish(few, first == 0, 0, column, sums);
            }
        }
    }
}

/// Sums of a block over four rows, asking for the lines that are `ahead` bytes behind.
///
/// # Safety
/// x and the rows hold `run` elements; the processor has AVX2, FMA and F16C.
#[inline(always)]
unsafe fn block_sums<S: Source>(
    x: *const f32,
    rows: [*const u8; COLUMNS],
    ahead: usize,
    run: usize,
) -> Sums {
    // SAFETY: the caller's promise; a prefetch may ask for any address.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); COLUMNS]; HALVES];
        let whole = run - run % scalar::LANES;
        for k in (0..whole).step_by(scalar::LANES) {
            for row in rows {
                _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(k * S::SIZE + ahead).cast());
            }
            for (half, sums) in sums.iter_mut().enumerate() {
                let k = k + half * LANES;
                let x = _mm256_loadu_ps(x.add(k));
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = _mm256_fmadd_ps(x, S::values(row.add(k * S::SIZE)), *sum);
                }
            }
        }
        for (k, sums) in (whole..run).step_by(LANES).zip(&mut sums) {
            let x = _mm256_maskload_ps(x.add(k), lane_mask(run - k));
            for (sum, row) in sums.iter_mut().zip(rows) {
                let w = S::up_to(row.add(k * S::SIZE), run - k);
                *sum = _mm256_fmadd_ps(x, w, *sum);
            }
        }
        sums
    }
}

/// Adds the sums of one row and the columns from `column` on to y.
///
/// # Safety
/// As [`Few`] says; the processor has AVX2 and FMA.
#[inline(always)]
pub(super) unsafe fn finish(few: &Few, first: bool, row: usize, column: usize, sums: Sums) {
    // SAFETY: the caller's promise; the mask keeps to the columns.
    unsafe {
        let mask = _mm256_castsi256_si128(lane_mask(few.n - column));
        let y = few.y.wrapping_add(row * few.stride + column);
        let mut start = _mm_setzero_ps();
        if few.add || !first {
            start = _mm_maskload_ps(y, mask);
        }
        if first && !few.bias.is_null() {
            let bias = _mm_maskload_ps(few.bias.wrapping_add(column), mask);
            start = _mm_add_ps(start, bias);
        }
        let total = _mm_fmadd_ps(four_sums(sums), _mm_set1_ps(few.scale), start);
        _mm_maskstore_ps(y, mask, total);
    }
}

/// Adds the sixteen sums of each of four columns as [`scalar::tree`] does.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn four_sums([low, high]: Sums) -> __m128 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut quarters = [_mm_setzero_ps(); COLUMNS];
        for (c, quarter) in quarters.iter_mut().enumerate() {
            // Sums l and l + 8, then l and l + 4.
            let sums = _mm256_add_ps(low[c], high[c]);
            let upper = _mm256_extractf128_ps::<1>(sums);
            *quarter = _mm_add_ps(_mm256_castps256_ps128(sums), upper);
        }
        // Sums l and l + 2 of two columns at a time, then l and l + 1 of all.
        let [a, b, c, d] = quarters;
        let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
        let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
        let even = _mm_shuffle_ps::<0b10_00_10_00>(ab, cd);
        let odd = _mm_shuffle_ps::<0b11_01_11_01>(ab, cd);
        _mm_add_ps(even, odd)
    }
}
