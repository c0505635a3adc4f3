//! Gradients of weights: sums of outer products over tokens, in f32.

use super::driver::{self, Job, Matrix, Rows};
use super::{Mat, MatMut, Precision, Product};
use crate::Context;

/// `y[M,N] += scale · aᵀ·b` for a `[T,M]` and b `[T,N]`; the order of sums is that of [`super::gemm`],
/// with `scale` applied to each block's sum.
///
/// # Panics
/// When shapes do not fit.
pub fn gemm_tn(ctx: &Context, a: Mat<'_>, b: Mat<'_>, scale: f32, y: MatMut<'_>) {
    a.check();
    b.check();
    y.check();
    assert!(
        a.rows == b.rows && y.rows == a.cols && y.cols == b.cols,
        "{}×{} transposed times {}×{} into {}×{}",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        y.rows,
        y.cols
    );
    let job = Job {
        x: Rows::OfTransposed(a),
        w: Matrix::of_f32(b),
        product: Product::Nn,
        bias: None,
        add: true,
        scale,
        precision: Precision::F32,
    };
    driver::run(ctx, job, y);
}
