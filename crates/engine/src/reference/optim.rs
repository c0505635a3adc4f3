//! `AdamW` (Loshchilov & Hutter 2019, arXiv:1711.05101), in the order of `torch.optim.AdamW`.

use crate::shapes::AdamW;

/// One element's state: value and both moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element {
    pub(crate) parameter: f64,
    pub(crate) m: f64,
    pub(crate) v: f64,
}

/// One step of one element.
pub(crate) fn step(element: Element, gradient: f64, settings: AdamW) -> Element {
    let AdamW {
        learning_rate,
        beta1,
        beta2,
        eps,
        weight_decay,
        step,
        grad_scale,
    } = settings;
    let gradient = gradient * f64::from(grad_scale);
    let decayed = element.parameter * (1.0 - learning_rate * weight_decay);
    let m = element.m + (1.0 - beta1) * (gradient - element.m);
    let v = beta2 * element.v + (1.0 - beta2) * gradient * gradient;
    let correction1 = 1.0 - beta1.powf(step as f64);
    let correction2 = 1.0 - beta2.powf(step as f64);
    // torch adds eps after dividing by sqrt(correction2); the textbook order drifts by about an ulp a step.
    let denominator = v.sqrt() / correction2.sqrt() + eps;
    Element {
        parameter: decayed - learning_rate / correction1 * m / denominator,
        m,
        v,
    }
}
