//! Few rows over stored rows along n: sums run down the matrix, over rows that lie a page apart.
//! Stored rows are paired in registers, where every row of x meets them; nothing is packed, and what
//! is read is a line of memory of each of sixteen rows, which the lines of the next sixteen follow.

use super::pack::{Source, first32};
use super::{LANES, add_to};
use crate::gemm::K_BLOCK;
use crate::gemm::few::{DEPTH_ACROSS as PAIRS, ROWS_ACROSS};
use crate::gemm::kernel::Few;
use std::arch::x86_64::*;
use std::ops::Range;

/// Columns of y at a time: a line of memory of a stored row in bf16, two vectors of sums.
const COLUMNS: usize = 2 * LANES;
/// Sums that are kept between runs of pairs: half of the first cache.
const SUMS: usize = 4096;
const _: () = assert!(ROWS_ACROSS * COLUMNS <= SUMS, "a line's sums of all rows");

/// `[line of columns][row][two vectors]`. The first vector has columns 0 to 3 of each eight, the
/// second 4 to 7: what `vpunpcklwd` and `vpunpckhwd` make of two rows.
#[repr(align(64))]
struct Sums([f32; SUMS]);

/// # Safety
/// As [`Few`] says, for at most [`ROWS_ACROSS`] rows; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn pairs<S: Source>(few: &Few) {
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
                for (line, column) in columns.step_by(COLUMNS).enumerate() {
                    finish(
                        few,
                        column,
                        first_k == 0,
                        &sums.0[line * few.rows * COLUMNS..],
                    );
                }
            }
        }
    }
}

/// Sums of a block of k over the columns of a strip.
///
/// # Safety
/// As [`pairs`], whose features the processor has; the block and the columns exist.
#[inline(always)]
unsafe fn add_block<S: Source>(
    few: &Few,
    block: Range<usize>,
    columns: Range<usize>,
    sums: &mut Sums,
) {
    sums.0[..columns.len().next_multiple_of(COLUMNS) * few.rows].fill(0.0);
    let mut k = block.start;
    while k < block.end {
        let whole = k + 2 * PAIRS <= block.end;
        let run = few.x.wrapping_add(k / (2 * PAIRS) * few.x_stride);
        for (line, column) in columns.clone().step_by(COLUMNS).enumerate() {
            let meeting = Meeting {
                weights: few.bytes.wrapping_add(k * few.row_bytes + column * S::SIZE),
                row_bytes: few.row_bytes,
                x: run.wrapping_add(k / 2 % PAIRS),
                rows: few.rows,
                sums: sums.0[line * few.rows * COLUMNS..].as_mut_ptr(),
            };
            let mask = first32(columns.end - column);
            // SAFETY: these rows of the matrix and of x exist, columns where the mask is.
            unsafe {
                match (whole, mask) {
                    // Loads without a mask: one that misses lets fewer others run beside it.
                    (true, u32::MAX) => meeting.add::<S, PAIRS>(u32::MAX, true),
                    (true, _) => meeting.add::<S, PAIRS>(mask, true),
                    (false, _) => meeting.add::<S, 1>(mask, k + 1 < block.end),
                }
            }
        }
        k += if whole { 2 * PAIRS } else { 2 };
    }
}

/// A line of some stored rows, and all rows of x.
struct Meeting {
    weights: *const u8,
    row_bytes: usize,
    /// Rows are [`PAIRS`] apart.
    x: *const u32,
    rows: usize,
    /// Rows are [`COLUMNS`] apart.
    sums: *mut f32,
}

impl Meeting {
    /// Adds the products with `P` pairs of stored rows, upwards; the last of them is single unless
    /// `odd`.
    ///
    /// # Safety
    /// The stored rows exist where `mask` is, so do x and the sums; the processor has the features
    /// of [`pairs`].
    #[inline(always)]
    unsafe fn add<S: Source, const P: usize>(&self, mask: u32, odd: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut weights = [[_mm512_setzero_si512(); 2]; P];
            for (pair, weights) in weights.iter_mut().enumerate() {
                let even_row = self.weights.wrapping_add(2 * pair * self.row_bytes);
                let odd_row = even_row.wrapping_add(self.row_bytes);
                let ahead = 2 * P * self.row_bytes;
                _mm_prefetch::<_MM_HINT_T1>(even_row.wrapping_add(ahead).cast());
                _mm_prefetch::<_MM_HINT_T1>(odd_row.wrapping_add(ahead).cast());
                let even = S::pairs(even_row, mask);
                let odd = S::pairs(odd_row, if odd { mask } else { 0 });
                *weights = [
                    _mm512_unpacklo_epi16(even, odd),
                    _mm512_unpackhi_epi16(even, odd),
                ];
            }
            for row in 0..self.rows {
                let at = self.sums.add(row * COLUMNS);
                let mut sums = [_mm512_load_ps(at), _mm512_load_ps(at.add(LANES))];
                for (pair, weights) in weights.iter().enumerate() {
                    let x = *self.x.add(row * PAIRS + pair);
                    let x = _mm512_set1_epi32(x.cast_signed());
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbf16_ps(
                            *sum,
                            std::mem::transmute::<__m512i, __m512bh>(x),
                            std::mem::transmute::<__m512i, __m512bh>(*weights),
                        );
                    }
                }
                _mm512_store_ps(at, sums[0]);
                _mm512_store_ps(at.add(LANES), sums[1]);
            }
        }
    }
}

/// Where columns 0 to 15 and 16 to 31 lie in the two vectors of [`Sums`].
const PLACES: [[u32; LANES]; 2] = {
    let mut places = [[0; LANES]; 2];
    let mut column = 0;
    while column < COLUMNS {
        let vector = if column % 8 < 4 { 0 } else { LANES };
        places[column / LANES][column % LANES] = (vector + column / 8 * 4 + column % 4) as u32;
        column += 1;
    }
    places
};

/// Adds a line's sums of all rows to y, the bias with the first block.
///
/// # Safety
/// As [`pairs`], whose features the processor has; the first of the columns exists.
#[inline(always)]
unsafe fn finish(few: &Few, column: usize, first: bool, sums: &[f32]) {
    // SAFETY: the caller's promise; masks keep to the columns.
    unsafe {
        let scale = _mm512_set1_ps(few.scale);
        let mask = first32(few.n - column);
        for (row, sums) in sums.chunks_exact(COLUMNS).take(few.rows).enumerate() {
            let low = _mm512_load_ps(sums.as_ptr());
            let high = _mm512_load_ps(sums[LANES..].as_ptr());
            for (v, places) in PLACES.iter().enumerate() {
                let places = _mm512_loadu_si512(places.as_ptr().cast());
                let sum = _mm512_permutex2var_ps(low, places, high);
                let (mask, column) = ((mask >> (v * LANES)) as u16, column + v * LANES);
                let y = few.y.wrapping_add(row * few.stride + column);
                let mut bias = std::ptr::null();
                if first && !few.bias.is_null() {
                    bias = few.bias.wrapping_add(column);
                }
                add_to(y, mask, few.add || !first, bias, scale, sum);
            }
        }
    }
}
