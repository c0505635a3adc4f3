//! Two 256-bit registers.

use super::bf16::round_eight;
use super::transpose::eight_rows;
use super::{HIGH, LANES, Lanes, Vector};
use std::arch::x86_64::*;

/// Proof of AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

type Pair = [__m256; 2];

/// Methods that are one intrinsic on each half.
macro_rules! halves {
    ($(fn $name:ident($($arg:ident),*) = $value:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Pair),*) -> Pair {
            // SAFETY: `self` proves that the processor has the instructions.
            unsafe { [{ $(let $arg = $arg[0];)* $value }, { $(let $arg = $arg[1];)* $value }] }
        }
    )*};
}

impl Vector for Avx2 {
    type F = Pair;
    type Mask = Pair;
    const WIDE: bool = false;

    halves! {
        fn add(a, b) = _mm256_add_ps(a, b);
        fn sub(a, b) = _mm256_sub_ps(a, b);
        fn mul(a, b) = _mm256_mul_ps(a, b);
        fn div(a, b) = _mm256_div_ps(a, b);
        fn fma(a, b, c) = _mm256_fmadd_ps(a, b, c);
        fn max(a, b) = _mm256_max_ps(a, b);
        fn min(a, b) = _mm256_min_ps(a, b);
        fn sqrt(a) = _mm256_sqrt_ps(a);
        fn round(a) = _mm256_round_ps::<8>(a);
        fn scale(a, n) = scaled(a, n);
        fn less(a, b) = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        fn select(mask, a, b) = _mm256_blendv_ps(b, a, mask);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        // SAFETY: `self` proves that the processor has the instructions.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, x: &Lanes) -> Pair {
        // SAFETY: as above; sixteen elements are two registers.
        unsafe {
            [
                _mm256_loadu_ps(x.as_ptr()),
                _mm256_loadu_ps(x[8..].as_ptr()),
            ]
        }
    }

    #[inline(always)]
    fn store(self, x: Pair, to: &mut Lanes) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), x[1]);
        }
    }

    #[inline(always)]
    fn dot_pairs(self, left: u32, right: &[u32; LANES], mut sum: Pair) -> Pair {
        // SAFETY: as above; eight pairs are a register.
        unsafe {
            // Taken apart behind the broadcast, which reads memory: before it would cost two ways from integer registers.
            let [even, odd] = parts(_mm256_set1_epi32(left.cast_signed()));
            for (right, sum) in right.as_chunks::<8>().0.iter().zip(&mut sum) {
                let [of_even, of_odd] = parts(_mm256_loadu_si256(right.as_ptr().cast()));
                *sum = _mm256_fmadd_ps(odd, of_odd, *sum);
                *sum = _mm256_fmadd_ps(even, of_even, *sum);
            }
        }
        sum
    }

    #[inline(always)]
    fn neighbours(self, first: Pair, second: Pair) -> [u32; LANES] {
        let mut pairs = [0; LANES];
        for ([a, b], to) in [first, second].iter().zip(pairs.as_chunks_mut::<8>().0) {
            // SAFETY: as above.
            unsafe {
                let a = _mm256_srli_epi32::<16>(_mm256_castps_si256(round_eight(*a)));
                let b = _mm256_srli_epi32::<16>(_mm256_castps_si256(round_eight(*b)));
                // Four of a, four of b, in each half.
                let halves = _mm256_packus_epi32(a, b);
                let in_order = _mm256_permute4x64_epi64::<0b11_01_10_00>(halves);
                _mm256_storeu_si256(to.as_mut_ptr().cast(), in_order);
            }
        }
        pairs
    }

    #[inline(always)]
    fn stacked(self, even: Pair, odd: Pair) -> [u32; LANES] {
        let mut pairs = [0; LANES];
        for ((even, odd), to) in even.iter().zip(&odd).zip(pairs.as_chunks_mut::<8>().0) {
            // SAFETY: as above.
            unsafe {
                let even = _mm256_srli_epi32::<16>(_mm256_castps_si256(round_eight(*even)));
                let odd = _mm256_castps_si256(round_eight(*odd));
                _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_or_si256(even, odd));
            }
        }
        pairs
    }

    #[inline(always)]
    fn turn(self, rows: &[[u32; LANES]; LANES], to: &mut [u32], stride: usize) {
        for (column, row) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: as above; eight elements are a register.
            unsafe {
                let mut square = [_mm256_setzero_ps(); 8];
                for (square, row) in square.iter_mut().zip(&rows[row..]) {
                    *square = _mm256_loadu_ps(row[column..].as_ptr().cast());
                }
                let columns = eight_rows(square);
                for (column, to) in columns.iter().zip(to.chunks_mut(stride).skip(column)) {
                    _mm256_storeu_ps(to[row..][..8].as_mut_ptr().cast(), *column);
                }
            }
        }
    }
}

/// The first and the second of pairs of bf16, as f32.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn parts(pairs: __m256i) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(HIGH.cast_signed()));
        let even = _mm256_slli_epi32::<16>(pairs);
        [_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd)]
    }
}

/// Two factors: 2^n itself may be outside the range of f32.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn scaled(a: __m256, n: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let half = _mm256_floor_ps(_mm256_mul_ps(n, _mm256_set1_ps(0.5)));
        let rest = _mm256_sub_ps(n, half);
        _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(rest))
    }
}

/// `2^n` for whole n in [-126, 127].
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn power(n: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}
