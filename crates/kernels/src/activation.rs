//! Elementwise non-linearities, plain and gated, and their gradients.
//!
//! All are `x` times a sigmoid-like weight, so that one exponential (see `vector::exp`) serves each and
//! nothing cancels for negative x: `gelu_tanh(x) = x·σ(2u)`, since `(1 + tanh u)/2 = σ(2u)`.

use crate::share::{SharedMat, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch, exp, gelu_parts, map, map_all};
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

/// Runs `work` with the curve of that name.
macro_rules! with_curve {
    ($f:expr, |$curve:ident| $work:expr) => {
        match $f {
            Activation::GeluTanh => {
                let $curve = GeluTanh;
                $work
            }
            Activation::Gelu => {
                let $curve = Gelu;
                $work
            }
            Activation::Silu => {
                let $curve = Silu;
                $work
            }
            Activation::Relu => {
                let $curve = Relu;
                $work
            }
        }
    };
}

pub mod slope;

/// `y = f(x)`.
///
/// # Panics
/// When sizes do not fit.
pub fn forward(context: &Context, f: Activation, x: Mat<'_>, y: MatMut<'_>) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "activation's output");
    let y = SharedMat::new(y);
    with_curve!(f, |curve| in_ranges(context, x.rows, x.cols, 1, |rows| {
        dispatch(context.isa, Plain { curve, x, y, rows });
    }));
}

/// `dx = f'(x)·dy`.
///
/// # Panics
/// When sizes do not fit.
pub fn backward(context: &Context, f: Activation, x: Mat<'_>, dy: Mat<'_>, dx: MatMut<'_>) {
    let size = (x.rows, x.cols);
    assert_eq!(size, (dy.rows, dy.cols), "activation's gradient");
    differentiate(context, f, x, Some(dy), dx);
}

/// [`backward`] where `dy` becomes `dx`.
///
/// # Panics
/// When sizes do not fit.
pub fn backward_in_place(context: &Context, f: Activation, x: Mat<'_>, dy: MatMut<'_>) {
    differentiate(context, f, x, None, dy);
}

/// Without `dy` it is what `dx` holds.
fn differentiate(
    context: &Context,
    f: Activation,
    x: Mat<'_>,
    dy: Option<Mat<'_>>,
    dx: MatMut<'_>,
) {
    let size = (x.rows, x.cols);
    assert_eq!(size, (dx.rows, dx.cols), "activation's gradient");
    let dx = SharedMat::new(dx);
    with_curve!(f, |curve| in_ranges(context, x.rows, x.cols, 1, |rows| {
        dispatch(
            context.isa,
            PlainBackward {
                curve,
                x,
                dy,
                dx,
                rows,
            },
        );
    }));
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
    with_curve!(f, |curve| in_ranges(
        context,
        gate_up.rows,
        gate_up.cols,
        1,
        |rows| {
            dispatch(
                context.isa,
                Gated {
                    curve,
                    gate_up,
                    y,
                    rows,
                },
            );
        }
    ));
}

/// Gradient of [`gated`]: `gate_up` becomes its own.
///
/// # Panics
/// When sizes do not fit.
pub fn gated_backward(context: &Context, f: Activation, gate_up: MatMut<'_>, dy: Mat<'_>) {
    let (rows, cols) = (gate_up.rows, gate_up.cols);
    assert_eq!((rows, cols), (dy.rows, 2 * dy.cols), "gate and up");
    let gate_up = SharedMat::new(gate_up);
    with_curve!(f, |curve| in_ranges(context, rows, cols, 1, |rows| {
        let kernel = GatedBackward {
            curve,
            gate_up,
            dy,
            rows,
        };
        dispatch(context.isa, kernel);
    }));
}

struct Plain<'a, C> {
    curve: C,
    x: Mat<'a>,
    y: SharedMat<'a>,
    rows: Range<usize>,
}

impl<C: Curve> Kernel for Plain<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            // SAFETY: each task has its own rows.
            let (x, y) = (self.x.row(r), unsafe { self.y.row(r) });
            map!(v, x, y, |x| self.curve.value(v, x));
        }
    }
}

struct PlainBackward<'a, C> {
    curve: C,
    x: Mat<'a>,
    dy: Option<Mat<'a>>,
    dx: SharedMat<'a>,
    rows: Range<usize>,
}

impl<C: Curve> Kernel for PlainBackward<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            let x = self.x.row(r);
            // SAFETY: each task has its own rows.
            let dx = unsafe { self.dx.row(r) };
            match self.dy {
                Some(dy) => {
                    let dy = dy.row(r);
                    map_all!(v, [x in x, dy in dy], dx, v.mul(self.curve.both(v, x).1, dy));
                }
                None => map_all!(v, [x in x], dx, as dy, v.mul(self.curve.both(v, x).1, dy)),
            }
        }
    }
}

struct Gated<'a, C> {
    curve: C,
    gate_up: Mat<'a>,
    y: SharedMat<'a>,
    rows: Range<usize>,
}

impl<C: Curve> Kernel for Gated<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            let (gate, up) = self.gate_up.row(r).split_at(self.y.cols);
            // SAFETY: each task has its own rows.
            let y = unsafe { self.y.row(r) };
            map_all!(v, [g in gate, u in up], y, v.mul(self.curve.value(v, g), u));
        }
    }
}

struct GatedBackward<'a, C> {
    curve: C,
    gate_up: SharedMat<'a>,
    dy: Mat<'a>,
    rows: Range<usize>,
}

impl<C: Curve> Kernel for GatedBackward<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let half = self.dy.cols;
        for r in self.rows {
            // SAFETY: each task has its own rows.
            let (gate, up) = unsafe { self.gate_up.row(r) }.split_at_mut(half);
            let dy = self.dy.row(r);
            for at in (0..half).step_by(LANES) {
                let part = at..(at + LANES).min(half);
                let d = v.load_part(&dy[part.clone()], 0.0);
                let (value, slope) = self.curve.both(v, v.load_part(&gate[part.clone()], 0.0));
                let u = v.load_part(&up[part.clone()], 0.0);
                v.store_part(v.mul(v.mul(slope, u), d), &mut gate[part.clone()]);
                v.store_part(v.mul(value, d), &mut up[part]);
            }
        }
    }
}

/// One non-linearity.
trait Curve: Copy + Sync {
    /// `f(x)`
    fn value<V: Vector>(self, v: V, x: V::F) -> V::F;
    /// `f(x)` and `f'(x)`
    fn both<V: Vector>(self, v: V, x: V::F) -> (V::F, V::F);
}

#[derive(Clone, Copy)]
struct GeluTanh;
#[derive(Clone, Copy)]
struct Gelu;
#[derive(Clone, Copy)]
struct Silu;
#[derive(Clone, Copy)]
struct Relu;

const TWICE_SQRT_2_OVER_PI: f32 = 2.0 * 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `2u = 2√(2/π)(x + 0.044715x³)`.
#[inline(always)]
fn twice_inner<V: Vector>(v: V, x: V::F) -> V::F {
    let square = v.mul(x, x);
    let factor = v.fma(square, v.splat(CUBIC), v.splat(1.0));
    v.mul(v.mul(x, v.splat(TWICE_SQRT_2_OVER_PI)), factor)
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

impl Curve for GeluTanh {
    #[inline(always)]
    fn value<V: Vector>(self, v: V, x: V::F) -> V::F {
        let e = exp(v, v.sub(v.zero(), twice_inner(v, x)));
        v.div(x, v.add(v.splat(1.0), e))
    }

    /// Value and slope: `σ + xσ(1-σ)·(2u)'`.
    #[inline(always)]
    fn both<V: Vector>(self, v: V, x: V::F) -> (V::F, V::F) {
        // 2u(-10) = -87.3; what is left there is 1e-37.
        let near = limited(v, x, 10.0);
        let (s, rest) = sigmoid_both(v, twice_inner(v, near));
        let curve = v.fma(v.mul(near, near), v.splat(3.0 * CUBIC), v.splat(1.0));
        let inner_slope = v.mul(v.splat(TWICE_SQRT_2_OVER_PI), curve);
        let bend = v.mul(v.mul(near, rest), inner_slope);
        (v.mul(v.max(v.splat(-10.0), x), s), v.fma(s, bend, s))
    }
}

impl Curve for Gelu {
    #[inline(always)]
    fn value<V: Vector>(self, v: V, x: V::F) -> V::F {
        v.mul(x, gelu_parts(v, x).0)
    }

    #[inline(always)]
    fn both<V: Vector>(self, v: V, x: V::F) -> (V::F, V::F) {
        let (cumulative, density) = gelu_parts(v, x);
        let near = limited(v, x, 20.0);
        (v.mul(x, cumulative), v.fma(near, density, cumulative))
    }
}

impl Curve for Silu {
    #[inline(always)]
    fn value<V: Vector>(self, v: V, x: V::F) -> V::F {
        let e = exp(v, v.sub(v.zero(), x));
        v.div(x, v.add(v.splat(1.0), e))
    }

    /// Value and slope: `σ(1 + x(1-σ))`.
    #[inline(always)]
    fn both<V: Vector>(self, v: V, x: V::F) -> (V::F, V::F) {
        let near = limited(v, x, 80.0);
        let (s, rest) = sigmoid_both(v, near);
        let bend = v.mul(near, rest);
        (v.mul(v.max(v.splat(-80.0), x), s), v.fma(s, bend, s))
    }
}

impl Curve for Relu {
    #[inline(always)]
    fn value<V: Vector>(self, v: V, x: V::F) -> V::F {
        v.select(v.less(x, v.zero()), v.zero(), x)
    }

    #[inline(always)]
    fn both<V: Vector>(self, v: V, x: V::F) -> (V::F, V::F) {
        let positive = v.less(v.zero(), x);
        (self.value(v, x), v.select(positive, v.splat(1.0), v.zero()))
    }
}

#[cfg(test)]
mod tests;
