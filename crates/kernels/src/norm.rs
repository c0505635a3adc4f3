//! Layer and RMS normalisation of rows, and their gradients.
//!
//! `LayerNorm`: Ba et al. 2016, arXiv:1607.06450; `RMSNorm`: Zhang & Sennrich 2019, arXiv:1910.07467. Knows no
//! dtype but f32. The variance is taken about the mean in a second pass over the row, which is in
//! cache by then, so that nothing cancels.

use crate::share::{SharedMat, SharedSlice, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch, map_all, reduce, scan, update};
use crate::{Context, Mat, MatMut};
use std::ops::Range;

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Subtract the mean (`LayerNorm`) or not (RMS).
    pub centred: bool,
    /// Added to the variance, or to the mean square.
    pub eps: f32,
}

/// `y = (x - mean) · rstd · weight + bias` by row; `stats` gets mean (0 for RMS) and rstd of each.
///
/// # Panics
/// When sizes do not fit.
pub fn forward(
    context: &Context,
    norm: Norm,
    x: Mat<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
    y: MatMut<'_>,
    stats: &mut [f32],
) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "norm's output");
    assert_eq!(weight.len(), x.cols, "norm's weight");
    assert!(bias.is_none_or(|b| b.len() == x.cols), "norm's bias");
    let stats = SharedSlice::new(&mut stats[..2 * x.rows]);
    let y = SharedMat::new(y);
    in_ranges(context, x.rows, x.cols, 1, |rows| {
        let kernel = Forward {
            norm,
            x,
            weight,
            bias,
            y,
            stats,
            rows,
        };
        dispatch(context.isa, kernel);
    });
}

/// Gradient with respect to the input: `dx = …`, or `dx += …` with `add`.
///
/// # Panics
/// When sizes do not fit.
#[expect(
    clippy::too_many_arguments,
    reason = "a fused operation with its saved values"
)]
pub fn backward(
    context: &Context,
    norm: Norm,
    x: Mat<'_>,
    stats: &[f32],
    weight: &[f32],
    dy: Mat<'_>,
    dx: MatMut<'_>,
    add: bool,
) {
    assert_eq!((x.rows, x.cols), (dy.rows, dy.cols), "norm's gradient");
    assert_eq!((x.rows, x.cols), (dx.rows, dx.cols), "norm's gradient");
    assert_eq!(weight.len(), x.cols, "norm's weight");
    let dx = SharedMat::new(dx);
    in_ranges(context, x.rows, x.cols, 1, |rows| {
        let kernel = Backward {
            norm,
            x,
            stats,
            weight,
            dy,
            dx,
            add,
            rows,
        };
        dispatch(context.isa, kernel);
    });
}

/// `dweight += Σ_t dy[t]·x̂[t]`, `dbias += Σ_t dy[t]`, in the order of t.
///
/// # Panics
/// When sizes do not fit.
pub fn backward_parameters(
    context: &Context,
    x: Mat<'_>,
    stats: &[f32],
    dy: Mat<'_>,
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    assert_eq!((x.rows, x.cols), (dy.rows, dy.cols), "norm's gradient");
    let dweight = dweight.map(|d| SharedSlice::new(&mut d[..x.cols]));
    let dbias = dbias.map(|d| SharedSlice::new(&mut d[..x.cols]));
    in_ranges(context, x.cols, x.rows, LANES, |columns| {
        let kernel = Parameters {
            x,
            stats,
            dy,
            dweight,
            dbias,
            columns,
        };
        dispatch(context.isa, kernel);
    });
}

struct Forward<'a> {
    norm: Norm,
    x: Mat<'a>,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    y: SharedMat<'a>,
    stats: SharedSlice<'a>,
    rows: Range<usize>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows {
            let x = self.x.row(r);
            // SAFETY: each task has its own rows.
            let (y, stats) = unsafe { (self.y.row(r), self.stats.part(2 * r..2 * r + 2)) };
            let (mean, rstd) = statistics(v, self.norm, x);
            stats.copy_from_slice(&[mean, rstd]);
            scale_row(v, x, [mean, rstd], self.weight, self.bias, y);
        }
    }
}

#[inline(always)]
fn statistics<V: Vector>(v: V, norm: Norm, x: &[f32]) -> (f32, f32) {
    let size = x.len() as f32;
    let mean = if norm.centred {
        reduce!(v, x, 0.0, |sum, x| v.add(sum, x)) / size
    } else {
        0.0
    };
    let centre = v.splat(mean);
    let squares = reduce!(v, x, mean, |sum, x| {
        let d = v.sub(x, centre);
        v.fma(d, d, sum)
    });
    (mean, 1.0 / (squares / size + norm.eps).sqrt())
}

#[inline(always)]
fn scale_row<V: Vector>(
    v: V,
    x: &[f32],
    [mean, rstd]: [f32; 2],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let stats = [v.splat(mean), v.splat(rstd)];
    match bias {
        None => map_all!(v, [x in x, w in weight], y, v.mul(hat(v, x, stats), w)),
        Some(bias) => map_all!(v, [x in x, w in weight, b in bias], y, {
            v.add(v.mul(hat(v, x, stats), w), b)
        }),
    }
}

/// `x̂ = (x - mean)·rstd`.
#[inline(always)]
fn hat<V: Vector>(v: V, x: V::F, [mean, rstd]: [V::F; 2]) -> V::F {
    v.mul(v.sub(x, mean), rstd)
}

struct Backward<'a> {
    norm: Norm,
    x: Mat<'a>,
    stats: &'a [f32],
    weight: &'a [f32],
    dy: Mat<'a>,
    dx: SharedMat<'a>,
    add: bool,
    rows: Range<usize>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in self.rows.clone() {
            // SAFETY: each task has its own rows.
            let dx = unsafe { self.dx.row(r) };
            self.row(v, r, dx);
        }
    }
}

impl Backward<'_> {
    /// `dx = rstd · (g - mean(g) - x̂·mean(g·x̂))` with `g = dy·weight`.
    #[inline(always)]
    fn row<V: Vector>(&self, v: V, r: usize, dx: &mut [f32]) {
        let (x, dy, weight) = (self.x.row(r), self.dy.row(r), self.weight);
        let stats = [v.splat(self.stats[2 * r]), v.splat(self.stats[2 * r + 1])];
        let means = self.means(v, r, stats);
        if self.add {
            map_all!(v, [x in x, d in dy, w in weight], dx, as old, {
                v.add(slope(v, hat(v, x, stats), v.mul(d, w), stats[1], means), old)
            });
        } else {
            map_all!(v, [x in x, d in dy, w in weight], dx, {
                slope(v, hat(v, x, stats), v.mul(d, w), stats[1], means)
            });
        }
    }

    /// `mean(g)`, zero for RMS, and `mean(g·x̂)`, each from two running vectors.
    #[inline(always)]
    fn means<V: Vector>(&self, v: V, r: usize, stats: [V::F; 2]) -> [V::F; 2] {
        let (x, dy, weight) = (self.x.row(r), self.dy.row(r), self.weight);
        let (mut totals, mut alongs) = ([v.zero(); 2], [v.zero(); 2]);
        // Filled up with zeros, dy and weight add nothing to a sum.
        scan!(v, [x in x, d in dy, w in weight], {
            let g = v.mul(d, w);
            totals = [v.add(totals[1], g), totals[0]];
            alongs = [v.fma(g, hat(v, x, stats), alongs[1]), alongs[0]];
        });
        let size = x.len() as f32;
        let along = v.splat(v.sum(v.add(alongs[0], alongs[1])) / size);
        if !self.norm.centred {
            return [v.zero(), along];
        }
        [v.splat(v.sum(v.add(totals[0], totals[1])) / size), along]
    }
}

/// `rstd·(g - mean(g) - x̂·mean(g·x̂))`.
#[inline(always)]
fn slope<V: Vector>(v: V, hat: V::F, g: V::F, rstd: V::F, [total, along]: [V::F; 2]) -> V::F {
    v.mul(rstd, v.sub(v.sub(g, total), v.mul(hat, along)))
}

struct Parameters<'a> {
    x: Mat<'a>,
    stats: &'a [f32],
    dy: Mat<'a>,
    dweight: Option<SharedSlice<'a>>,
    dbias: Option<SharedSlice<'a>>,
    columns: Range<usize>,
}

impl Kernel for Parameters<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for r in 0..self.x.rows {
            let x = &self.x.row(r)[self.columns.clone()];
            let dy = &self.dy.row(r)[self.columns.clone()];
            let stats = [v.splat(self.stats[2 * r]), v.splat(self.stats[2 * r + 1])];
            if let Some(dweight) = &self.dweight {
                // SAFETY: each task has its own columns.
                let dweight = unsafe { dweight.part(self.columns.clone()) };
                map_all!(v, [x in x, d in dy], dweight, as sum, {
                    v.fma(d, hat(v, x, stats), sum)
                });
            }
            if let Some(dbias) = &self.dbias {
                // SAFETY: each task has its own columns.
                let dbias = unsafe { dbias.part(self.columns.clone()) };
                update!(v, dbias, dy, |sum, dy| v.add(sum, dy));
            }
        }
    }
}

#[cfg(test)]
mod tests;
