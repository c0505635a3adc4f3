//! Few rows: some stored rows are decoded once for all rows of x; vectors run along k, for four columns of y and up
//! to three rows at a time.

use super::LANES;
use super::pack::{Source, lane_mask};
use crate::gemm::kernel::Few;
use crate::gemm::scalar::{self, Decode};
use crate::gemm::{FEW_ROWS, K_BLOCK};
use std::arch::x86_64::*;

/// Rows and columns of the largest tile: 12 sums, three vectors of activations, one of weights.
const ROWS: usize = 3;
const COLUMNS: usize = 4;
/// Columns whose weights are decoded at a time, and how much of a block of k: with the rows of a tile they fit the
/// first cache.
const DECODED: usize = 8;
const CHUNK: usize = 512;
/// Halves of the sixteen sums of an element: a tile has registers for one at a time.
const HALVES: usize = scalar::LANES / LANES;

/// Sums of a tile.
type Sums<const R: usize> = [[__m256; COLUMNS]; R];

/// A chunk of some stored rows, and what the chunks before it sum up to.
struct Block {
    weights: [[f32; CHUNK]; DECODED],
    /// `[row][half][column]`
    sums: [[[__m256; DECODED]; HALVES]; FEW_ROWS],
}

/// # Safety
/// As [`Few`] says; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn float<S: Source>(few: &Few) {
    if few.rows == 1 {
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
                    decode::<S>(from, few.row_bytes, run, &mut block.weights[..columns]);
                    multiply(few, &mut block, (k, run), columns, k == first);
                }
            }
            for row in 0..few.rows {
                for c in (0..columns).step_by(COLUMNS) {
                    let sums = block.sums[row].map(|half| half[c..c + COLUMNS].try_into().unwrap());
                    // SAFETY: the caller's promise.
                    unsafe { finish(few, first == 0, row, column + c, four_sums(sums)) };
                }
            }
        }
    }
}

/// One row: weights meet it as they are decoded, so that memory is read all the time.
///
/// # Safety
/// As [`float`], for one row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn one_row<S: Source>(few: &Few) {
    for column in (0..few.n).step_by(COLUMNS) {
        for first in (0..few.k).step_by(K_BLOCK) {
            let run = K_BLOCK.min(few.k - first);
            let mut rows = [few.bytes; COLUMNS];
            for (c, row) in rows.iter_mut().enumerate() {
                // Columns past the last are the last again.
                let column = few.n.min(column + c + 1) - 1;
                *row = row.wrapping_add(column * few.row_bytes + first * S::SIZE);
            }
            let mut sums = [[_mm256_setzero_ps(); COLUMNS]; HALVES];
            // SAFETY: the run is inside the rows and x.
            unsafe {
                let x = few.x.add(first).cast::<f32>();
                let whole = run - run % scalar::LANES;
                for k in (0..whole).step_by(scalar::LANES) {
                    for row in rows {
                        let ahead = row.wrapping_add(k * S::SIZE + COLUMNS * few.row_bytes);
                        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    }
                    for (half, sums) in sums.iter_mut().enumerate() {
                        let k = k + half * LANES;
                        let x = _mm256_loadu_ps(x.add(k));
                        for (sum, row) in sums.iter_mut().zip(rows) {
                            let w = S::values(row.add(k * S::SIZE));
                            *sum = _mm256_fmadd_ps(x, w, *sum);
                        }
                    }
                }
                for (k, sums) in (whole..run).step_by(LANES).zip(&mut sums) {
                    let x = _mm256_maskload_ps(x.add(k), lane_mask(run - k));
                    for (sum, row) in sums.iter_mut().zip(rows) {
                        let w = S::some(row.add(k * S::SIZE), run - k);
                        *sum = _mm256_fmadd_ps(x, w, *sum);
                    }
                }
                finish(few, first == 0, 0, column, four_sums(sums));
            }
        }
    }
}

/// Decodes `run` elements of rows, and asks for the lines of the rows that come after these.
///
/// # Safety
/// They are readable; the processor has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode<S: Source>(
    from: *const u8,
    row_bytes: usize,
    run: usize,
    rows: &mut [[f32; CHUNK]],
) {
    for (row, out) in rows.iter_mut().enumerate() {
        for k in (0..run).step_by(LANES) {
            // SAFETY: inside the matrix, and inside a chunk; a prefetch may ask for any address.
            unsafe {
                let at = from.add(row * row_bytes + k * S::SIZE);
                _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(DECODED * row_bytes).cast());
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

/// Adds a chunk's products to the sums of all rows, or begins them.
///
/// # Safety
/// As [`Few`] says; the processor has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply(
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
                        1 => tile_of::<1>(x, few.x_stride, run, block, at, begin),
                        2 => tile_of::<2>(x, few.x_stride, run, block, at, begin),
                        _ => tile_of::<3>(x, few.x_stride, run, block, at, begin),
                    }
                }
            }
        }
        row += rows;
    }
}

/// One half of the sums of `R` rows and four columns: of every sixteen k the first or the last eight.
///
/// # Safety
/// `R` rows of x hold `run` values, `stride` apart; the processor has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of<const R: usize>(
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
    let mut k = half * LANES;
    // SAFETY: the caller's promise; the mask keeps to the run.
    unsafe {
        while k + LANES <= run {
            let x = |row: usize| _mm256_loadu_ps(x.add(row * stride + k));
            add_products(&mut sums, x, weights, k);
            k += scalar::LANES;
        }
        if k < run {
            let mask = lane_mask(run - k);
            let x = |row: usize| _mm256_maskload_ps(x.add(row * stride + k), mask);
            add_products(&mut sums, x, weights, k);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        block.sums[row + r][half][c..c + COLUMNS].copy_from_slice(sums);
    }
}

/// Adds the products of a vector of each row, which `x` loads, and of four columns from `k` on.
///
/// # Safety
/// The weights hold a vector from `k` on; the processor has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products<const R: usize>(
    sums: &mut Sums<R>,
    x: impl Fn(usize) -> __m256,
    weights: &[[f32; CHUNK]],
    k: usize,
) {
    let mut rows = [_mm256_setzero_ps(); R];
    for (row, x_of) in rows.iter_mut().enumerate() {
        *x_of = x(row);
    }
    for (c, weights) in weights.iter().enumerate() {
        // SAFETY: the caller's promise.
        let w = unsafe { _mm256_loadu_ps(weights.as_ptr().add(k)) };
        for (sums, x) in sums.iter_mut().zip(&rows) {
            sums[c] = _mm256_fmadd_ps(*x, w, sums[c]);
        }
    }
}

/// Adds the sixteen sums of each of four columns as [`scalar::tree`] does.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn four_sums([low, high]: [[__m256; COLUMNS]; HALVES]) -> __m128 {
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

/// Adds the sums of one row and the columns from `column` on to y.
///
/// # Safety
/// As [`Few`] says; the processor has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn finish(few: &Few, first: bool, row: usize, column: usize, sums: __m128) {
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
