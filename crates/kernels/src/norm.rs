//! Layer and RMS normalisation of rows, and their gradients.
//!
//! `LayerNorm`: Ba et al. 2016, arXiv:1607.06450; `RMSNorm`: Zhang & Sennrich 2019, arXiv:1910.07467. Knows no
//! dtype but f32. The variance is taken about the mean in a second pass over the row, which is in
//! cache by then, so that nothing cancels.

use crate::share::{SharedMat, SharedSlice, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch};
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
            scale_row(v, x, mean, rstd, self.weight, self.bias, y);
        }
    }
}

#[inline(always)]
fn statistics<V: Vector>(v: V, norm: Norm, x: &[f32]) -> (f32, f32) {
    let size = x.len() as f32;
    let mean = if norm.centred {
        reduce(v, x, |sum, x| v.add(sum, x)) / size
    } else {
        0.0
    };
    let centre = v.splat(mean);
    let variance = reduce_filled(v, x, mean, |sum, x| {
        let d = v.sub(x, centre);
        v.fma(d, d, sum)
    }) / size;
    (mean, 1.0 / (variance + norm.eps).sqrt())
}

#[inline(always)]
fn reduce<V: Vector>(v: V, x: &[f32], f: impl Fn(V::F, V::F) -> V::F) -> f32 {
    reduce_filled(v, x, 0.0, f)
}

/// Two running vectors, added at the end; a short tail is filled up with `fill`.
#[inline(always)]
fn reduce_filled<V: Vector>(v: V, x: &[f32], fill: f32, f: impl Fn(V::F, V::F) -> V::F) -> f32 {
    let (pairs, rest) = x.as_chunks::<{ 2 * LANES }>();
    let (mut even, mut odd) = (v.zero(), v.zero());
    for pair in pairs {
        let (halves, _) = pair.as_chunks::<LANES>();
        even = f(even, v.load(&halves[0]));
        odd = f(odd, v.load(&halves[1]));
    }
    let (whole, tail) = rest.as_chunks::<LANES>();
    if let Some(whole) = whole.first() {
        even = f(even, v.load(whole));
    }
    if !tail.is_empty() {
        odd = f(odd, v.load_part(tail, fill));
    }
    v.sum(v.add(even, odd))
}

#[inline(always)]
fn scale_row<V: Vector>(
    v: V,
    x: &[f32],
    mean: f32,
    rstd: f32,
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let (mean, rstd) = (v.splat(mean), v.splat(rstd));
    crate::vector::map2(v, x, weight, y, |x, w| {
        v.mul(v.mul(v.sub(x, mean), rstd), w)
    });
    if let Some(bias) = bias {
        crate::vector::update(v, y, bias, |y, b| v.add(y, b));
    }
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
        let (x, dy) = (self.x.row(r), self.dy.row(r));
        let [mean, rstd] = [self.stats[2 * r], self.stats[2 * r + 1]];
        let (centre, spread) = (v.splat(mean), v.splat(rstd));
        let hat = |x: V::F| v.mul(v.sub(x, centre), spread);
        let (mut total, mut along) = (v.zero(), v.zero());
        triples(v, x, dy, self.weight, |x, dy, w| {
            let g = v.mul(dy, w);
            total = v.add(total, g);
            along = v.fma(g, hat(x), along);
        });
        let size = x.len() as f32;
        let total = if self.norm.centred {
            v.sum(total) / size
        } else {
            0.0
        };
        let (total, along) = (v.splat(total), v.splat(v.sum(along) / size));
        let mut at = 0;
        triples(v, x, dy, self.weight, |x, dy, w| {
            let g = v.sub(v.mul(dy, w), total);
            let d = v.mul(spread, v.sub(g, v.mul(hat(x), along)));
            let end = (at + LANES).min(dx.len());
            let to = &mut dx[at..end];
            let d = if self.add {
                v.add(d, v.load_part(to, 0.0))
            } else {
                d
            };
            v.store_part(d, to);
            at = end;
        });
    }
}

/// Calls `f` with every sixteen elements of three rows of equal length.
#[inline(always)]
fn triples<V: Vector>(v: V, a: &[f32], b: &[f32], c: &[f32], mut f: impl FnMut(V::F, V::F, V::F)) {
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    let (c, c_tail) = c.as_chunks::<LANES>();
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        f(v.load(a), v.load(b), v.load(c));
    }
    if !a_tail.is_empty() {
        // Filled up with zeros, dy and weight add nothing to a sum.
        f(
            v.load_part(a_tail, 0.0),
            v.load_part(b_tail, 0.0),
            v.load_part(c_tail, 0.0),
        );
    }
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
            let mean = v.splat(self.stats[2 * r]);
            let rstd = v.splat(self.stats[2 * r + 1]);
            if let Some(dweight) = &self.dweight {
                // SAFETY: each task has its own columns.
                let dweight = unsafe { dweight.part(self.columns.clone()) };
                accumulate(v, x, dy, dweight, |x, dy, sum| {
                    v.fma(dy, v.mul(v.sub(x, mean), rstd), sum)
                });
            }
            if let Some(dbias) = &self.dbias {
                // SAFETY: each task has its own columns.
                let dbias = unsafe { dbias.part(self.columns.clone()) };
                crate::vector::update(v, dbias, dy, |sum, dy| v.add(sum, dy));
            }
        }
    }
}

#[inline(always)]
fn accumulate<V: Vector>(
    v: V,
    x: &[f32],
    dy: &[f32],
    sums: &mut [f32],
    f: impl Fn(V::F, V::F, V::F) -> V::F,
) {
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (dy, dy_tail) = dy.as_chunks::<LANES>();
    let (sums, sums_tail) = sums.as_chunks_mut::<LANES>();
    for ((x, dy), sum) in x.iter().zip(dy).zip(sums) {
        let value = f(v.load(x), v.load(dy), v.load(sum));
        v.store(value, sum);
    }
    if !sums_tail.is_empty() {
        let value = f(
            v.load_part(x_tail, 0.0),
            v.load_part(dy_tail, 0.0),
            v.load_part(sums_tail, 0.0),
        );
        v.store_part(value, sums_tail);
    }
}

#[cfg(test)]
mod tests;
