//! The products of a rank-R delta, in f32: `y += scaling · (x·Aᵀ)·Bᵀ`, Hu et al. 2021, eq. 3.

use super::driver::{self, Job, Matrix, Rows};
use super::{Mat, MatMut, Precision, Product, arena, gemm_tn};
use crate::Context;

/// A delta's parameters.
#[derive(Debug, Clone, Copy)]
pub struct LoraFactors<'a> {
    /// `[R, D]`
    pub a: Mat<'a>,
    /// `[O, R]`
    pub b: Mat<'a>,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scaling: f32,
}

/// What a delta's backward pass adds to.
#[derive(Debug)]
pub struct LoraGradients<'a> {
    /// `[R, D]`
    pub da: MatMut<'a>,
    /// `[O, R]`
    pub db: MatMut<'a>,
    /// `[T, D]`
    pub dx: Option<MatMut<'a>>,
}

/// `xa = x·Aᵀ` `[T, R]`, then `y += scaling · xa·Bᵀ`.
///
/// # Panics
/// When shapes do not fit.
pub fn lora_forward(
    ctx: &Context,
    x: Mat<'_>,
    lora: LoraFactors<'_>,
    mut xa: MatMut<'_>,
    y: MatMut<'_>,
) {
    small(ctx, x, lora.a, Product::Nt, 1.0, xa.reborrow(), false);
    small(ctx, xa.as_mat(), lora.b, Product::Nt, lora.scaling, y, true);
}

/// With `g = scaling · dy·B` `[T, R]`: `da += gᵀ·x`, `db += scaling · dyᵀ·xa`, `dx += g·A`.
///
/// # Panics
/// When shapes do not fit.
pub fn lora_backward(
    ctx: &Context,
    x: Mat<'_>,
    xa: Mat<'_>,
    dy: Mat<'_>,
    lora: LoraFactors<'_>,
    gradients: LoraGradients<'_>,
) {
    let (tokens, rank) = (x.rows, lora.a.rows);
    arena::with(tokens * rank, |g| {
        let g: &mut [f32] = bytemuck::cast_slice_mut(g);
        let into = MatMut::dense(g, tokens, rank);
        small(ctx, dy, lora.b, Product::Nn, lora.scaling, into, false);
        let g = Mat::dense(g, tokens, rank);
        gemm_tn(ctx, g, x, 1.0, gradients.da);
        gemm_tn(ctx, dy, xa, lora.scaling, gradients.db);
        if let Some(dx) = gradients.dx {
            small(ctx, g, lora.a, Product::Nn, 1.0, dx, true);
        }
    });
}

/// `y = [y +] scale · x·W` with a factor.
fn small(
    ctx: &Context,
    x: Mat<'_>,
    w: Mat<'_>,
    product: Product,
    scale: f32,
    y: MatMut<'_>,
    add: bool,
) {
    x.check();
    w.check();
    y.check();
    let (k, n) = product.sizes(w.rows, w.cols);
    assert!(
        x.cols == k && y.cols == n && x.rows == y.rows,
        "{}×{} times a {product:?} factor {}×{} into {}×{}",
        x.rows,
        x.cols,
        w.rows,
        w.cols,
        y.rows,
        y.cols
    );
    let job = Job {
        x: Rows::Of(x),
        w: Matrix::of_f32(w),
        product,
        bias: None,
        add,
        scale,
        precision: Precision::F32,
    };
    driver::run(ctx, job, y);
}
