//! f32 kept in half the memory, as bf16.

use crate::Context;
use crate::share::{SharedSlice, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch};

/// The bits of a bf16: the upper half of those of an f32.
pub(crate) type Half = u16;

/// How many f32 hold the bf16 of `len` others, two each.
pub fn narrow_len(len: usize) -> usize {
    len.div_ceil(2)
}

/// Rounds `x` to the nearest bf16, ties to even, two to an element of `y`. NaN stays NaN.
///
/// # Panics
/// When `y` has not [`narrow_len`] elements.
pub fn narrow(context: &Context, x: &[f32], y: &mut [f32]) {
    assert_eq!(y.len(), narrow_len(x.len()), "halves");
    let count = y.len();
    let y = SharedSlice::new(y);
    in_ranges(context, count, 2, LANES, |range| {
        let x = &x[2 * range.start..(2 * range.end).min(x.len())];
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(range) };
        dispatch(context.isa, Narrow { x, y });
    });
}

/// The values that [`narrow`] stored.
///
/// # Panics
/// When `x` has not [`narrow_len`] elements.
pub fn widen(context: &Context, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), narrow_len(y.len()), "halves");
    let count = y.len();
    let y = SharedSlice::new(y);
    in_ranges(context, count, 1, 2 * LANES, |range| {
        let x = &x[range.start / 2..narrow_len(range.end)];
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(range) };
        dispatch(context.isa, Widen { x, y });
    });
}

struct Narrow<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Narrow<'_> {
    type Output = ();

    /// Plain: whole numbers are what the compiler vectorises well, and what [`Vector`] does not have.
    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        let halves: &mut [Half] = bytemuck::cast_slice_mut(self.y);
        for (x, half) in self.x.iter().zip(halves) {
            *half = rounded(*x);
        }
    }
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> Half {
    let bits = x.to_bits();
    let even = bits >> 16 & 1;
    // A NaN's bits could round to those of an infinity.
    let nan = bits >> 16 | 0x40;
    let near = bits.wrapping_add(0x7fff + even) >> 16;
    (if x.is_nan() { nan } else { near }) as Half
}

struct Widen<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        widen_row(bytemuck::cast_slice(self.x), self.y);
    }
}

#[inline(always)]
pub(crate) fn widen_row(halves: &[Half], y: &mut [f32]) {
    for (half, y) in halves.iter().zip(y) {
        *y = f32::from_bits(u32::from(*half) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use half::bf16;
    use proptest::prelude::*;

    fn there_and_back(context: &Context, x: &[f32]) -> Vec<f32> {
        let (mut halves, mut y) = (vec![0.0; narrow_len(x.len())], vec![0.0; x.len()]);
        narrow(context, x, &mut halves);
        widen(context, &halves, &mut y);
        y
    }

    proptest! {
        #[test]
        fn every_value_comes_back_as_its_nearest_bf16(bits in prop::collection::vec(any::<u32>(), 0..200)) {
            let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512Bf16] {
                let got = there_and_back(&Context::new(Some(2), Some(isa)), &x);
                for (x, got) in x.iter().zip(got) {
                    let want = bf16::from_f32(*x).to_f32();
                    prop_assert_eq!(got.to_bits(), want.to_bits(), "{}", x);
                }
            }
        }
    }

    #[test]
    fn long_lists_are_shared_out_without_gaps() {
        let context = Context::new(Some(3), None);
        for len in [1, 31, 32, 33, 40_000, 100_001] {
            let x: Vec<f32> = (0..len).map(|i| (i % 251) as f32).collect();
            assert_eq!(there_and_back(&context, &x), x);
        }
    }
}
