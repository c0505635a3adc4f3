//! Decoding and packing with AVX2: eight by eight elements, transposed in registers.
//!
//! The small helpers are `inline(always)` and carry no features of their own, so that they take
//! on those of the packing function that they end up in.

use super::LANES;
use crate::gemm::kernel::{PackW, PackX, Packing};
use crate::vector::bf16::round_eight;
use crate::vector::transpose::eight_rows;
use std::arch::x86_64::*;

/// Elements of a file, eight at a time.
pub(super) trait Source {
    /// Bytes of an element.
    const SIZE: usize;
    /// Whether an element is the upper half of its f32.
    const UPPER_HALF: bool = false;
    /// The values of eight elements.
    ///
    /// # Safety
    /// They are readable, and the processor has AVX2 and F16C.
    unsafe fn values(at: *const u8) -> __m256;
    /// The values of the first `count` elements, at most eight, and zeros behind them; no others are read.
    ///
    /// # Safety
    /// They are readable, and the processor has AVX2 and F16C.
    #[inline(always)]
    unsafe fn up_to(at: *const u8, count: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            if count >= LANES {
                return Self::values(at);
            }
            let mut bytes = [0u8; LANES * size_of::<f32>()];
            std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), count * Self::SIZE);
            Self::values(bytes.as_ptr())
        }
    }
}

pub(super) struct F32Source;
pub(super) struct F16Source;
pub(super) struct Bf16Source;

impl Source for F32Source {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn values(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
}

impl Source for F16Source {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn values(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}

impl Source for Bf16Source {
    const SIZE: usize = 2;
    const UPPER_HALF: bool = true;
    #[inline(always)]
    unsafe fn values(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }
}

/// A mask of the first `count` of eight.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn lane_mask(count: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let count = _mm256_set1_epi32(count.min(LANES) as i32);
        _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
    }
}

/// Eight values along k as they are packed: as they are, or rounded with the k of each pair swapped.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn along_k<const WIDE: bool>(values: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        if WIDE {
            _mm256_permute_ps::<0b10_11_00_01>(round_eight(values))
        } else {
            values
        }
    }
}

/// Packed values of a run of `k`.
pub(super) fn depth<const WIDE: bool>(k: usize) -> usize {
    let packing = if WIDE { Packing::Wide } else { Packing::F32 };
    packing.depth(k)
}

/// # Safety
/// As [`PackX`] says, for at most eight rows; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn x<const WIDE: bool>(pack: &PackX) {
    debug_assert!(pack.rows <= LANES);
    let row_bytes = pack.stride * F32Source::SIZE;
    // SAFETY: inside the rectangle; the output holds `depth × rows`.
    unsafe {
        if pack.rows == 1 {
            return one_row::<WIDE>(pack);
        }
        let mut left = depth::<WIDE>(pack.k) * pack.rows;
        let mut out = pack.out.cast::<f32>();
        for k in (0..pack.k).step_by(LANES) {
            let inside = LANES.min(pack.k - k);
            let at = pack.x.wrapping_add(k).cast();
            let columns = columns::<WIDE, F32Source>(at, row_bytes, pack.rows, inside);
            for column in &columns[..depth::<WIDE>(inside)] {
                // What lies behind the rows is the next column's, which comes after.
                if left >= LANES {
                    _mm256_storeu_ps(out, *column);
                } else {
                    _mm256_maskstore_ps(out, lane_mask(pack.rows), *column);
                }
                out = out.wrapping_add(pack.rows);
                left -= pack.rows;
            }
        }
    }
}

/// # Safety
/// As [`x`], for one row.
#[inline(always)]
unsafe fn one_row<const WIDE: bool>(pack: &PackX) {
    let out = pack.out.cast::<f32>();
    for k in (0..pack.k).step_by(LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let left = pack.k - k;
            let values = along_k::<WIDE>(F32Source::up_to(pack.x.add(k).cast(), left));
            if left >= LANES {
                _mm256_storeu_ps(out.add(k), values);
            } else {
                let mask = lane_mask(depth::<WIDE>(left));
                _mm256_maskstore_ps(out.add(k), mask, values);
            }
        }
    }
}

/// Eight elements, of which `inside` exist, of eight rows, of which `rows` exist, as vectors over the rows.
///
/// # Safety
/// What exists is readable; the processor has AVX2 and F16C.
#[inline(always)]
unsafe fn columns<const WIDE: bool, S: Source>(
    at: *const u8,
    row_bytes: usize,
    rows: usize,
    inside: usize,
) -> [__m256; LANES] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut loaded = [_mm256_setzero_ps(); LANES];
        for (row, loaded) in loaded.iter_mut().enumerate() {
            if row < rows {
                let at = at.wrapping_add(row * row_bytes);
                *loaded = along_k::<WIDE>(S::up_to(at, inside));
            }
        }
        eight_rows(loaded)
    }
}

/// Sixteen bf16 of eight rows as vectors over the rows: they are transposed in pairs, which are then taken apart.
///
/// # Safety
/// They are readable; the processor has AVX2.
#[inline(always)]
unsafe fn columns_of_pairs<const WIDE: bool>(
    at: *const u8,
    row_bytes: usize,
) -> [__m256; 2 * LANES] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut loaded = [_mm256_setzero_ps(); LANES];
        for (row, loaded) in loaded.iter_mut().enumerate() {
            let at = at.wrapping_add(row * row_bytes);
            *loaded = _mm256_loadu_ps(at.cast());
        }
        let mut columns = [_mm256_setzero_ps(); 2 * LANES];
        for (pair, columns) in eight_rows(loaded).iter().zip(columns.chunks_exact_mut(2)) {
            let pair = _mm256_castps_si256(*pair);
            let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let first = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
            let second = _mm256_castsi256_ps(_mm256_and_si256(pair, high));
            if WIDE {
                columns[0] = round_eight(second);
                columns[1] = round_eight(first);
            } else {
                (columns[0], columns[1]) = (first, second);
            }
        }
        columns
    }
}

/// Writes vectors, `stride` from one to the next.
///
/// # Safety
/// Eight f32 are writable at each place; the processor has AVX2.
#[inline(always)]
unsafe fn store(columns: &[__m256], out: *mut f32, stride: usize) {
    for (slot, column) in columns.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(out.add(slot * stride), *column) };
    }
}

/// # Safety
/// As [`PackW`] says, for rows along k; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn nt<const WIDE: bool, S: Source>(pack: &PackW) {
    for group in (0..pack.width).step_by(LANES) {
        let rows = pack.n.saturating_sub(group).min(LANES);
        let row = pack.bytes.wrapping_add(group * pack.row_bytes);
        let in_pairs = if S::UPPER_HALF && rows == LANES {
            pack.k - pack.k % (2 * LANES)
        } else {
            0
        };
        // SAFETY: inside the panel; the output holds `depth × width`.
        unsafe {
            let out = pack.out.add(group).cast::<f32>();
            for k in (0..in_pairs).step_by(2 * LANES) {
                let at = row.wrapping_add(k * S::SIZE);
                let columns = columns_of_pairs::<WIDE>(at, pack.row_bytes);
                store(&columns, out.add(k * pack.stride), pack.stride);
            }
            for k in (in_pairs..pack.k).step_by(LANES) {
                let inside = LANES.min(pack.k - k);
                let at = row.wrapping_add(k * S::SIZE);
                let columns = columns::<WIDE, S>(at, pack.row_bytes, rows, inside);
                let columns = &columns[..depth::<WIDE>(inside)];
                store(columns, out.add(k * pack.stride), pack.stride);
            }
        }
    }
}

/// # Safety
/// As [`PackW`] says, for rows along n; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn nn<const WIDE: bool, S: Source>(pack: &PackW) {
    for k in 0..depth::<WIDE>(pack.k) {
        let slot = if WIDE { k ^ 1 } else { k };
        let row = pack.bytes.wrapping_add(k * pack.row_bytes);
        let columns = if k < pack.k { pack.n } else { 0 };
        let whole = columns - columns % LANES;
        // SAFETY: inside the panel; the output holds `depth × width`.
        unsafe {
            let out = pack.out.add(slot * pack.stride).cast::<f32>();
            for group in (0..whole).step_by(LANES) {
                let values = S::values(row.wrapping_add(group * S::SIZE));
                _mm256_storeu_ps(out.add(group), along_n::<WIDE>(values));
            }
            for group in (whole..pack.width).step_by(LANES) {
                let at = row.wrapping_add(group * S::SIZE);
                let values = S::up_to(at, columns.saturating_sub(group));
                _mm256_storeu_ps(out.add(group), along_n::<WIDE>(values));
            }
        }
    }
}

/// Eight values of a row along n as they are packed.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn along_n<const WIDE: bool>(values: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { if WIDE { round_eight(values) } else { values } }
}
