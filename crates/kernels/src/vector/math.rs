//! Exponential and what is made of it. Errors against the true value, over all f32, are what
//! `tests` measures and demands.

use super::Vector;

/// `eˣ` within 1.1 ulp (1 of the smallest subnormal below 2⁻¹²⁶); overflow gives inf, NaN stays NaN.
///
/// Cody-Waite reduction by ln 2 and a polynomial of degree 6 on [-ln2/2, ln2/2], whose own error
/// is 2e-9.
#[inline(always)]
pub(crate) fn exp<V: Vector>(v: V, x: V::F) -> V::F {
    // Beyond these the result is 0 and inf anyway; the order of operands lets NaN through.
    let x = v.min(v.splat(90.0), v.max(v.splat(-105.0), x));
    let n = v.round(v.mul(x, v.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first with nine trailing zero bits, so that n times it is exact.
    let r = v.fma(n, v.splat(-0.693_359_4), x);
    let r = v.fma(n, v.splat(2.121_944_4e-4), r);
    let mut p = v.splat(1.394_110_9e-3);
    for c in [8.375_126e-3, 4.166_635e-2, 1.666_641_5e-1, 0.5, 1.0, 1.0] {
        p = v.fma(p, r, v.splat(c));
    }
    v.scale(p, n)
}

/// The normal distribution at x: `Φ(x)` and the density `φ(x)`, both within 8e-8 absolute, and
/// `Φ` within 4e-6 of itself wherever it is a normal number.
///
/// `Φ(-|x|) = t·P(t)·e^(-x²/2)/2` with `t = 1 / (1 + 0.4|x|/√2)`: P is a polynomial of degree 9 about
/// t = 1/2, a fit of `erfcx(a)/t` on [0, 9.5] whose own error is 3e-8. For |x| < 1, where that would be
/// 1/2 less a number of its size, `Φ(x) = 1/2 + x·Q(x²)` with Q of degree 4.
#[inline(always)]
pub(crate) fn gelu_parts<V: Vector>(v: V, x: V::F) -> (V::F, V::F) {
    let size = v.max(x, v.sub(v.zero(), x));
    let t = v.div(
        v.splat(1.0),
        v.fma(
            size,
            v.splat(0.4 * std::f32::consts::FRAC_1_SQRT_2),
            v.splat(1.0),
        ),
    );
    let s = v.sub(t, v.splat(0.5));
    let mut p = v.splat(-3.432_290_3e-2);
    for c in [
        6.898_605e-2,
        2.690_956e-2,
        -1.237_859_3e-1,
        -1.077_069_9e-1,
        1.815_552e-1,
        5.480_100_5e-1,
        7.262_617e-1,
        6.437_214_6e-1,
        4.216_127_4e-1,
    ] {
        p = v.fma(p, s, v.splat(c));
    }
    let square = v.mul(x, x);
    let e = exp(v, v.mul(square, v.splat(-0.5)));
    let below = v.mul(v.mul(t, p), v.mul(e, v.splat(0.5)));
    let above = v.sub(v.splat(1.0), below);
    let mut q = v.splat(9.431_737e-5);
    for c in [-1.169_519_3e-3, 9.967_302e-3, -6.648_961e-2, 3.989_422_6e-1] {
        q = v.fma(q, square, v.splat(c));
    }
    let middle = v.fma(x, q, v.splat(0.5));
    let outer = v.select(v.less(x, v.zero()), below, above);
    let cumulative = v.select(v.less(size, v.splat(1.0)), middle, outer);
    // 1/√(2π)
    (cumulative, v.mul(e, v.splat(0.398_942_3)))
}
