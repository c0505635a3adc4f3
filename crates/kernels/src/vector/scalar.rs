//! The definition: plain loops over sixteen elements.

use super::{LANES, Lanes, Vector};

/// Plain Rust; needs nothing of the processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}

impl Vector for Scalar {
    type F = Lanes;
    type Mask = [bool; LANES];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &Lanes) -> Lanes {
        *x
    }
    #[inline(always)]
    fn store(self, x: Lanes, to: &mut Lanes) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: Lanes) -> Lanes {
        each(|i| a[i].sqrt())
    }
    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        each(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    fn scale(self, a: Lanes, n: Lanes) -> Lanes {
        // Two factors: 2^n itself may be outside the range of f32.
        each(|i| {
            let half = (n[i] * 0.5).floor();
            a[i] * power(half) * power(n[i] - half)
        })
    }
    #[inline(always)]
    fn less(self, a: Lanes, b: Lanes) -> [bool; LANES] {
        std::array::from_fn(|i| a[i] < b[i])
    }
    #[inline(always)]
    fn select(self, mask: [bool; LANES], a: Lanes, b: Lanes) -> Lanes {
        each(|i| if mask[i] { a[i] } else { b[i] })
    }
}

/// `2^n` for whole n in [-126, 127].
#[inline(always)]
fn power(n: f32) -> f32 {
    f32::from_bits(((n as i32 + 127) as u32) << 23)
}
