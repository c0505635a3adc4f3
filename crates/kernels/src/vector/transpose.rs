//! Rows as columns, in registers.

use std::arch::x86_64::*;

/// Columns 0 and 4, 1 and 5, 2 and 6, 3 and 7 of four rows, a pair to a vector.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn column_pairs([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low_ab, low_cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (high_ab, high_cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0b01_00_01_00>(low_ab, low_cd),
            _mm256_shuffle_ps::<0b11_10_11_10>(low_ab, low_cd),
            _mm256_shuffle_ps::<0b01_00_01_00>(high_ab, high_cd),
            _mm256_shuffle_ps::<0b11_10_11_10>(high_ab, high_cd),
        ]
    }
}

/// Columns of eight rows as vectors over the rows.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(crate) unsafe fn eight_rows([a, b, c, d, e, f, g, h]: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        let (first, second) = (column_pairs([a, b, c, d]), column_pairs([e, f, g, h]));
        let mut columns = [_mm256_setzero_ps(); 8];
        let (low, high) = columns.split_at_mut(4);
        for (i, (low, high)) in low.iter_mut().zip(high).enumerate() {
            *low = _mm256_permute2f128_ps::<0x20>(first[i], second[i]);
            *high = _mm256_permute2f128_ps::<0x31>(first[i], second[i]);
        }
        columns
    }
}

/// Sixteen columns of four rows: column 4 l + c in lane l of vector c.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
pub(crate) unsafe fn four_rows([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low01, high01) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (low23, high23) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(low01, low23),
            _mm512_unpackhi_epi64(low01, low23),
            _mm512_unpacklo_epi64(high01, high23),
            _mm512_unpackhi_epi64(high01, high23),
        ]
    }
}

/// Lane l of each of four vectors, in vector l.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
pub(crate) unsafe fn lanes([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    const LOW: i32 = 0b01_00_01_00;
    const HIGH: i32 = 0b11_10_11_10;
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    // SAFETY: the caller's promise.
    unsafe {
        let (low_ab, low_cd) = (
            _mm512_shuffle_i32x4::<LOW>(a, b),
            _mm512_shuffle_i32x4::<LOW>(c, d),
        );
        let (high_ab, high_cd) = (
            _mm512_shuffle_i32x4::<HIGH>(a, b),
            _mm512_shuffle_i32x4::<HIGH>(c, d),
        );
        [
            _mm512_shuffle_i32x4::<EVEN>(low_ab, low_cd),
            _mm512_shuffle_i32x4::<ODD>(low_ab, low_cd),
            _mm512_shuffle_i32x4::<EVEN>(high_ab, high_cd),
            _mm512_shuffle_i32x4::<ODD>(high_ab, high_cd),
        ]
    }
}
