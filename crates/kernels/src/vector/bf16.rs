//! Rounding to bf16, in registers: the upper half of an f32, whose lower half becomes zero.

use std::arch::x86_64::*;

use super::HIGH;

/// [`crate::gemm::scalar::to_bf16`] of eight values.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(crate) unsafe fn round_eight(values: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_castps_si256(values);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_add_epi32(bits, half);
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
        let rounded = _mm256_blendv_epi8(rounded, quiet, nan);
        let kept = _mm256_and_si256(rounded, _mm256_set1_epi32(HIGH.cast_signed()));
        let exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f80_0000));
        let small = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
        let sign = _mm256_and_si256(bits, _mm256_set1_epi32(i32::MIN));
        _mm256_castsi256_ps(_mm256_blendv_epi8(kept, sign, small))
    }
}

/// [`crate::gemm::scalar::to_bf16`] of sixteen values.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
pub(crate) unsafe fn round_sixteen(values: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(values);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_add_epi32(bits, half);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        let rounded = _mm512_mask_mov_epi32(rounded, nan, quiet);
        let kept = _mm512_and_si512(rounded, _mm512_set1_epi32(HIGH.cast_signed()));
        let small = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f80_0000));
        let sign = _mm512_and_si512(bits, _mm512_set1_epi32(i32::MIN));
        _mm512_castsi512_ps(_mm512_mask_mov_epi32(kept, small, sign))
    }
}
