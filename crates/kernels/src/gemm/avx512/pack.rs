//! Decoding and packing with AVX-512.
//!
//! The small helpers are `inline(always)` and carry no features of their own, so that they take
//! on those of the packing function that they end up in.

use super::LANES;
use crate::gemm::kernel::PackW;
use crate::vector::bf16::round_sixteen;
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
    /// The bf16 of 16 elements in the lower half.
    ///
    /// # Safety
    /// They are readable, and the processor has AVX-512 bf16.
    #[inline(always)]
    unsafe fn half_pairs(at: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { Self::pairs(at, 0xffff) }
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
    #[inline(always)]
    unsafe fn half_pairs(at: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_zextsi256_si512(_mm256_loadu_si256(at.cast())) }
    }
}

/// A mask of the first `count` of 16.
#[inline(always)]
pub(super) fn first16(count: usize) -> u16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// A mask of the first `count` of 32.
#[inline(always)]
pub(super) fn first32(count: usize) -> u32 {
    ((1u64 << count.min(32)) - 1) as u32
}

/// 16 packed dwords along k: as they are, or rounded with the k of each pair swapped.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
pub(super) unsafe fn along_k<const WIDE: bool>(values: __m512) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        if WIDE {
            let rounded = _mm512_castps_si512(round_sixteen(values));
            _mm512_shuffle_epi32::<0b10_11_00_01>(rounded)
        } else {
            _mm512_castps_si512(values)
        }
    }
}

/// Dwords of a row that are staged before the next row's.
const STAGE: usize = 256;
/// Distance of staged rows: a line more, so that they do not share one set of the first cache.
const STAGE_STRIDE: usize = STAGE + LANES;

/// Sixteen rows of packed dwords, row-major.
#[repr(align(64))]
struct Stage {
    _rows: [u32; LANES * STAGE_STRIDE],
}

/// Four dwords of sixteen rows, each dword's a vector over the rows. The load ports put rows
/// 4 l + i into lane l, which leaves half of the shuffles of a transposition in registers.
///
/// # Safety
/// The rows hold 16 bytes, `row_bytes` apart; the processor has AVX-512.
#[inline(always)]
pub(super) unsafe fn four_columns(rows: *const u8, row_bytes: usize) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let row = |i: usize| {
            let at = |row: usize| _mm_loadu_si128(rows.wrapping_add(row * row_bytes).cast());
            let mut row = _mm512_castsi128_si512(at(i));
            row = _mm512_mask_broadcast_i32x4(row, 0x00f0, at(4 + i));
            row = _mm512_mask_broadcast_i32x4(row, 0x0f00, at(8 + i));
            _mm512_mask_broadcast_i32x4(row, 0xf000, at(12 + i))
        };
        // Two rows at a time: few registers are free where this runs beside a tile.
        let (even, odd) = (row(0), row(1));
        let low01 = _mm512_unpacklo_epi32(even, odd);
        let high01 = _mm512_unpackhi_epi32(even, odd);
        let (even, odd) = (row(2), row(3));
        let low23 = _mm512_unpacklo_epi32(even, odd);
        let high23 = _mm512_unpackhi_epi32(even, odd);
        [
            _mm512_unpacklo_epi64(low01, low23),
            _mm512_unpackhi_epi64(low01, low23),
            _mm512_unpacklo_epi64(high01, high23),
            _mm512_unpackhi_epi64(high01, high23),
        ]
    }
}

/// Stores the first `depth` columns of a stage, `width` apart.
///
/// # Safety
/// As [`columns`], and `out` holds them.
#[inline(always)]
unsafe fn transpose(stage: *const u32, out: *mut u32, width: usize, depth: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for p in (0..depth.min(LANES)).step_by(4) {
            let vectors = four_columns(stage.add(p).cast(), STAGE_STRIDE * 4);
            for (p, vector) in (p..depth).zip(&vectors) {
                _mm512_storeu_si512(out.add(p * width).cast(), *vector);
            }
        }
    }
}

/// Decodes and packs one row's run of `run` elements, of which `inside` exist, to `to`, padded
/// with zeros to whole vectors.
macro_rules! stage_row {
    ($at:expr, $inside:expr, $run:expr, $to:expr, $step:literal, $size:expr, $load:expr) => {{
        let (at, inside, to): (*const u8, usize, *mut u32) = ($at, $inside, $to);
        let full = inside - inside % $step;
        for k in (0..full).step_by($step) {
            let dwords = $load(at.add(k * $size), $step);
            _mm512_store_si512(to.add(k * LANES / $step).cast(), dwords);
        }
        for k in (full..$run).step_by($step) {
            let dwords = $load(at.wrapping_add(k * $size), inside.saturating_sub(k));
            _mm512_store_si512(to.add(k * LANES / $step).cast(), dwords);
        }
    }};
}

macro_rules! pack_nt {
    ($name:ident, $features:literal, [$($wide:ident)?], $step:literal, $depth:expr, $load:expr) => {
        /// # Safety
        /// As [`PackW`] says, for rows along k.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<$(const $wide: bool,)? S: Source>(pack: &PackW) {
            const K_STAGE: usize = STAGE * $step / LANES;
            let mut stage = std::mem::MaybeUninit::<Stage>::uninit();
            let stage: *mut u32 = stage.as_mut_ptr().cast();
            for group in (0..pack.width).step_by(LANES) {
                for first in (0..pack.k).step_by(K_STAGE) {
                    let run = K_STAGE.min(pack.k - first);
                    for column in 0..LANES {
                        let inside = if group + column < pack.n { run } else { 0 };
                        let row = (group + column) * pack.row_bytes + first * S::SIZE;
                        // SAFETY: inside the panel, by the masks; the stage holds a run.
                        unsafe {
                            let at = pack.bytes.wrapping_add(row);
                            let to = stage.add(column * STAGE_STRIDE);
                            stage_row!(at, inside, run, to, $step, S::SIZE, $load);
                        }
                    }
                    let depth: usize = $depth(run);
                    for slot in (0..depth).step_by(LANES) {
                        let to = (first * LANES / $step + slot) * pack.stride + group;
                        // SAFETY: staged above; the output holds `depth × width`.
                        unsafe {
                            transpose(stage.add(slot), pack.out.add(to), pack.stride, depth - slot);
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

/// Words of two rows by turns, from word `first` on: (even k, odd k) of one column after the other.
const fn zip(first: u16) -> [u16; 32] {
    let mut zip = [0; 32];
    let mut i = 0;
    while i < LANES {
        zip[2 * i] = first + i as u16;
        zip[2 * i + 1] = 32 + first + i as u16;
        i += 1;
    }
    zip
}

/// Of the low and the high halves of two rows of 32 words.
pub(super) static ZIPS: [[u16; 32]; 2] = [zip(0), zip(LANES as u16)];

/// Stores the pairs of two rows' first `V` vectors of columns.
///
/// # Safety
/// `out` holds them; the processor has AVX-512.
#[inline(always)]
pub(super) unsafe fn store_pairs<const V: usize>(
    zips: &[__m512i; V],
    even: __m512i,
    odd: __m512i,
    out: *mut u32,
) {
    for (v, zip) in zips.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let zipped = _mm512_permutex2var_epi16(even, *zip, odd);
            _mm512_storeu_si512(out.add(v * LANES).cast(), zipped);
        }
    }
}

/// # Safety
/// As [`PackW`] says, for rows along n.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn nn_pairs<S: Source>(pack: &PackW) {
    // SAFETY: an index is 64 bytes; the rest is inside the panel, by its size and by the masks.
    unsafe {
        let zips = ZIPS
            .each_ref()
            .map(|zip| _mm512_loadu_si512(zip.as_ptr().cast()));
        for k in (0..pack.k).step_by(2) {
            let row = pack.bytes.wrapping_add(k * pack.row_bytes);
            let out = pack.out.add(k / 2 * pack.stride);
            let mut group = 0;
            // A load under a mask that misses the caches lets fewer others run beside it.
            if k + 1 < pack.k {
                while group + 2 * LANES <= pack.n {
                    let at = row.wrapping_add(group * S::SIZE);
                    let odd = S::pairs(at.wrapping_add(pack.row_bytes), u32::MAX);
                    let even = S::pairs(at, u32::MAX);
                    store_pairs(&zips, even, odd, out.add(group));
                    group += 2 * LANES;
                }
                if group + LANES <= pack.n {
                    let at = row.wrapping_add(group * S::SIZE);
                    let odd = S::half_pairs(at.wrapping_add(pack.row_bytes));
                    let even = S::half_pairs(at);
                    store_pairs(&[zips[0]], even, odd, out.add(group));
                    group += LANES;
                }
            }
            while group < pack.width {
                let mask = u32::from(first16(pack.n.saturating_sub(group)));
                let odd_mask = if k + 1 < pack.k { mask } else { 0 };
                let at = row.wrapping_add(group * S::SIZE);
                let odd = S::pairs(at.wrapping_add(pack.row_bytes), odd_mask);
                store_pairs(&[zips[0]], S::pairs(at, mask), odd, out.add(group));
                group += LANES;
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
                    values = round_sixteen(values);
                }
                _mm512_storeu_ps(pack.out.add(slot * pack.stride + group).cast(), values);
            }
        }
    }
}
