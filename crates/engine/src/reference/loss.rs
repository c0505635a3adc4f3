//! Cross-entropy of one row of logits, with label smoothing as torch has it.

use super::attention::log_sum_exp;

/// `(1-ε)·(lse - logits[target]) + ε·mean_v(lse - logits[v])`.
pub(crate) fn loss(logits: &[f64], target: usize, smoothing: f64) -> f64 {
    let lse = log_sum_exp(logits);
    let plain = lse - logits[target];
    if smoothing == 0.0 {
        // 0 · inf would poison the sum where a logit is -inf.
        return plain;
    }
    let mean = logits.iter().sum::<f64>() / logits.len() as f64;
    (1.0 - smoothing) * plain + smoothing * (lse - mean)
}

/// `weight · (softmax - (1-ε)·onehot - ε/V)`.
pub(crate) fn gradient(logits: &[f64], target: usize, smoothing: f64, weight: f64) -> Vec<f64> {
    let lse = log_sum_exp(logits);
    let spread = smoothing / logits.len() as f64;
    let mut gradient: Vec<f64> = logits
        .iter()
        .map(|x| weight * ((x - lse).exp() - spread))
        .collect();
    gradient[target] -= weight * (1.0 - smoothing);
    gradient
}
