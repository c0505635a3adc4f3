//! One 512-bit register.

use super::{LANES, Lanes, Vector};
use std::arch::x86_64::*;

/// Proof of AVX-512 F, BW, DQ and VL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL.
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

impl Vector for Avx512 {
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
}
