//! The non-linearities and their derivatives, by their formulas.

use super::grid::Grid;
use crate::shapes::Activation;

const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

/// `f(x)`.
pub(crate) fn value(f: Activation, x: f64) -> f64 {
    match f {
        Activation::GeluTanh => 0.5 * x * (1.0 + inner(x).tanh()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::Silu => x * sigmoid(x),
        // NaN stays, so that the loss shows it.
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
    }
}

/// `f'(x)`; zero at the corner of ReLU, as torch has it.
pub(crate) fn derivative(f: Activation, x: f64) -> f64 {
    match f {
        Activation::GeluTanh => {
            let t = inner(x).tanh();
            let slope = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
        }
        Activation::Gelu => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * density
        }
        Activation::Silu => {
            let s = sigmoid(x);
            s * (1.0 + x * (1.0 - s))
        }
        Activation::Relu => f64::from(u8::from(x > 0.0)),
    }
}

/// `f(gate)·up` of `[T, 2I]`.
pub(crate) fn gated(f: Activation, gate_up: &Grid) -> Grid {
    let half = gate_up.cols / 2;
    let up = gate_up.columns(half, half);
    gate_up
        .columns(0, half)
        .zip(&up, |gate, up| value(f, gate) * up)
}

/// Gradient of [`gated`], `[T, 2I]`.
pub(crate) fn gated_backward(f: Activation, gate_up: &Grid, dy: &Grid) -> Grid {
    let half = gate_up.cols / 2;
    let mut gradient = Grid::zeros(gate_up.rows, gate_up.cols);
    for r in 0..gate_up.rows {
        let (gate, up) = gate_up.row(r).split_at(half);
        let (dgate, dup) = gradient.row_mut(r).split_at_mut(half);
        for i in 0..half {
            let dy = dy.row(r)[i];
            dgate[i] = derivative(f, gate[i]) * up[i] * dy;
            dup[i] = value(f, gate[i]) * dy;
        }
    }
    gradient
}

fn inner(x: f64) -> f64 {
    SQRT_2_OVER_PI * (x + CUBIC * x * x * x)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `2/√π · e^(-x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!` (Abramowitz & Stegun 7.1.6): every term has one sign, so it
/// loses nothing.
fn erf(x: f64) -> f64 {
    // erf(6) differs from 1 by 2e-17.
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-18 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_has_the_published_values() {
        // Abramowitz & Stegun table 7.1, and DLMF 7.
        for (x, want) in [
            (0.1, 0.112_462_916_018_284_9),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
        ] {
            // Some thirty terms, each rounded once: a few units of the last place.
            assert!((erf(x) - want).abs() < 1e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(f64::INFINITY), 1.0);
        assert!(erf(f64::NAN).is_nan());
    }
}
