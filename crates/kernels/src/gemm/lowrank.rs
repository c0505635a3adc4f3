//! The products of a rank-R delta, in f32: `y += scaling · (x·Aᵀ)·Bᵀ`, Hu et al. 2021, eq. 3.

use super::driver::{self, Job, Matrix, Rows};
use super::{Mat, MatMut, Precision, Product, arena, gemm_tn};
use crate::Context;
use std::ops::Range;

/// Up to this rank the rank's rows are the activations of a product, and the tokens the matrix that is read
/// once, where it lies; above it they would be packed for too few rows. At 512 tokens, 2,048 inputs and
/// 6,144 outputs the backward pass of rank 8 takes a fifth so, that of 16 less than a half; at 64 tokens
/// that of 32 would take 1.7 times as long.
const SLIM: usize = 16;

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
    let (tokens, rank) = (x.rows, lora.a.rows);
    if rank > SLIM {
        small(
            ctx,
            Rows::Of(x),
            Stream::Rows(lora.a),
            1.0,
            xa.reborrow(),
            false,
        );
        let (xa, b) = (Rows::Of(xa.as_mat()), Stream::Rows(lora.b));
        return small(ctx, xa, b, lora.scaling, y, true);
    }
    with_mat(rank, tokens, |mut xa_t| {
        let (a, x) = (Rows::Of(lora.a), Stream::Rows(x));
        small(ctx, a, x, 1.0, xa_t.reborrow(), false);
        transpose(ctx, xa_t.as_mat(), 1.0, xa.reborrow(), false);
        let (xa, b) = (Rows::OfTransposed(xa_t.as_mat()), Stream::Rows(lora.b));
        small(ctx, xa, b, lora.scaling, y, true);
    });
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
    let (tokens, rank, out) = (x.rows, lora.a.rows, lora.b.rows);
    if rank > SLIM {
        return wide_backward(ctx, x, xa, dy, lora, gradients);
    }
    with_mat(rank, tokens, |mut g_t| {
        with_mat(rank, out, |mut b_t| {
            transpose(ctx, lora.b, 1.0, b_t.reborrow(), false);
            let (b, dy) = (Rows::Of(b_t.as_mat()), Stream::Rows(dy));
            small(ctx, b, dy, lora.scaling, g_t.reborrow(), false);
        });
        let g_t = g_t.as_mat();
        small(
            ctx,
            Rows::Of(g_t),
            Stream::Columns(x),
            1.0,
            gradients.da,
            true,
        );
        if let Some(dx) = gradients.dx {
            let (g, a) = (Rows::OfTransposed(g_t), Stream::Columns(lora.a));
            small(ctx, g, a, 1.0, dx, true);
        }
    });
    with_mat(rank, out, |mut db_t| {
        let (xa, dy) = (Rows::OfTransposed(xa), Stream::Columns(dy));
        small(ctx, xa, dy, 1.0, db_t.reborrow(), false);
        transpose(ctx, db_t.as_mat(), lora.scaling, gradients.db, true);
    });
}

fn wide_backward(
    ctx: &Context,
    x: Mat<'_>,
    xa: Mat<'_>,
    dy: Mat<'_>,
    lora: LoraFactors<'_>,
    gradients: LoraGradients<'_>,
) {
    with_mat(x.rows, lora.a.rows, |mut g| {
        let b = Stream::Columns(lora.b);
        small(ctx, Rows::Of(dy), b, lora.scaling, g.reborrow(), false);
        let g = g.as_mat();
        gemm_tn(ctx, g, x, 1.0, gradients.da);
        gemm_tn(ctx, dy, xa, lora.scaling, gradients.db);
        if let Some(dx) = gradients.dx {
            small(ctx, Rows::Of(g), Stream::Columns(lora.a), 1.0, dx, true);
        }
    });
}

/// A matrix of unspecified contents.
fn with_mat(rows: usize, cols: usize, use_mat: impl FnOnce(MatMut<'_>)) {
    arena::with(rows * cols, |buffer| {
        use_mat(MatMut::dense(bytemuck::cast_slice_mut(buffer), rows, cols));
    });
}

/// `y = scale · xᵀ`, or `y += scale · xᵀ`.
fn transpose(ctx: &Context, x: Mat<'_>, scale: f32, y: MatMut<'_>, add: bool) {
    x.check();
    y.check();
    assert_eq!((x.rows, x.cols), (y.cols, y.rows), "transposed sizes");
    let (out, stride) = (driver::Shared(y.data.as_mut_ptr()), y.stride);
    let across = y.cols.div_ceil(TRANSPOSE_TASK);
    let element = |row: usize, col: usize| {
        let value = scale * x.data[col * x.stride + row];
        // SAFETY: inside y; each task has its own rectangle.
        let y = unsafe { &mut *out.get().add(row * stride + col) };
        *y = if add { *y + value } else { value };
    };
    ctx.threads
        .run(y.rows.div_ceil(TRANSPOSE_TASK) * across, |task| {
            let rows = part(task / across, TRANSPOSE_TASK, 0..y.rows);
            let cols = part(task % across, TRANSPOSE_TASK, 0..y.cols);
            for tile in 0..rows.len().div_ceil(TILE) {
                let tile_rows = part(tile, TILE, rows.clone());
                for tile in 0..cols.len().div_ceil(TILE) {
                    let tile_cols = part(tile, TILE, cols.clone());
                    for row in tile_rows.clone() {
                        tile_cols.clone().for_each(|col| element(row, col));
                    }
                }
            }
        });
}

/// Rows and columns of a transposition's task.
const TRANSPOSE_TASK: usize = 512;
/// Rows and columns that are read together: a cache line each way.
const TILE: usize = 16;

/// The `index`-th run of `len` in a range.
fn part(index: usize, len: usize, of: Range<usize>) -> Range<usize> {
    let first = of.start + index * len;
    first..of.end.min(first + len)
}

/// The larger operand.
enum Stream<'a> {
    /// Summed over its columns.
    Rows(Mat<'a>),
    /// Summed over its rows.
    Columns(Mat<'a>),
}

/// `y = [y +] scale · x·W`.
fn small(ctx: &Context, x: Rows<'_>, w: Stream<'_>, scale: f32, y: MatMut<'_>, add: bool) {
    let (w, product) = match w {
        Stream::Rows(w) => (w, Product::Nt),
        Stream::Columns(w) => (w, Product::Nn),
    };
    let (mat, rows, terms) = match x {
        Rows::Of(x) => (x, x.rows, x.cols),
        Rows::OfTransposed(x) => (x, x.cols, x.rows),
    };
    mat.check();
    w.check();
    y.check();
    let (k, n) = product.sizes(w.rows, w.cols);
    assert!(
        terms == k && y.cols == n && rows == y.rows,
        "{rows}×{terms} times a {product:?} factor {}×{} into {}×{}",
        w.rows,
        w.cols,
        y.rows,
        y.cols
    );
    let job = Job {
        x,
        w: Matrix::of_f32(w),
        product,
        bias: None,
        add,
        scale,
        precision: Precision::F32,
    };
    driver::run(ctx, job, y);
}
