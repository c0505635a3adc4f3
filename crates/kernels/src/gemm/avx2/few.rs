//! Few rows: some stored rows are decoded once for all rows of x; vectors run along k, for four columns of y and up
//! to three rows at a time. bf16 is emulated in f32 (`WIDE`).

use super::LANES;
use super::pack::{Source, depth, lane_mask, round_to_bf16};
use crate::gemm::kernel::Few;
use crate::gemm::scalar;
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

/// Vectors of a half of the lanes: where bf16 is emulated a lane takes two k on end, the odd one first.
const fn vectors(wide: bool) -> usize {
    if wide { 2 } else { 1 }
}

/// A chunk of some stored rows, and what the chunks before it sum up to.
struct Block {
    /// Where bf16 is emulated, of sixteen k the eight odd ones are in front, in the order of [`deinterleaved`].
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
                    let sums = sums_of::<WIDE>(&block.sums[row], c);
                    // SAFETY: the caller's promise.
                    unsafe { finish(few, first == 0, row, column + c, four_sums(sums)) };
                }
            }
        }
    }
}

/// The halves of four columns' sums, lanes in order.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sums_of<const WIDE: bool>(
    row: &[[__m256; DECODED]; HALVES],
    first: usize,
) -> [[__m256; COLUMNS]; HALVES] {
    let mut sums = [[_mm256_setzero_ps(); COLUMNS]; HALVES];
    for (sums, row) in sums.iter_mut().zip(row) {
        sums.copy_from_slice(&row[first..first + COLUMNS]);
        for sum in sums.iter_mut().filter(|_| WIDE) {
            // As `deinterleaved` left them: lanes 0 1 4 5 2 3 6 7.
            let pairs = _mm256_castps_pd(*sum);
            *sum = _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(pairs));
        }
    }
    sums
}

/// Elements `index` of the pairs of sixteen: those of pairs 0 1 4 5 2 3 6 7.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn deinterleaved(first: __m256, second: __m256, index: usize) -> __m256 {
    if index == 0 {
        _mm256_shuffle_ps::<0b10_00_10_00>(first, second)
    } else {
        _mm256_shuffle_ps::<0b11_01_11_01>(first, second)
    }
}

/// One row: weights meet it as they are decoded, so that memory is read all the time.
///
/// # Safety
/// As [`few`], for one row.
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

/// Decodes `run` elements of rows, with zeros behind them, and asks for the lines of the rows that come after these.
///
/// # Safety
/// They are readable; the processor has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
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
                let mut values = [_mm256_setzero_ps(); vectors(true)];
                for (v, values) in values[..vectors(WIDE)].iter_mut().enumerate() {
                    let at = at.wrapping_add(v * LANES * S::SIZE);
                    *values = if k + (v + 1) * LANES <= run {
                        S::values(at)
                    } else {
                        S::some(at, run.saturating_sub(k + v * LANES))
                    };
                }
                let [first, second] = values;
                let out = out.as_mut_ptr().add(k);
                if WIDE {
                    let (first, second) = (round_to_bf16(first), round_to_bf16(second));
                    _mm256_storeu_ps(out, deinterleaved(first, second, 1));
                    _mm256_storeu_ps(out.add(LANES), deinterleaved(first, second, 0));
                } else {
                    _mm256_storeu_ps(out, first);
                }
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
#[inline]
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
        while k + vectors(WIDE) * LANES <= run {
            for v in 0..vectors(WIDE) {
                let x = |row: usize| {
                    let at = x.add(row * stride + k);
                    if !WIDE {
                        return _mm256_loadu_ps(at);
                    }
                    deinterleaved(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(LANES)), v)
                };
                add_products(&mut sums, x, weights, k + v * LANES);
            }
            k += vectors(WIDE) * scalar::LANES;
        }
        if k < run {
            let masks = [run - k, run.saturating_sub(k + LANES)].map(lane_mask);
            for v in 0..vectors(WIDE) {
                let x = |row: usize| {
                    let at = x.add(row * stride + k);
                    let first = _mm256_maskload_ps(at, masks[0]);
                    if !WIDE {
                        return first;
                    }
                    let second = _mm256_maskload_ps(at.wrapping_add(LANES), masks[1]);
                    deinterleaved(first, second, v)
                };
                add_products(&mut sums, x, weights, k + v * LANES);
            }
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
