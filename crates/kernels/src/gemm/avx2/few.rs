//! Few rows: some stored rows are decoded once for all rows of x; vectors run along k, for four columns of y and up
//! to three rows at a time. bf16 is emulated in f32 (`WIDE`).

use super::pack::{Source, depth, lane_mask};
use super::row::{COLUMNS, HALVES, finish, one_row};
use super::{LANES, load};
use crate::gemm::kernel::Few;
use crate::gemm::scalar;
use crate::gemm::{FEW_ROWS, K_BLOCK};
use crate::vector::bf16::round_eight;
use std::arch::x86_64::*;

/// Rows of the largest tile: 12 sums, three vectors of activations, one of weights.
const ROWS: usize = 3;
/// Columns whose weights are decoded at a time, and how much of a block of k: with the rows of a tile they fit the
/// first cache.
const DECODED: usize = 8;
const CHUNK: usize = 512;

/// A half of the sums of `R` rows.
type Tile<const R: usize> = [[__m256; COLUMNS]; R];

/// Vectors of a half of the lanes: where bf16 is emulated a lane takes two k on end, the odd one first.
const fn vectors(wide: bool) -> usize {
    if wide { 2 } else { 1 }
}

/// A chunk of some stored rows, and what the chunks before it sum up to.
struct Block {
    /// Where bf16 is emulated, of sixteen k the eight odd ones are in front, in the order of [`firsts`].
    weights: [[f32; CHUNK]; DECODED],
    /// `[row][half][column]`
    sums: [[[__m256; DECODED]; HALVES]; FEW_ROWS],
}

/// # Safety
/// As [`Few`] says; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn few<const WIDE: bool, S: Source>(few: &Few) {
    if few.rows == 1 && !WIDE {
        // SAFETY: the caller's promise.
        return unsafe { one_row::<S>(few) };
    }
    let mut block = Block {
        weights: [[0.0; CHUNK]; DECODED],
        sums: [[[_mm256_setzero_ps(); DECODED]; HALVES]; FEW_ROWS],
    };
    for column in (0..few.n).step_by(DECODED) {
        let columns = DECODED.min(few.n - column);
        for first in (0..few.k).step_by(K_BLOCK) {
            let end = few.k.min(first + K_BLOCK);
            for k in (first..end).step_by(CHUNK) {
                let run = CHUNK.min(end - k);
                // SAFETY: the caller's promise.
                unsafe {
                    let from = few.bytes.add(column * few.row_bytes + k * S::SIZE);
                    decode::<WIDE, S>(from, few.row_bytes, run, &mut block.weights[..columns]);
                    let run = depth::<WIDE>(run);
                    multiply::<WIDE>(few, &mut block, (k, run), columns, k == first);
                }
            }
            for row in 0..few.rows {
                for c in (0..columns).step_by(COLUMNS) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let sums = sums_of::<WIDE>(&block.sums[row], c);
                        finish(few, first == 0, row, column + c, sums);
                    }
                }
            }
        }
    }
}

/// The first of each two of sixteen values, of pairs 0 1 4 5 2 3 6 7. In packed x it is that of the odd k, in stored
/// rows that of the even one.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn firsts(low: __m256, high: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_shuffle_ps::<0b10_00_10_00>(low, high) }
}

/// The second ones, as [`firsts`].
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn seconds(low: __m256, high: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_shuffle_ps::<0b11_01_11_01>(low, high) }
}

/// The halves of four columns' sums, lanes in order.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn sums_of<const WIDE: bool>(
    row: &[[__m256; DECODED]; HALVES],
    first: usize,
) -> [[__m256; COLUMNS]; HALVES] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); COLUMNS]; HALVES];
        for (sums, row) in sums.iter_mut().zip(row) {
            sums.copy_from_slice(&row[first..first + COLUMNS]);
            if WIDE {
                for sum in sums {
                    // Two lanes on end stayed so, see `firsts`.
                    let twos = _mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(*sum));
                    *sum = _mm256_castpd_ps(twos);
                }
            }
        }
        sums
    }
}

/// Decodes `run` elements of rows, with zeros behind them, and asks for the lines of the rows that come after these.
///
/// # Safety
/// They are readable; the processor has AVX2 and F16C.
#[inline(always)]
unsafe fn decode<const WIDE: bool, S: Source>(
    from: *const u8,
    row_bytes: usize,
    run: usize,
    rows: &mut [[f32; CHUNK]],
) {
    for (row, out) in rows.iter_mut().enumerate() {
        for k in (0..run).step_by(vectors(WIDE) * LANES) {
            let at = from.wrapping_add(row * row_bytes + k * S::SIZE);
            // SAFETY: inside the matrix, and inside a chunk; a prefetch may ask for any address.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(DECODED * row_bytes).cast());
                let out = out.as_mut_ptr().add(k);
                let low = S::up_to(at, run - k);
                if WIDE {
                    let at = at.wrapping_add(LANES * S::SIZE);
                    let high = S::up_to(at, run.saturating_sub(k + LANES));
                    let (low, high) = (round_eight(low), round_eight(high));
                    _mm256_storeu_ps(out, seconds(low, high));
                    _mm256_storeu_ps(out.add(LANES), firsts(low, high));
                } else {
                    _mm256_storeu_ps(out, low);
                }
            }
        }
    }
}

/// Adds a chunk's products to the sums of all rows, or begins them.
///
/// # Safety
/// As [`few`].
#[inline(always)]
unsafe fn multiply<const WIDE: bool>(
    few: &Few,
    block: &mut Block,
    (k, run): (usize, usize),
    columns: usize,
    begin: bool,
) {
    // Tiles of nearly equal size: 4 rows as 2 + 2.
    let tiles = few.rows.div_ceil(ROWS);
    let mut row = 0;
    for tile in 0..tiles {
        let rows = (few.rows - row).div_ceil(tiles - tile);
        for c in (0..columns).step_by(COLUMNS) {
            for half in 0..HALVES {
                let x = few.x.wrapping_add(row * few.x_stride + k).cast();
                let at = (row, half, c);
                // SAFETY: the caller's promise.
                unsafe {
                    match rows {
                        1 => tile_of::<WIDE, 1>(x, few.x_stride, run, block, at, begin),
                        2 => tile_of::<WIDE, 2>(x, few.x_stride, run, block, at, begin),
                        _ => tile_of::<WIDE, 3>(x, few.x_stride, run, block, at, begin),
                    }
                }
            }
        }
        row += rows;
    }
}

/// One half of the sums of `R` rows and four columns: of every sixteen k (or pairs of k) the first or the last eight.
///
/// # Safety
/// `R` rows of x hold `run` dwords, `stride` apart; the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of<const WIDE: bool, const R: usize>(
    x: *const f32,
    stride: usize,
    run: usize,
    block: &mut Block,
    (row, half, c): (usize, usize, usize),
    begin: bool,
) {
    let mut sums = [[_mm256_setzero_ps(); COLUMNS]; R];
    if !begin {
        for (r, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&block.sums[row + r][half][c..c + COLUMNS]);
        }
    }
    let weights = &block.weights[c..c + COLUMNS];
    let mut k = half * vectors(WIDE) * LANES;
    // SAFETY: the caller's promise; the masks keep to the run.
    unsafe {
        let masks = [_mm256_setzero_si256(); 2];
        while k + vectors(WIDE) * LANES <= run {
            step::<WIDE, false, R>(&mut sums, x.add(k), stride, masks, weights, k);
            k += vectors(WIDE) * scalar::LANES;
        }
        if k < run {
            let masks = [lane_mask(run - k), lane_mask(run.saturating_sub(k + LANES))];
            step::<WIDE, true, R>(&mut sums, x.add(k), stride, masks, weights, k);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        block.sums[row + r][half][c..c + COLUMNS].copy_from_slice(sums);
    }
}

/// Adds the products of what a half has of x from `x` on and of the weights from `k` on, of a `MASKED` one those of the
/// masks.
///
/// # Safety
/// Both hold it; the processor has AVX2 and FMA.
#[inline(always)]
unsafe fn step<const WIDE: bool, const MASKED: bool, const R: usize>(
    sums: &mut Tile<R>,
    x: *const f32,
    stride: usize,
    masks: [__m256i; 2],
    weights: &[[f32; CHUNK]],
    k: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for v in 0..vectors(WIDE) {
            let mut rows = [_mm256_setzero_ps(); R];
            for (row, value) in rows.iter_mut().enumerate() {
                let x = x.wrapping_add(row * stride);
                *value = load::<MASKED>(x, masks[0]);
                if WIDE {
                    let high = load::<MASKED>(x.wrapping_add(LANES), masks[1]);
                    *value = if v == 0 {
                        firsts(*value, high)
                    } else {
                        seconds(*value, high)
                    };
                }
            }
            for (c, weights) in weights.iter().enumerate() {
                let w = _mm256_loadu_ps(weights.as_ptr().add(k + v * LANES));
                for (sums, x) in sums.iter_mut().zip(&rows) {
                    sums[c] = _mm256_fmadd_ps(*x, w, sums[c]);
                }
            }
        }
    }
}
