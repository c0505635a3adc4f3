//! The rank-R delta (Hu et al. 2021, arXiv:2106.09685, eq. 3) with dropout on its input.

use super::grid::Grid;
use crate::shapes::{Dropout, LoraShape};

/// Gradients of one delta.
pub(crate) struct LoraGradient {
    pub(crate) da: Grid,
    pub(crate) db: Grid,
    pub(crate) dx: Grid,
}

/// `x` with dropped elements at zero and kept ones scaled: linear, so also its own gradient.
pub(crate) fn dropped(x: &Grid, dropout: Option<Dropout>) -> Grid {
    let mut kept = x.clone();
    let Some(dropout) = dropout else {
        return kept;
    };
    let factor = 1.0 / (1.0 - f64::from(dropout.probability));
    for (i, value) in kept.values.iter_mut().enumerate() {
        *value = if dropout.keeps(i / x.cols, i % x.cols) {
            *value * factor
        } else {
            0.0
        };
    }
    kept
}

/// `dropout(x)·Aᵀ`.
pub(crate) fn reduced(x: &Grid, a: &Grid, shape: LoraShape) -> Grid {
    dropped(x, shape.dropout).times_transposed(a)
}

/// `scaling · xa·Bᵀ`.
pub(crate) fn delta(xa: &Grid, b: &Grid, shape: LoraShape) -> Grid {
    xa.times_transposed(b).scaled(f64::from(shape.scaling))
}

/// With `g = scaling·dy·B`: `da = gᵀ·dropout(x)`, `db = scaling·dyᵀ·xa`, `dx = dropout'(g·A)`.
pub(crate) fn backward(
    x: &Grid,
    xa: &Grid,
    dy: &Grid,
    a: &Grid,
    b: &Grid,
    shape: LoraShape,
) -> LoraGradient {
    let scaling = f64::from(shape.scaling);
    let g = dy.times(b).scaled(scaling);
    LoraGradient {
        da: g.transposed().times(&dropped(x, shape.dropout)),
        db: dy.transposed().times(xa).scaled(scaling),
        dx: dropped(&g.times(a), shape.dropout),
    }
}
