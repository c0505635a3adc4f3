//! Decoding and packing with AVX-512.
//!
//! The small helpers are `inline(always)` and carry no features of their own, so that they take
//! on those of the packing function that they end up in.

use super::LANES;
use crate::gemm::kernel::{PackW, PackX};
use std::arch::x86_64::*;

/// Elements of a file, sixteen at a time.
pub(super) trait Source {
    /// Bytes of an element.
    const SIZE: usize;
    /// The values of 16 elements, zero where `mask` is; only elements in `mask` are read.
    ///
    /// # Safety
    /// They are readable, and the processor has AVX-512.
    unsafe fn values(at: *const u8, mask: u16) -> __m512;
    /// The bf16 of 32 elements.
    ///
    /// # Safety
    /// They are readable where `mask` is, and the processor has AVX-512 bf16.
    #[inline(always)]
    unsafe fn pairs(at: *const u8, mask: u32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let low = Self::values(at, mask as u16);
            let high = Self::values(at.wrapping_add(LANES * Self::SIZE), (mask >> 16) as u16);
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
        }
    }
}

pub(super) struct F32Source;
pub(super) struct F16Source;
pub(super) struct Bf16Source;

impl Source for F32Source {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn values(at: *const u8, mask: u16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, at.cast()) }
    }
}

impl Source for F16Source {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn values(at: *const u8, mask: u16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at.cast())) }
    }
}

impl Source for Bf16Source {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn values(at: *const u8, mask: u16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
    #[inline(always)]
    unsafe fn pairs(at: *const u8, mask: u32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_epi16(mask, at.cast()) }
    }
}

/// A mask of the first `count` of 16.
#[inline(always)]
fn first16(count: usize) -> u16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// A mask of the first `count` of 32.
#[inline(always)]
fn first32(count: usize) -> u32 {
    ((1u64 << count.min(32)) - 1) as u32
}

/// [`crate::gemm::scalar::to_bf16`] of 16 values.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn round_to_bf16(values: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(values);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_add_epi32(bits, half);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        let rounded = _mm512_mask_mov_epi32(rounded, nan, quiet);
        let kept = _mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000u32.cast_signed()));
        let small = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f80_0000));
        let sign = _mm512_and_si512(bits, _mm512_set1_epi32(i32::MIN));
        _mm512_castsi512_ps(_mm512_mask_mov_epi32(kept, small, sign))
    }
}

/// 16 packed dwords along k: as they are, or rounded with the k of each pair swapped.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn along_k<const WIDE: bool>(values: __m512) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        if WIDE {
            let rounded = _mm512_castps_si512(round_to_bf16(values));
            _mm512_shuffle_epi32::<0b10_11_00_01>(rounded)
        } else {
            _mm512_castps_si512(values)
        }
    }
}

/// Turns 16 rows of 16 dwords into 16 columns.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut twos = rows;
        for i in 0..8 {
            twos[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            twos[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // fours[4 i + c]: in each 128-bit lane l, column 4 l + c of rows 4 i .. 4 i + 4.
        let mut fours = twos;
        for i in 0..4 {
            let [a, b, c, d] = [
                twos[4 * i],
                twos[4 * i + 1],
                twos[4 * i + 2],
                twos[4 * i + 3],
            ];
            fours[4 * i] = _mm512_unpacklo_epi64(a, c);
            fours[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
            fours[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
            fours[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
        }
        let mut out = fours;
        for c in 0..4 {
            let [r0, r1, r2, r3] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
            let low01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(r0, r1);
            let high01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(r0, r1);
            let low23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(r2, r3);
            let high23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(r2, r3);
            out[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low01, low23);
            out[8 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low01, low23);
            out[4 + c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high01, high23);
            out[12 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high01, high23);
        }
        out
    }
}

macro_rules! pack_nt {
    ($name:ident, $features:literal, [$($wide:ident)?], $step:literal, $depth:expr, $load:expr) => {
        /// # Safety
        /// As [`PackW`] says, for rows along k.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<$(const $wide: bool,)? S: Source>(pack: &PackW) {
            let depth: usize = $depth(pack.k);
            for group in (0..pack.width).step_by(LANES) {
                let columns = LANES.min(pack.n.saturating_sub(group));
                for k in (0..pack.k).step_by($step) {
                    let slot = k * LANES / $step;
                    // SAFETY: inside the panel, by the masks; the output holds `depth × width`.
                    unsafe {
                        let mut rows = [_mm512_setzero_si512(); LANES];
                        for (column, row) in rows.iter_mut().enumerate() {
                            if column < columns {
                                let at = (group + column) * pack.row_bytes + k * S::SIZE;
                                *row = $load(pack.bytes.add(at), pack.k - k);
                            }
                        }
                        let out = pack.out.add(slot * pack.width + group);
                        let vectors = transpose(rows);
                        if depth - slot >= LANES {
                            for (p, vector) in vectors.iter().enumerate() {
                                _mm512_storeu_si512(out.add(p * pack.width).cast(), *vector);
                            }
                        } else {
                            for (p, vector) in vectors.iter().enumerate().take(depth - slot) {
                                _mm512_storeu_si512(out.add(p * pack.width).cast(), *vector);
                            }
                        }
                    }
                }
            }
        }
    };
}

pack_nt!(
    nt_pairs,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16",
    [],
    32,
    |k: usize| k.div_ceil(2),
    |at, left| S::pairs(at, first32(left))
);
pack_nt!(
    nt_f32,
    "avx512f,avx512bw,avx512dq,avx512vl",
    [WIDE],
    16,
    |k: usize| if WIDE { k.next_multiple_of(2) } else { k },
    |at, left| along_k::<WIDE>(S::values(at, first16(left)))
);

/// # Safety
/// As [`PackW`] says, for rows along n.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn nn_pairs<S: Source>(pack: &PackW) {
    // Word i of both rows, i upwards: (even k, odd k) of column i.
    const ZIP: [u16; 32] = {
        let mut zip = [0; 32];
        let mut i = 0;
        while i < 16 {
            zip[2 * i] = i as u16;
            zip[2 * i + 1] = 32 + i as u16;
            i += 1;
        }
        zip
    };
    // SAFETY: the index is 64 bytes; the rest is inside the panel, by the masks.
    unsafe {
        let zip = _mm512_loadu_si512(ZIP.as_ptr().cast());
        for k in (0..pack.k).step_by(2) {
            for group in (0..pack.width).step_by(LANES) {
                let mask = u32::from(first16(pack.n.saturating_sub(group)));
                let at = pack
                    .bytes
                    .wrapping_add(k * pack.row_bytes + group * S::SIZE);
                let even = S::pairs(at, mask);
                let odd_mask = if k + 1 < pack.k { mask } else { 0 };
                let odd = S::pairs(at.wrapping_add(pack.row_bytes), odd_mask);
                let out = pack.out.add(k / 2 * pack.width + group);
                _mm512_storeu_si512(out.cast(), _mm512_permutex2var_epi16(even, zip, odd));
            }
        }
    }
}

/// # Safety
/// As [`PackW`] says, for rows along n.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn nn_f32<const WIDE: bool, S: Source>(pack: &PackW) {
    let depth = if WIDE {
        pack.k.next_multiple_of(2)
    } else {
        pack.k
    };
    for k in 0..depth {
        let slot = if WIDE { k ^ 1 } else { k };
        for group in (0..pack.width).step_by(LANES) {
            let inside = if k < pack.k {
                pack.n.saturating_sub(group)
            } else {
                0
            };
            let at = pack
                .bytes
                .wrapping_add(k * pack.row_bytes + group * S::SIZE);
            // SAFETY: inside the panel, by the mask; the output holds `depth × width`.
            unsafe {
                let mut values = S::values(at, first16(inside));
                if WIDE {
                    values = round_to_bf16(values);
                }
                _mm512_storeu_ps(pack.out.add(slot * pack.width + group).cast(), values);
            }
        }
    }
}

macro_rules! pack_x {
    ($name:ident, $features:literal, [$($wide:ident)?], $step:literal, $depth:expr, $load:expr) => {
        /// # Safety
        /// As [`PackX`] says, for at most 16 rows.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<$(const $wide: bool)?>(pack: &PackX) {
            let depth: usize = $depth(pack.k);
            debug_assert!(pack.rows <= LANES);
            for k in (0..pack.k).step_by($step) {
                let slot = k * LANES / $step;
                // SAFETY: inside the rectangle, by the masks; the output holds `depth × rows`.
                unsafe {
                    let mut rows = [_mm512_setzero_si512(); LANES];
                    for (row, packed) in rows.iter_mut().enumerate().take(pack.rows) {
                        let at = pack.x.add(row * pack.stride + k).cast();
                        *packed = $load(at, pack.k - k);
                    }
                    let mask = first16(pack.rows);
                    let out = pack.out.add(slot * pack.rows).cast::<i32>();
                    for (p, vector) in transpose(rows).iter().enumerate().take(depth - slot) {
                        _mm512_mask_storeu_epi32(out.add(p * pack.rows), mask, *vector);
                    }
                }
            }
        }
    };
}

pack_x!(
    x_pairs,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16",
    [],
    32,
    |k: usize| k.div_ceil(2),
    |at, left| F32Source::pairs(at, first32(left))
);
pack_x!(
    x_f32,
    "avx512f,avx512bw,avx512dq,avx512vl",
    [WIDE],
    16,
    |k: usize| if WIDE { k.next_multiple_of(2) } else { k },
    |at, left| along_k::<WIDE>(F32Source::values(at, first16(left)))
);
