//! Value and slope in one pass, the slope kept in a byte, for a backward pass that multiplies with it.
//!
//! The slopes of all curves lie in [-0.13, 1.13], so even steps of [`STEP`] are as near as bf16 is to the
//! larger ones (half a step against half of 2⁻⁸), in half of its memory. Zero and one are met exactly.

use super::{Activation, Curve, Gelu, GeluTanh, Relu, Silu};
use crate::share::{SharedMat, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch};
use crate::{Context, Mat, MatMut};
use std::ops::Range;

/// Between two slopes that a byte can hold.
pub const STEP: f32 = 1.0 / 200.0;
/// The byte of slope zero; that of the least one is 1, that of the largest 253.
const ZERO: f32 = 27.0;
/// Adding it to a small number leaves that, rounded to even, in the lowest bits.
const ROUNDER: f32 = 8_388_608.0;

/// f32 that hold a row of `cols` slopes.
pub fn slope_cols(cols: usize) -> usize {
    cols.div_ceil(4)
}

/// `y = f(x)` (to some units of the last place of [`super::forward`]'s), and `slopes` `[T, slope_cols]` for [`multiply`]. A NaN's slope is unspecified: its value tells.
///
/// # Panics
/// When sizes do not fit.
pub fn forward(context: &Context, f: Activation, x: Mat<'_>, y: MatMut<'_>, slopes: MatMut<'_>) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "activation's output");
    activate(context, f, Some(x), y, slopes);
}

/// [`forward`] where `x` becomes `y`.
///
/// # Panics
/// When sizes do not fit.
pub fn forward_in_place(context: &Context, f: Activation, x: MatMut<'_>, slopes: MatMut<'_>) {
    activate(context, f, None, x, slopes);
}

/// Without `x` it is what `y` holds.
fn activate(
    context: &Context,
    f: Activation,
    x: Option<Mat<'_>>,
    y: MatMut<'_>,
    slopes: MatMut<'_>,
) {
    let size = (y.rows, slope_cols(y.cols));
    assert_eq!((slopes.rows, slopes.cols), size, "activation's slopes");
    let (y, slopes) = (SharedMat::new(y), SharedMat::new(slopes));
    with_curve!(f, |curve| in_ranges(context, y.rows, y.cols, 1, |rows| {
        let kernel = Forward {
            curve,
            x,
            y,
            slopes,
            rows,
        };
        dispatch(context.isa, kernel);
    }));
}

/// `dx = slope·dy`.
///
/// # Panics
/// When sizes do not fit.
pub fn multiply(context: &Context, slopes: Mat<'_>, dy: Mat<'_>, dx: MatMut<'_>) {
    let size = (dy.rows, dy.cols);
    assert_eq!(size, (dx.rows, dx.cols), "activation's gradient");
    differentiate(context, slopes, Some(dy), dx);
}

/// [`multiply`] where `dy` becomes `dx`.
///
/// # Panics
/// When sizes do not fit.
pub fn multiply_in_place(context: &Context, slopes: Mat<'_>, dy: MatMut<'_>) {
    differentiate(context, slopes, None, dy);
}

/// Without `dy` it is what `dx` holds.
fn differentiate(context: &Context, slopes: Mat<'_>, dy: Option<Mat<'_>>, dx: MatMut<'_>) {
    let size = (dx.rows, slope_cols(dx.cols));
    assert_eq!((slopes.rows, slopes.cols), size, "activation's slopes");
    let dx = SharedMat::new(dx);
    in_ranges(context, dx.rows, dx.cols, 1, |rows| {
        dispatch(
            context.isa,
            Multiply {
                slopes,
                dy,
                dx,
                rows,
            },
        );
    });
}

struct Forward<'a, C> {
    curve: C,
    x: Option<Mat<'a>>,
    y: SharedMat<'a>,
    slopes: SharedMat<'a>,
    rows: Range<usize>,
}

impl<C: Curve> Kernel for Forward<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            // SAFETY: each task has its own rows.
            let (y, slopes) = unsafe { (self.y.row(r), self.slopes.row(r)) };
            let slopes: &mut [u8] = bytemuck::cast_slice_mut(slopes);
            let x = self.x.map(|x| x.row(r).as_chunks::<LANES>());
            let (values, y_tail) = y.as_chunks_mut::<LANES>();
            let (bytes, bytes_tail) = slopes[..self.y.cols].as_chunks_mut::<LANES>();
            for (i, (y, bytes)) in values.iter_mut().zip(bytes).enumerate() {
                let x = v.load(x.map_or(&*y, |(lanes, _)| &lanes[i]));
                let (value, slope) = self.curve.both(v, x);
                v.store(value, y);
                *bytes = steps(v, slope);
            }
            if !y_tail.is_empty() {
                let x = v.load_part(x.map_or(&*y_tail, |(_, tail)| tail), 0.0);
                let (value, slope) = self.curve.both(v, x);
                v.store_part(value, y_tail);
                bytes_tail.copy_from_slice(&steps(v, slope)[..bytes_tail.len()]);
            }
        }
    }
}

/// The bytes of sixteen slopes.
#[inline(always)]
fn steps<V: Vector>(v: V, slope: V::F) -> [u8; LANES] {
    let steps = v.fma(slope, v.splat(1.0 / STEP), v.splat(ZERO));
    v.lowest_bytes(v.add(steps, v.splat(ROUNDER)))
}

struct Multiply<'a> {
    slopes: Mat<'a>,
    dy: Option<Mat<'a>>,
    dx: SharedMat<'a>,
    rows: Range<usize>,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    /// Plain: [`Vector`] has no bytes, and the compiler does.
    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        for r in self.rows {
            let slopes: &[u8] = bytemuck::cast_slice(self.slopes.row(r));
            // SAFETY: each task has its own rows.
            let dx = unsafe { self.dx.row(r) };
            if let Some(dy) = self.dy {
                for ((slope, dy), dx) in slopes.iter().zip(dy.row(r)).zip(dx) {
                    *dx = slope_of(*slope) * dy;
                }
            } else {
                for (slope, dx) in slopes.iter().zip(dx) {
                    *dx *= slope_of(*slope);
                }
            }
        }
    }
}

#[inline(always)]
fn slope_of(byte: u8) -> f32 {
    (f32::from(byte) - ZERO) * STEP
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, activation};
    use proptest::prelude::*;

    const ALL: [Activation; 4] = [
        Activation::GeluTanh,
        Activation::Gelu,
        Activation::Silu,
        Activation::Relu,
    ];

    /// The values, and the slopes times `dy`.
    fn run(context: &Context, f: Activation, x: Mat<'_>, dy: Mat<'_>) -> [Vec<f32>; 2] {
        let (rows, cols) = (x.rows, x.cols);
        let (mut y, mut dx) = (vec![7.0; rows * cols], vec![7.0; rows * cols]);
        let mut slopes = vec![0.0; rows * slope_cols(cols)];
        let kept = MatMut::dense(&mut slopes, rows, slope_cols(cols));
        forward(context, f, x, MatMut::dense(&mut y, rows, cols), kept);
        let kept = Mat::dense(&slopes, rows, slope_cols(cols));
        multiply(context, kept, dy, MatMut::dense(&mut dx, rows, cols));
        [y, dx]
    }

    /// The same, over what was read.
    fn in_place(context: &Context, f: Activation, x: Mat<'_>, dy: Mat<'_>) -> [Vec<f32>; 2] {
        let (rows, cols) = (x.rows, x.cols);
        let (mut y, mut dx) = (x.data.to_vec(), dy.data.to_vec());
        let mut slopes = vec![0.0; rows * slope_cols(cols)];
        let kept = MatMut::dense(&mut slopes, rows, slope_cols(cols));
        forward_in_place(context, f, MatMut::dense(&mut y, rows, cols), kept);
        let kept = Mat::dense(&slopes, rows, slope_cols(cols));
        multiply_in_place(context, kept, MatMut::dense(&mut dx, rows, cols));
        [y, dx]
    }

    proptest! {
        #[test]
        fn values_are_those_of_forward_and_slopes_within_half_a_step(
            pairs in prop::collection::vec((prop_oneof![-9.0f32..9.0, any::<f32>()], -2.0f32..2.0), 1..300),
            cols in 1usize..40,
        ) {
            let cols = cols.min(pairs.len());
            let rows = pairs.len() / cols;
            let (x, dy): (Vec<f32>, Vec<f32>) = pairs.into_iter().take(rows * cols).unzip();
            let (x, dy) = (Mat::dense(&x, rows, cols), Mat::dense(&dy, rows, cols));
            for f in ALL {
                let [y, dx] = run(&Context::new(Some(1), Some(Isa::Scalar)), f, x, dy);
                for isa in Isa::available() {
                    let context = Context::new(Some(3), Some(isa));
                    let (mut plain, mut exact) = (vec![5.0; y.len()], vec![5.0; y.len()]);
                    activation::forward(&context, f, x, MatMut::dense(&mut plain, rows, cols));
                    activation::backward(&context, f, x, dy, MatMut::dense(&mut exact, rows, cols));
                    prop_assert_eq!(&run(&context, f, x, dy), &[y.clone(), dx.clone()]);
                    prop_assert_eq!(&in_place(&context, f, x, dy), &[y.clone(), dx.clone()]);
                    for i in 0..y.len() {
                        // One more rounding, and what GELU leaves of numbers below -10.
                        let most = 4.0 * f32::EPSILON * y[i].abs() + 1e-30;
                        let same = plain[i] == y[i] || plain[i].is_nan() && y[i].is_nan();
                        prop_assert!(same || (plain[i] - y[i]).abs() <= most, "{:?} at {}", f, x.data[i]);
                        let most = 0.5001 * STEP * dy.data[i].abs();
                        prop_assert!((exact[i] - dx[i]).abs() <= most, "{:?} at {}", f, x.data[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn slopes_of_zero_and_one_are_exact() {
        let x = [
            -100.0,
            -0.0,
            0.0,
            100.0,
            f32::NEG_INFINITY,
            f32::INFINITY,
            3.0,
        ];
        let (x, dy) = (Mat::dense(&x, 1, 7), Mat::dense(&[0.7; 7], 1, 7));
        let [_, dx] = run(&Context::default(), Activation::Relu, x, dy);
        assert_eq!(dx, [0.0, 0.0, 0.0, 0.7, 0.0, 0.7, 0.7]);
    }
}
