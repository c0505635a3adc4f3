//! Few rows: vectors run along k, for four columns of y and up to six rows at a time.

use super::LANES;
use super::pack::{Source, along_k, first16, first32};
use crate::gemm::K_BLOCK;
use crate::gemm::kernel::Few;
use std::arch::x86_64::*;

/// Rows of the largest tile: 24 sums, four vectors of weights, one of activations.
const ROWS: usize = 6;
const COLUMNS: usize = 4;

/// Adds the lanes of four vectors as [`crate::gemm::scalar::tree`] does: one sum in the first
/// element of each quarter.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn four_sums(v: [__m512; 4]) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        // Lanes l and l + 8: halves of two vectors side by side.
        let fold = |a, b| {
            let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
            let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
            _mm512_add_ps(low, high)
        };
        let (ab, cd) = (fold(v[0], v[1]), fold(v[2], v[3]));
        // Lanes l and l + 4: quarters of all four.
        let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
        let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd);
        let sums = _mm512_add_ps(low, high);
        let sums = _mm512_add_ps(sums, _mm512_permute_ps::<0b01_00_11_10>(sums));
        _mm512_add_ps(sums, _mm512_permute_ps::<0b10_11_00_01>(sums))
    }
}

/// Adds the sums of one row and `count` columns to y.
///
/// # Safety
/// They exist; the processor has AVX-512.
#[inline(always)]
unsafe fn finish(few: &Few, first: bool, row: usize, column: usize, count: usize, sums: __m512) {
    // SAFETY: the caller's promise; the mask keeps to the columns.
    unsafe {
        let quarters = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        let sums = _mm512_castps512_ps128(_mm512_permutexvar_ps(quarters, sums));
        let mask = first16(count) as u8;
        let y = few.y.wrapping_add(row * few.stride + column);
        let mut start = _mm_setzero_ps();
        if few.add || !first {
            start = _mm_maskz_loadu_ps(mask, y);
        }
        if first && !few.bias.is_null() {
            let bias = _mm_maskz_loadu_ps(mask, few.bias.wrapping_add(column));
            start = _mm_add_ps(start, bias);
        }
        _mm_mask_storeu_ps(y, mask, _mm_fmadd_ps(sums, _mm_set1_ps(few.scale), start));
    }
}

macro_rules! few {
    ($few:ident, $tile:ident, $features:literal, $step:literal, $load:expr, $multiply_add:expr) => {
        /// # Safety
        /// As [`Few`] says; the processor has the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $few<S: Source>(few: &Few) {
            for column in (0..few.n).step_by(COLUMNS) {
                for k in (0..few.k).step_by(K_BLOCK) {
                    // Tiles of nearly equal size: 7 rows as 4 + 3.
                    let tiles = few.rows.div_ceil(ROWS);
                    let mut first = 0;
                    for tile in 0..tiles {
                        let rows = (few.rows - first).div_ceil(tiles - tile);
                        let at = (first, column, k);
                        // SAFETY: the caller's promise.
                        unsafe {
                            match rows {
                                1 => $tile::<S, 1>(few, at),
                                2 => $tile::<S, 2>(few, at),
                                3 => $tile::<S, 3>(few, at),
                                4 => $tile::<S, 4>(few, at),
                                5 => $tile::<S, 5>(few, at),
                                _ => $tile::<S, 6>(few, at),
                            }
                        }
                        first += rows;
                    }
                }
            }
        }

        /// # Safety
        /// As [`Few`] says, with `R` rows from the first on.
        #[target_feature(enable = $features)]
        unsafe fn $tile<S: Source, const R: usize>(few: &Few, at: (usize, usize, usize)) {
            let (row, column, first_k) = at;
            let count = COLUMNS.min(few.n - column);
            let run = K_BLOCK.min(few.k - first_k);
            // SAFETY: columns past the last are the last again; masks keep to the run.
            unsafe {
                let weights: [*const u8; COLUMNS] = std::array::from_fn(|c| {
                    let column = column + c.min(count - 1);
                    few.bytes.add(column * few.row_bytes + first_k * S::SIZE)
                });
                // The same place in the next columns; the first rows of a tile ask for all.
                let ahead = COLUMNS * few.row_bytes;
                let x = few.x.add(row * few.x_stride + first_k * LANES / $step);
                let mut sums = [[_mm512_setzero_ps(); COLUMNS]; R];
                let mut step = |k: usize, left: usize| {
                    let mut w = [_mm512_setzero_si512(); COLUMNS];
                    for (c, w) in w.iter_mut().enumerate() {
                        let at = weights[c].add(k * S::SIZE);
                        if row == 0 {
                            _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                        }
                        *w = $load(at, left);
                    }
                    let mask = first16((left * LANES).div_ceil($step));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = x.add(row * few.x_stride + k * LANES / $step);
                        let x = _mm512_maskz_loadu_epi32(mask, x.cast());
                        for (sum, w) in sums.iter_mut().zip(&w) {
                            *sum = $multiply_add(*sum, x, *w);
                        }
                    }
                };
                let full = run - run % $step;
                for k in (0..full).step_by($step) {
                    step(k, $step);
                }
                if full < run {
                    step(full, run - full);
                }
                for (r, sums) in sums.iter().enumerate() {
                    let sums = four_sums(*sums);
                    finish(few, first_k == 0, row + r, column, count, sums);
                }
            }
        }
    };
}

few!(
    pairs,
    pairs_of,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16",
    32,
    |at, left| S::pairs(at, first32(left)),
    |sum, x: __m512i, panel: __m512i| {
        _mm512_dpbf16_ps(
            sum,
            std::mem::transmute::<__m512i, __m512bh>(x),
            std::mem::transmute::<__m512i, __m512bh>(panel),
        )
    }
);

few!(
    float,
    float_of,
    "avx512f,avx512bw,avx512dq,avx512vl",
    16,
    |at, left| along_k::<false>(S::values(at, first16(left))),
    |sum, x, panel| _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(panel), sum)
);
