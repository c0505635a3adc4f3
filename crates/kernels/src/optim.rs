//! `AdamW` (Loshchilov & Hutter 2019, arXiv:1711.05101), in the arithmetic of torch's fused CPU kernel:
//! coefficients in f64, elements in f32.

use crate::Context;
use crate::share::{SharedSlice, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch};
use std::ops::Range;

/// One step's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, after the bias correction.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Updates including this one, from 1.
    pub step: u64,
    /// Multiplies the gradient first.
    pub grad_scale: f32,
}

/// One parameter and its moments, of equal length.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// The values.
    pub value: &'a mut [f32],
    /// First moment.
    pub m: &'a mut [f32],
    /// Second moment.
    pub v: &'a mut [f32],
}

/// One step of every element.
///
/// # Panics
/// When lengths differ.
pub fn adamw(context: &Context, parameter: Parameter<'_>, gradient: &[f32], settings: AdamW) {
    let size = gradient.len();
    let Parameter { value, m, v } = parameter;
    assert!(
        value.len() == size && m.len() == size && v.len() == size,
        "a parameter of {} with moments of {} and {}, gradient of {size}",
        value.len(),
        m.len(),
        v.len()
    );
    let shared = [value, m, v].map(SharedSlice::new);
    in_ranges(context, size, 1, LANES, |range| {
        dispatch(
            context.isa,
            Step {
                shared,
                gradient,
                settings,
                range,
            },
        );
    });
}

struct Step<'a> {
    shared: [SharedSlice<'a>; 3],
    gradient: &'a [f32],
    settings: AdamW,
    range: Range<usize>,
}

/// The settings as the elements need them.
struct Coefficients<F> {
    keep: F,
    grad_scale: F,
    towards: F,
    beta2: F,
    fresh: F,
    root: F,
    eps: F,
    step_size: F,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let c = coefficients(v, self.settings);
        let gradient = &self.gradient[self.range.clone()];
        // SAFETY: each task has its own range.
        let [value, m1, m2] = self.shared.map(|s| unsafe { s.part(self.range.clone()) });
        for at in (0..gradient.len()).step_by(LANES) {
            let part = at..(at + LANES).min(gradient.len());
            let state = [
                v.load_part(&value[part.clone()], 0.0),
                v.load_part(&m1[part.clone()], 0.0),
                v.load_part(&m2[part.clone()], 0.0),
            ];
            let g = v.load_part(&gradient[part.clone()], 0.0);
            let [a, b, d] = step(v, &c, state, g);
            v.store_part(a, &mut value[part.clone()]);
            v.store_part(b, &mut m1[part.clone()]);
            v.store_part(d, &mut m2[part]);
        }
    }
}

#[inline(always)]
fn coefficients<V: Vector>(v: V, s: AdamW) -> Coefficients<V::F> {
    let correction1 = 1.0 - s.beta1.powf(s.step as f64);
    let correction2 = 1.0 - s.beta2.powf(s.step as f64);
    Coefficients {
        keep: v.splat((1.0 - s.learning_rate * s.weight_decay) as f32),
        grad_scale: v.splat(s.grad_scale),
        towards: v.splat((1.0 - s.beta1) as f32),
        beta2: v.splat(s.beta2 as f32),
        fresh: v.splat((1.0 - s.beta2) as f32),
        root: v.splat(correction2.sqrt() as f32),
        eps: v.splat(s.eps as f32),
        step_size: v.splat((s.learning_rate / correction1) as f32),
    }
}

/// `[value, m, v]` after the step.
#[inline(always)]
fn step<V: Vector>(
    v: V,
    c: &Coefficients<V::F>,
    [value, m, second]: [V::F; 3],
    g: V::F,
) -> [V::F; 3] {
    let g = v.mul(g, c.grad_scale);
    let value = v.mul(value, c.keep);
    // torch's lerp; with 1 - beta1 below 1/2 it starts from m.
    let m = v.fma(c.towards, v.sub(g, m), m);
    let second = v.add(v.mul(second, c.beta2), v.mul(v.mul(c.fresh, g), g));
    // torch adds eps after dividing by sqrt(correction2); the textbook order drifts by about an ulp a step.
    let denominator = v.add(v.div(v.sqrt(second), c.root), c.eps);
    let value = v.sub(value, v.div(v.mul(c.step_size, m), denominator));
    [value, m, second]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn steps_follow_the_formula_in_f64_with_the_same_bits_everywhere() {
        let settings = |step| AdamW {
            learning_rate: 3e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            step,
            grad_scale: 0.7,
        };
        let size = 37;
        let start: Vec<f32> = (0..size).map(|i| (i as f32 * 0.7).sin()).collect();
        let gradient = |step: u64, i: usize| ((step as f32) * 1.3 + i as f32 * 0.31).cos();
        let mut results: Vec<Vec<u32>> = Vec::new();
        for isa in Isa::available() {
            let context = Context::new(Some(2), Some(isa));
            let mut value = start.clone();
            let (mut m, mut v) = (vec![0.0; size], vec![0.0; size]);
            for t in 1..=20 {
                let g: Vec<f32> = (0..size).map(|i| gradient(t, i)).collect();
                let parameter = Parameter {
                    value: &mut value,
                    m: &mut m,
                    v: &mut v,
                };
                adamw(&context, parameter, &g, settings(t));
            }
            results.push(value.iter().map(|x| x.to_bits()).collect());
            for i in 0..size {
                let want = in_f64(f64::from(start[i]), 20, |t| {
                    f64::from(gradient(t, i)) * f64::from(0.7f32)
                });
                // Twenty steps, each rounded a few times at size 1.
                assert!((f64::from(value[i]) - want).abs() < 2e-6, "{isa:?} {i}");
            }
        }
        assert!(results.iter().all(|bits| bits == &results[0]));
    }

    #[test]
    fn tiny_gradients_are_held_back_by_eps_and_what_is_not_finite_stays_in_its_element() {
        let settings = AdamW {
            learning_rate: 1.0,
            beta1: 0.0,
            beta2: 0.0,
            eps: 1e-8,
            weight_decay: 0.0,
            step: 1,
            grad_scale: 1.0,
        };
        // Of each moment the gradient alone: a step of g / (|g| + eps).
        let odd = [1e-8, -3e-8, 0.0, 1e-40, f32::NAN, f32::INFINITY, 1.0];
        let gradient: Vec<f32> = odd.iter().cycle().take(41).copied().collect();
        for isa in Isa::available() {
            let context = Context::new(Some(2), Some(isa));
            let [mut value, mut m, mut v] = [(); 3].map(|()| vec![0.0; 41]);
            let parameter = Parameter {
                value: &mut value,
                m: &mut m,
                v: &mut v,
            };
            adamw(&context, parameter, &gradient, settings);
            for (value, g) in value.iter().zip(&gradient) {
                let want = -g / (g.abs() + 1e-8);
                let is_same = value.is_nan() && want.is_nan() || (value - want).abs() < 1e-6;
                assert!(
                    is_same,
                    "{isa:?}: {value} after a gradient of {g}, want {want}"
                );
            }
        }
    }

    fn in_f64(mut p: f64, steps: u64, gradient: impl Fn(u64) -> f64) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for t in 1..=steps {
            let g = gradient(t);
            p *= 1.0 - 3e-3 * 0.1;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let root = (v / (1.0 - 0.999f64.powf(t as f64))).sqrt();
            p -= 3e-3 * (m / (1.0 - 0.9f64.powf(t as f64))) / (root + 1e-8);
        }
        p
    }
}
