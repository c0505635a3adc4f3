//! Elementwise non-linearities, plain and gated, and their gradients.
//!
//! All are `x` times a sigmoid-like weight, so that one exponential (see `vector::exp`) serves each and
//! nothing cancels for negative x: `gelu_tanh(x) = x·σ(2u)`, since `(1 + tanh u)/2 = σ(2u)`.

use crate::share::{SharedMat, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch, exp, gelu_parts, map, map2};
use crate::{Context, Mat, MatMut};
use std::ops::Range;

/// Which non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `0.5x(1 + tanh(√(2/π)(x + 0.044715x³)))`.
    GeluTanh,
    /// `0.5x(1 + erf(x/√2))`.
    Gelu,
    /// `x·σ(x)`.
    Silu,
    /// `max(x, 0)`; NaN stays.
    Relu,
}

/// `y = f(x)`.
///
/// # Panics
/// When sizes do not fit.
pub fn forward(context: &Context, f: Activation, x: Mat<'_>, y: MatMut<'_>) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "activation's output");
    let y = SharedMat::new(y);
    in_ranges(context, x.rows, x.cols, 1, |rows| {
        dispatch(context.isa, Plain { f, x, y, rows });
    });
}

/// `dx = f'(x)·dy`.
///
/// # Panics
/// When sizes do not fit.
pub fn backward(context: &Context, f: Activation, x: Mat<'_>, dy: Mat<'_>, dx: MatMut<'_>) {
    assert_eq!(
        (x.rows, x.cols),
        (dy.rows, dy.cols),
        "activation's gradient"
    );
    assert_eq!(
        (x.rows, x.cols),
        (dx.rows, dx.cols),
        "activation's gradient"
    );
    let dx = SharedMat::new(dx);
    in_ranges(context, x.rows, x.cols, 1, |rows| {
        dispatch(context.isa, PlainBackward { f, x, dy, dx, rows });
    });
}

/// `y = f(gate)·up`, `gate_up` being `[T, 2I]` with the gate first.
///
/// # Panics
/// When sizes do not fit.
pub fn gated(context: &Context, f: Activation, gate_up: Mat<'_>, y: MatMut<'_>) {
    assert_eq!(
        (gate_up.rows, gate_up.cols),
        (y.rows, 2 * y.cols),
        "gate and up"
    );
    let y = SharedMat::new(y);
    in_ranges(context, gate_up.rows, gate_up.cols, 1, |rows| {
        dispatch(
            context.isa,
            Gated {
                f,
                gate_up,
                y,
                rows,
            },
        );
    });
}

/// Gradient of [`gated`], in the layout of `gate_up`.
///
/// # Panics
/// When sizes do not fit.
pub fn gated_backward(
    context: &Context,
    f: Activation,
    gate_up: Mat<'_>,
    dy: Mat<'_>,
    dgate_up: MatMut<'_>,
) {
    let shape = (gate_up.rows, gate_up.cols);
    assert_eq!(shape, (dy.rows, 2 * dy.cols), "gate and up");
    assert_eq!(shape, (dgate_up.rows, dgate_up.cols), "gate and up");
    let out = SharedMat::new(dgate_up);
    in_ranges(context, gate_up.rows, gate_up.cols, 1, |rows| {
        let kernel = GatedBackward {
            f,
            gate_up,
            dy,
            out,
            rows,
        };
        dispatch(context.isa, kernel);
    });
}

struct Plain<'a> {
    f: Activation,
    x: Mat<'a>,
    y: SharedMat<'a>,
    rows: Range<usize>,
}

impl Kernel for Plain<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            // SAFETY: each task has its own rows.
            let (x, y) = (self.x.row(r), unsafe { self.y.row(r) });
            match self.f {
                Activation::GeluTanh => map(v, x, y, |x| gelu_tanh(v, x)),
                Activation::Gelu => map(v, x, y, |x| v.mul(x, gelu_parts(v, x).0)),
                Activation::Silu => map(v, x, y, |x| silu(v, x)),
                Activation::Relu => map(v, x, y, |x| relu(v, x)),
            }
        }
    }
}

struct PlainBackward<'a> {
    f: Activation,
    x: Mat<'a>,
    dy: Mat<'a>,
    dx: SharedMat<'a>,
    rows: Range<usize>,
}

impl Kernel for PlainBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            let (x, dy) = (self.x.row(r), self.dy.row(r));
            // SAFETY: each task has its own rows.
            let dx = unsafe { self.dx.row(r) };
            match self.f {
                Activation::GeluTanh => {
                    map2(v, x, dy, dx, |x, dy| v.mul(gelu_tanh_both(v, x).1, dy));
                }
                Activation::Gelu => map2(v, x, dy, dx, |x, dy| v.mul(gelu_both(v, x).1, dy)),
                Activation::Silu => map2(v, x, dy, dx, |x, dy| v.mul(silu_both(v, x).1, dy)),
                Activation::Relu => map2(v, x, dy, dx, |x, dy| v.mul(relu_both(v, x).1, dy)),
            }
        }
    }
}

struct Gated<'a> {
    f: Activation,
    gate_up: Mat<'a>,
    y: SharedMat<'a>,
    rows: Range<usize>,
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            let (gate, up) = self.gate_up.row(r).split_at(self.y.cols);
            // SAFETY: each task has its own rows.
            let y = unsafe { self.y.row(r) };
            match self.f {
                Activation::GeluTanh => map2(v, gate, up, y, |g, u| v.mul(gelu_tanh(v, g), u)),
                Activation::Gelu => {
                    map2(v, gate, up, y, |g, u| {
                        v.mul(v.mul(g, gelu_parts(v, g).0), u)
                    });
                }
                Activation::Silu => map2(v, gate, up, y, |g, u| v.mul(silu(v, g), u)),
                Activation::Relu => map2(v, gate, up, y, |g, u| v.mul(relu(v, g), u)),
            }
        }
    }
}

struct GatedBackward<'a> {
    f: Activation,
    gate_up: Mat<'a>,
    dy: Mat<'a>,
    out: SharedMat<'a>,
    rows: Range<usize>,
}

impl Kernel for GatedBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows.clone() {
            // SAFETY: each task has its own rows.
            let out = unsafe { self.out.row(r) };
            match self.f {
                Activation::GeluTanh => self.row(v, r, out, |x| gelu_tanh_both(v, x)),
                Activation::Gelu => self.row(v, r, out, |x| gelu_both(v, x)),
                Activation::Silu => self.row(v, r, out, |x| silu_both(v, x)),
                Activation::Relu => self.row(v, r, out, |x| relu_both(v, x)),
            }
        }
    }
}

impl GatedBackward<'_> {
    #[inline(always)]
    fn row<V: Vector>(&self, v: V, r: usize, out: &mut [f32], f: impl Fn(V::F) -> (V::F, V::F)) {
        let half = self.dy.cols;
        let (gate, up) = self.gate_up.row(r).split_at(half);
        let (dgate, dup) = out.split_at_mut(half);
        let dy = self.dy.row(r);
        for at in (0..half).step_by(LANES) {
            let part = at..(at + LANES).min(half);
            let d = v.load_part(&dy[part.clone()], 0.0);
            let (value, slope) = f(v.load_part(&gate[part.clone()], 0.0));
            let u = v.load_part(&up[part.clone()], 0.0);
            v.store_part(v.mul(v.mul(slope, u), d), &mut dgate[part.clone()]);
            v.store_part(v.mul(value, d), &mut dup[part]);
        }
    }
}

const TWICE_SQRT_2_OVER_PI: f32 = 2.0 * 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `2u = 2√(2/π)(x + 0.044715x³)`.
#[inline(always)]
fn twice_inner<V: Vector>(v: V, x: V::F) -> V::F {
    let square = v.mul(x, x);
    let factor = v.fma(square, v.splat(CUBIC), v.splat(1.0));
    v.mul(v.mul(x, v.splat(TWICE_SQRT_2_OVER_PI)), factor)
}

#[inline(always)]
fn gelu_tanh<V: Vector>(v: V, x: V::F) -> V::F {
    let e = exp(v, v.sub(v.zero(), twice_inner(v, x)));
    v.div(x, v.add(v.splat(1.0), e))
}

/// Beyond these the slope is 0 or 1, and its formula 0·inf.
#[inline(always)]
fn limited<V: Vector>(v: V, x: V::F, limit: f32) -> V::F {
    v.min(v.splat(limit), v.max(v.splat(-limit), x))
}

/// `σ(x)` and `1 - σ(x)`, neither by subtraction; x is above -88.
#[inline(always)]
fn sigmoid_both<V: Vector>(v: V, x: V::F) -> (V::F, V::F) {
    let e = exp(v, v.sub(v.zero(), x));
    let s = v.div(v.splat(1.0), v.add(v.splat(1.0), e));
    (s, v.mul(e, s))
}

/// Value and slope: `σ + xσ(1-σ)·(2u)'`.
#[inline(always)]
fn gelu_tanh_both<V: Vector>(v: V, x: V::F) -> (V::F, V::F) {
    // 2u(-10) = -87.3; what is left there is 1e-37.
    let near = limited(v, x, 10.0);
    let (s, rest) = sigmoid_both(v, twice_inner(v, near));
    let curve = v.fma(v.mul(near, near), v.splat(3.0 * CUBIC), v.splat(1.0));
    let inner_slope = v.mul(v.splat(TWICE_SQRT_2_OVER_PI), curve);
    let bend = v.mul(v.mul(near, rest), inner_slope);
    (v.mul(v.max(v.splat(-10.0), x), s), v.fma(s, bend, s))
}

#[inline(always)]
fn gelu_both<V: Vector>(v: V, x: V::F) -> (V::F, V::F) {
    let (cumulative, density) = gelu_parts(v, x);
    let near = limited(v, x, 20.0);
    (v.mul(x, cumulative), v.fma(near, density, cumulative))
}

#[inline(always)]
fn silu<V: Vector>(v: V, x: V::F) -> V::F {
    let e = exp(v, v.sub(v.zero(), x));
    v.div(x, v.add(v.splat(1.0), e))
}

/// Value and slope: `σ(1 + x(1-σ))`.
#[inline(always)]
fn silu_both<V: Vector>(v: V, x: V::F) -> (V::F, V::F) {
    let near = limited(v, x, 80.0);
    let (s, rest) = sigmoid_both(v, near);
    let bend = v.mul(near, rest);
    (v.mul(v.max(v.splat(-80.0), x), s), v.fma(s, bend, s))
}

#[inline(always)]
fn relu<V: Vector>(v: V, x: V::F) -> V::F {
    v.select(v.less(x, v.zero()), v.zero(), x)
}

#[inline(always)]
fn relu_both<V: Vector>(v: V, x: V::F) -> (V::F, V::F) {
    let positive = v.less(v.zero(), x);
    (relu(v, x), v.select(positive, v.splat(1.0), v.zero()))
}

#[cfg(test)]
mod tests;
