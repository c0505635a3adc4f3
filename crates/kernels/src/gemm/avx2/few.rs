//! Few rows: some stored rows are decoded once for all rows of x; vectors run along k, for three columns of y and up
//! to four rows at a time.

use super::LANES;
use super::pack::{Source, lane_mask};
use crate::gemm::K_BLOCK;
use crate::gemm::kernel::Few;
use crate::gemm::scalar::{self, Decode};
use std::arch::x86_64::*;

/// Rows of the largest tile: 12 sums, three vectors of weights, one of activations.
const ROWS: usize = 4;
const COLUMNS: usize = 3;
/// Halves of the sixteen sums of an element: a tile has registers for one at a time.
const HALVES: usize = scalar::LANES / LANES;

/// A block of some stored rows, decoded, zeros behind what there is. With the rows of a tile it fits the first cache.
#[repr(align(32))]
struct Weights {
    rows: [[f32; K_BLOCK]; COLUMNS],
}

/// # Safety
/// As [`Few`] says; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn float<S: Source>(few: &Few) {
    let mut weights = Weights {
        rows: [[0.0; K_BLOCK]; COLUMNS],
    };
    for column in (0..few.n).step_by(COLUMNS) {
        for k in (0..few.k).step_by(K_BLOCK) {
            // SAFETY: the caller's promise.
            unsafe {
                decode::<S>(few, column, k, &mut weights);
                // Tiles of nearly equal size: 5 rows as 3 + 2.
                let tiles = few.rows.div_ceil(ROWS);
                let mut row = 0;
                for tile in 0..tiles {
                    let rows = (few.rows - row).div_ceil(tiles - tile);
                    match rows {
                        1 => tile_of::<1>(few, (row, column, k), &weights),
                        2 => tile_of::<2>(few, (row, column, k), &weights),
                        3 => tile_of::<3>(few, (row, column, k), &weights),
                        _ => tile_of::<4>(few, (row, column, k), &weights),
                    }
                    row += rows;
                }
            }
        }
    }
}

/// Decodes a block of the columns from `column` on, and asks for the lines of the next ones.
///
/// # Safety
/// As [`Few`] says; the processor has AVX2 and F16C.
#[inline(always)]
unsafe fn decode<S: Source>(few: &Few, column: usize, first: usize, weights: &mut Weights) {
    let run = K_BLOCK.min(few.k - first);
    let ahead = COLUMNS * few.row_bytes;
    for (column, out) in (column..few.n).zip(&mut weights.rows) {
        let row = few
            .bytes
            .wrapping_add(column * few.row_bytes + first * S::SIZE);
        for k in (0..run).step_by(LANES) {
            // SAFETY: inside the matrix, and inside a block; a prefetch may ask for any address.
            unsafe {
                let at = row.add(k * S::SIZE);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(ahead).cast());
                let values = if k + LANES <= run {
                    S::values(at)
                } else {
                    S::some(at, run - k)
                };
                _mm256_storeu_ps(out.as_mut_ptr().add(k), values);
            }
        }
    }
}

/// `R` rows from the first on over the decoded columns.
///
/// # Safety
/// As [`Few`] says; the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of<const R: usize>(few: &Few, at: (usize, usize, usize), weights: &Weights) {
    let (row, column, first_k) = at;
    let run = K_BLOCK.min(few.k - first_k);
    // SAFETY: packed rows hold the run, weights whole vectors.
    unsafe {
        let x = few.x.add(row * few.x_stride + first_k).cast::<f32>();
        let mut halves = [[[_mm256_setzero_ps(); COLUMNS]; R]; HALVES];
        for (half, sums) in halves.iter_mut().enumerate() {
            *sums = half_sums(x, few.x_stride, weights, half * LANES, run);
        }
        let [low, high] = halves;
        for (r, (low, high)) in low.iter().zip(&high).enumerate() {
            let sums: [__m256; COLUMNS] = std::array::from_fn(|c| _mm256_add_ps(low[c], high[c]));
            finish(few, first_k == 0, row + r, column, three_sums(sums));
        }
    }
}

/// The sums of the lanes from `lane` on: elements `lane` to `lane + 8` of every sixteen.
///
/// # Safety
/// `R` rows of x hold `run` values, `stride` apart; the processor has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn half_sums<const R: usize>(
    x: *const f32,
    stride: usize,
    weights: &Weights,
    lane: usize,
    run: usize,
) -> [[__m256; COLUMNS]; R] {
    let mut sums = [[_mm256_setzero_ps(); COLUMNS]; R];
    let mut k = lane;
    // SAFETY: the caller's promise; the mask keeps to the run.
    unsafe {
        while k + LANES <= run {
            multiply(&mut sums, weights, k, |row| {
                _mm256_loadu_ps(x.add(row * stride + k))
            });
            k += scalar::LANES;
        }
        if k < run {
            let mask = lane_mask(run - k);
            multiply(&mut sums, weights, k, |row| {
                _mm256_maskload_ps(x.add(row * stride + k), mask)
            });
        }
    }
    sums
}

/// Adds the products of eight values of each row of x, which `x` loads, and of each column from `k` on.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const R: usize>(
    sums: &mut [[__m256; COLUMNS]; R],
    weights: &Weights,
    k: usize,
    x: impl Fn(usize) -> __m256,
) {
    // SAFETY: whole vectors of a block.
    unsafe {
        let w: [__m256; COLUMNS] =
            std::array::from_fn(|c| _mm256_loadu_ps(weights.rows[c].as_ptr().add(k)));
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = x(row);
            for (sum, w) in sums.iter_mut().zip(&w) {
                *sum = _mm256_fmadd_ps(x, *w, *sum);
            }
        }
    }
}

/// Adds the lanes of three vectors as [`scalar::tree`] does from its second step on.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn three_sums(sums: [__m256; COLUMNS]) -> __m128 {
    // Lanes l and l + 4.
    let [a, b, c] =
        sums.map(|sum| _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum)));
    // Lanes l and l + 2, of two vectors at a time.
    let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
    let c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    let even = _mm_shuffle_ps::<0b00_00_10_00>(ab, c);
    let odd = _mm_shuffle_ps::<0b01_01_11_01>(ab, c);
    _mm_add_ps(even, odd)
}

/// Adds the sums of one row and the columns from `column` on to y.
///
/// # Safety
/// As [`Few`] says; the processor has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn finish(few: &Few, first: bool, row: usize, column: usize, sums: __m128) {
    // SAFETY: the caller's promise; the mask keeps to the columns.
    unsafe {
        let mask = _mm256_castsi256_si128(lane_mask(COLUMNS.min(few.n - column)));
        let y = few.y.wrapping_add(row * few.stride + column);
        let mut start = _mm_setzero_ps();
        if few.add || !first {
            start = _mm_maskload_ps(y, mask);
        }
        if first && !few.bias.is_null() {
            let bias = _mm_maskload_ps(few.bias.wrapping_add(column), mask);
            start = _mm_add_ps(start, bias);
        }
        let total = _mm_fmadd_ps(sums, _mm_set1_ps(few.scale), start);
        _mm_maskstore_ps(y, mask, total);
    }
}

/// [`scalar::few`] with wide vectors: bf16 is emulated.
///
/// # Safety
/// As [`Few`] says; the processor has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn wide<D: Decode>(few: &Few) {
    // SAFETY: the caller's promise.
    unsafe { scalar::few::<true, D>(few) }
}
