//! `LayerNorm` (Ba et al. 2016, arXiv:1607.06450) and `RMSNorm` (Zhang & Sennrich 2019, arXiv:1910.07467).

use super::grid::{Grid, dot};
use crate::shapes::Norm;

/// Per row (mean, 1/deviation); the mean is 0 for RMS.
pub(crate) fn statistics(norm: Norm, x: &Grid) -> Grid {
    let mut stats = Grid::zeros(x.rows, 2);
    let size = x.cols as f64;
    for r in 0..x.rows {
        let row = x.row(r);
        let (mean, eps) = match norm {
            Norm::Layer { eps } => (row.iter().sum::<f64>() / size, eps),
            Norm::Rms { eps } => (0.0, eps),
        };
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / size;
        let rstd = 1.0 / (variance + f64::from(eps)).sqrt();
        stats.row_mut(r).copy_from_slice(&[mean, rstd]);
    }
    stats
}

/// `(x - mean) · rstd`.
pub(crate) fn normalised(x: &Grid, stats: &Grid) -> Grid {
    let mut hat = x.clone();
    for r in 0..x.rows {
        let [mean, rstd] = [stats.row(r)[0], stats.row(r)[1]];
        hat.row_mut(r)
            .iter_mut()
            .for_each(|x| *x = (*x - mean) * rstd);
    }
    hat
}

/// `x̂ · weight + bias`.
pub(crate) fn norm(x: &Grid, stats: &Grid, weight: &[f64], bias: Option<&[f64]>) -> Grid {
    let mut y = normalised(x, stats);
    for r in 0..y.rows {
        for (c, y) in y.row_mut(r).iter_mut().enumerate() {
            *y = *y * weight[c] + bias.map_or(0.0, |bias| bias[c]);
        }
    }
    y
}

/// `rstd · (g - mean(g) - x̂·mean(g·x̂))` with `g = dy·weight`; RMS has no mean to subtract.
pub(crate) fn backward(norm: Norm, x: &Grid, stats: &Grid, weight: &[f64], dy: &Grid) -> Grid {
    let hat = normalised(x, stats);
    let mut dx = dy.clone();
    let size = x.cols as f64;
    for r in 0..x.rows {
        let g: Vec<f64> = dy.row(r).iter().zip(weight).map(|(d, w)| d * w).collect();
        let along = dot(&g, hat.row(r)) / size;
        let mean = match norm {
            Norm::Layer { .. } => g.iter().sum::<f64>() / size,
            Norm::Rms { .. } => 0.0,
        };
        let rstd = stats.row(r)[1];
        for (c, dx) in dx.row_mut(r).iter_mut().enumerate() {
            *dx = rstd * (g[c] - mean - hat.row(r)[c] * along);
        }
    }
    dx
}
