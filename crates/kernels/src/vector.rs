//! Sixteen f32 at a time, the same bits on every instruction set.
//!
//! A kernel is written once, over [`Vector`]; [`dispatch`] runs it with the widest instructions
//! there are. Each implementation does the same sixteen IEEE operations (with fused multiply-add) and
//! sums in the same tree, so the scalar one is the definition and the tests demand equality.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;
mod math;
mod scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod transpose;

use crate::Isa;
use crate::gemm::scalar::to_bf16;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use math::{exp, gelu_parts};
pub(crate) use scalar::Scalar;

/// Lanes of every vector.
pub(crate) const LANES: usize = 16;

/// The bits of the second bf16 of a pair, which are those of its f32.
const HIGH: u32 = 0xffff_0000;

/// An array as wide as a vector.
pub(crate) type Lanes = [f32; LANES];

/// Proof that the processor has certain instructions, and the operations that they give.
pub(crate) trait Vector: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen truths.
    type Mask: Copy;
    /// Enough registers for a tile of 4 × 4 sums.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &Lanes) -> Self::F;
    fn store(self, x: Self::F, to: &mut Lanes);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`: the second where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: the second where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    /// To the nearest whole number, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a · 2^n`, n whole and in [-252, 252], rounded once.
    fn scale(self, a: Self::F, n: Self::F) -> Self::F;
    fn less(self, a: Self::F, b: Self::F) -> Self::Mask;
    /// Where the mask holds `a`, else `b`.
    fn select(self, mask: Self::Mask, a: Self::F, b: Self::F) -> Self::F;

    /// The sum, halves first: lane i with lane i + 8, then i + 4, i + 2, i + 1.
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        fold(self.to_lanes(a), |a, b| a + b)
    }
    /// The largest, with [`Vector::max`]'s rule.
    #[inline(always)]
    fn highest(self, a: Self::F) -> f32 {
        fold(self.to_lanes(a), |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn to_lanes(self, a: Self::F) -> Lanes {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        lanes
    }
    /// The lowest byte of each element's bits.
    #[inline(always)]
    fn lowest_bytes(self, a: Self::F) -> [u8; LANES] {
        self.to_lanes(a).map(|x| x.to_bits() as u8)
    }
    /// `sum + odd·odd' + even·even'`, rounded after each, of pairs of bf16: what `vdpbf16ps` does.
    #[inline(always)]
    fn dot_pairs(self, left: u32, right: &[u32; LANES], sum: Self::F) -> Self::F {
        let odd = right.map(|pair| f32::from_bits(pair & HIGH));
        let sum = self.fma(
            self.splat(f32::from_bits(left & HIGH)),
            self.load(&odd),
            sum,
        );
        let even = right.map(|pair| f32::from_bits(pair << 16));
        self.fma(
            self.splat(f32::from_bits(left << 16)),
            self.load(&even),
            sum,
        )
    }
    /// Thirty-two values on end as pairs of bf16.
    #[inline(always)]
    fn neighbours(self, first: Self::F, second: Self::F) -> [u32; LANES] {
        neighbours(self.to_lanes(first), self.to_lanes(second))
    }
    /// Two values of each lane as a pair of bf16.
    #[inline(always)]
    fn stacked(self, even: Self::F, odd: Self::F) -> [u32; LANES] {
        stacked(self.to_lanes(even), self.to_lanes(odd))
    }
    /// Rows as columns: column j from `j·stride` on, as many columns as there is room for.
    #[inline(always)]
    fn turn(self, rows: &[[u32; LANES]; LANES], to: &mut [u32], stride: usize) {
        for (j, to) in to.chunks_mut(stride).enumerate() {
            for (to, row) in to[..LANES].iter_mut().zip(rows) {
                *to = row[j];
            }
        }
    }
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    /// At most sixteen elements; `fill` follows.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::F {
        if let Ok(whole) = x.try_into() {
            return self.load(whole);
        }
        let mut lanes = [fill; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }
    #[inline(always)]
    fn store_part(self, x: Self::F, to: &mut [f32]) {
        if let Ok(whole) = to.try_into() {
            return self.store(x, whole);
        }
        to.copy_from_slice(&self.to_lanes(x)[..to.len()]);
    }
}

#[inline(always)]
fn fold(mut lanes: Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

#[inline(always)]
fn neighbours(first: Lanes, second: Lanes) -> [u32; LANES] {
    let at = |i: usize| {
        if i < LANES {
            first[i]
        } else {
            second[i - LANES]
        }
    };
    std::array::from_fn(|i| pair(at(2 * i), at(2 * i + 1)))
}

#[inline(always)]
fn stacked(even: Lanes, odd: Lanes) -> [u32; LANES] {
    std::array::from_fn(|i| pair(even[i], odd[i]))
}

/// The first in the lower half.
#[inline(always)]
fn pair(even: f32, odd: f32) -> u32 {
    to_bf16(odd).to_bits() | to_bf16(even).to_bits() >> 16
}

/// Work that runs with any [`Vector`]; `run` must be `#[inline(always)]`, and so all that it calls.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Does the work.
    fn run<V: Vector>(self, v: V) -> Self::Output;
}

/// Runs `kernel` with the instructions of `isa`, or of the processor if those are fewer.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.min(Isa::detect()) {
        // SAFETY: the processor has what `detect` says, and AVX-512 includes AVX2.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { with_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { with_avx512_bf16(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { with_avx2(kernel) },
        _ => kernel.run(Scalar),
    }
}

/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    kernel.run(unsafe { Avx512::<false>::new() })
}

/// # Safety
/// As [`with_avx512`], and the bf16 dot product.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn with_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    kernel.run(unsafe { Avx512::<true>::new() })
}

/// # Safety
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    kernel.run(unsafe { Avx2::new() })
}

// The loops are macros: a closure is compiled without the instruction set of the function that it is
// written in, and the compiler then calls each intrinsic instead of inlining it.

/// `y = value(x)` for slices of equal length.
macro_rules! map {
    ($v:expr, $x:expr, $y:expr, |$one:ident| $value:expr) => {{
        let (lanes, x_tail) = $x.as_chunks::<{ $crate::vector::LANES }>();
        let (to, y_tail) = $y.as_chunks_mut::<{ $crate::vector::LANES }>();
        for (x, y) in lanes.iter().zip(to) {
            let $one = $v.load(x);
            $v.store($value, y);
        }
        if !y_tail.is_empty() {
            let $one = $v.load_part(x_tail, 0.0);
            $v.store_part($value, y_tail);
        }
    }};
}

/// Runs `work` on sixteen elements at a time of slices of equal length; a tail is filled up with zeros.
macro_rules! scan {
    ($v:expr, [$($one:ident in $x:expr),+], $work:expr) => {{
        $(let $one = $x.as_chunks::<{ $crate::vector::LANES }>();)+
        let whole = [$($one.0.len()),+][0];
        // Equal lengths that the compiler sees.
        $(let $one = (&$one.0[..whole], $one.1);)+
        for i in 0..whole {
            $(let $one = $v.load(&$one.0[i]);)+
            $work;
        }
        if [$(!$one.1.is_empty()),+][0] {
            $(let $one = $v.load_part($one.1, 0.0);)+
            $work;
        }
    }};
}

/// `y = value` for slices of equal length; with `as old` the value may look at what was in `y`.
macro_rules! map_all {
    ($v:expr, [$($one:ident in $x:expr),+], $y:expr $(, as $old:ident)?, $value:expr) => {{
        $(let $one = $x.as_chunks::<{ $crate::vector::LANES }>();)+
        let (to, to_tail) = $y.as_chunks_mut::<{ $crate::vector::LANES }>();
        // Equal lengths that the compiler sees.
        $(let $one = (&$one.0[..to.len()], $one.1);)+
        for (i, to) in to.iter_mut().enumerate() {
            $(let $one = $v.load(&$one.0[i]);)+
            $(let $old = $v.load(to);)?
            $v.store($value, to);
        }
        if !to_tail.is_empty() {
            $(let $one = $v.load_part($one.1, 0.0);)+
            $(let $old = $v.load_part(to_tail, 0.0);)?
            $v.store_part($value, to_tail);
        }
    }};
}

/// `y = value(y)`, or `y = value(y, a)` for slices of equal length.
macro_rules! update {
    ($v:expr, $y:expr, |$old:ident| $value:expr) => {{
        let (to, y_tail) = $y.as_chunks_mut::<{ $crate::vector::LANES }>();
        for y in to {
            let $old = $v.load(y);
            $v.store($value, y);
        }
        if !y_tail.is_empty() {
            let $old = $v.load_part(y_tail, 0.0);
            $v.store_part($value, y_tail);
        }
    }};
    ($v:expr, $y:expr, $a:expr, |$old:ident, $one:ident| $value:expr) => {{
        let (a, a_tail) = $a.as_chunks::<{ $crate::vector::LANES }>();
        let (to, y_tail) = $y.as_chunks_mut::<{ $crate::vector::LANES }>();
        for (a, y) in a.iter().zip(to) {
            let ($old, $one) = ($v.load(y), $v.load(a));
            $v.store($value, y);
        }
        if !y_tail.is_empty() {
            let ($old, $one) = ($v.load_part(y_tail, 0.0), $v.load_part(a_tail, 0.0));
            $v.store_part($value, y_tail);
        }
    }};
}

/// The sum of `sum = value(sum, x)` over a slice, in two running vectors; a tail is filled up with `fill`.
macro_rules! reduce {
    ($v:expr, $x:expr, $fill:expr, |$sum:ident, $one:ident| $value:expr) => {{
        let (lanes, tail) = $x.as_chunks::<{ $crate::vector::LANES }>();
        let (pairs, last) = lanes.as_chunks::<2>();
        let (mut even, mut odd) = ($v.zero(), $v.zero());
        for [a, b] in pairs {
            let ($sum, $one) = (even, $v.load(a));
            even = $value;
            let ($sum, $one) = (odd, $v.load(b));
            odd = $value;
        }
        if let Some(a) = last.first() {
            let ($sum, $one) = (even, $v.load(a));
            even = $value;
        }
        if !tail.is_empty() {
            let ($sum, $one) = (odd, $v.load_part(tail, $fill));
            odd = $value;
        }
        $v.sum($v.add(even, odd))
    }};
}

pub(crate) use {map, map_all, reduce, scan, update};

#[cfg(test)]
mod tests;
