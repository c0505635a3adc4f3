//! One 512-bit register, with the bf16 dot product or without.

use super::bf16::round_sixteen;
use super::transpose::{four_rows, lanes};
use super::{HIGH, LANES, Lanes, Vector};
use std::arch::x86_64::*;

/// Proof of AVX-512 F, BW, DQ and VL, and with `BF16` of the bf16 dot product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL, and with `BF16` the bf16 dot product.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Methods that are one expression of intrinsics.
macro_rules! intrinsics {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $value:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves that the processor has the instructions.
            unsafe { $value }
        }
    )*};
}

impl<const BF16: bool> Vector for Avx512<BF16> {
    type F = __m512;
    type Mask = __mmask16;
    const WIDE: bool = true;

    intrinsics! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn load(x: &Lanes) -> __m512 = _mm512_loadu_ps(x.as_ptr());
        fn store(x: __m512, to: &mut Lanes) -> () = _mm512_storeu_ps(to.as_mut_ptr(), x);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        fn round(a: __m512) -> __m512 = _mm512_roundscale_ps::<8>(a);
        fn scale(a: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(a, n);
        fn less(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        fn select(mask: __mmask16, a: __m512, b: __m512) -> __m512 =
            _mm512_mask_blend_ps(mask, b, a);
        fn lowest_bytes(a: __m512) -> [u8; LANES] = {
            let mut bytes = [0; LANES];
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(a)));
            bytes
        };
    }

    #[inline(always)]
    fn dot_pairs(self, left: u32, right: &[u32; LANES], sum: __m512) -> __m512 {
        // SAFETY: `self` proves that the processor has the instructions; a register's bits are any type's.
        unsafe {
            let left = _mm512_set1_epi32(left.cast_signed());
            let right = _mm512_loadu_epi32(right.as_ptr().cast());
            if BF16 {
                let left: __m512bh = std::mem::transmute(left);
                let right: __m512bh = std::mem::transmute(right);
                return _mm512_dpbf16_ps(sum, left, right);
            }
            let ([even, odd], [of_even, of_odd]) = (parts(left), parts(right));
            _mm512_fmadd_ps(even, of_even, _mm512_fmadd_ps(odd, of_odd, sum))
        }
    }

    #[inline(always)]
    fn turn(self, rows: &[[u32; LANES]; LANES], to: &mut [u32], stride: usize) {
        // SAFETY: as above; sixteen elements are a register.
        unsafe {
            let mut fours = [[_mm512_setzero_si512(); 4]; 4];
            for (fours, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
                // Not in a closure, which would be compiled without the instructions.
                let mut four = [_mm512_setzero_si512(); 4];
                for (to, row) in four.iter_mut().zip(rows) {
                    *to = _mm512_loadu_epi32(row.as_ptr().cast());
                }
                *fours = four_rows(four);
            }
            let [a, b, c, d] = fours;
            for i in 0..4 {
                let columns = lanes([a[i], b[i], c[i], d[i]]);
                let to = to.chunks_mut(stride).skip(i).step_by(4);
                for (column, to) in columns.iter().zip(to) {
                    _mm512_storeu_epi32(to[..LANES].as_mut_ptr().cast(), *column);
                }
            }
        }
    }

    #[inline(always)]
    fn neighbours(self, first: __m512, second: __m512) -> [u32; LANES] {
        // SAFETY: as above.
        unsafe {
            if BF16 {
                return std::mem::transmute::<__m512bh, [u32; LANES]>(_mm512_cvtne2ps_pbh(
                    second, first,
                ));
            }
            let first = _mm512_srli_epi32::<16>(_mm512_castps_si512(round_sixteen(first)));
            let second = _mm512_srli_epi32::<16>(_mm512_castps_si512(round_sixteen(second)));
            std::mem::transmute([_mm512_cvtepi32_epi16(first), _mm512_cvtepi32_epi16(second)])
        }
    }

    #[inline(always)]
    fn stacked(self, even: __m512, odd: __m512) -> [u32; LANES] {
        // SAFETY: as above.
        unsafe {
            if !BF16 {
                let even = _mm512_srli_epi32::<16>(_mm512_castps_si512(round_sixteen(even)));
                let odd = _mm512_castps_si512(round_sixteen(odd));
                return std::mem::transmute::<__m512i, [u32; LANES]>(_mm512_or_si512(even, odd));
            }
            let even: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(even));
            let odd: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(odd));
            let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
            std::mem::transmute(_mm512_or_si512(_mm512_cvtepu16_epi32(even), odd))
        }
    }
}

/// The first and the second of pairs of bf16, as f32.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn parts(pairs: __m512i) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(HIGH.cast_signed()));
        let even = _mm512_slli_epi32::<16>(pairs);
        [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
    }
}
