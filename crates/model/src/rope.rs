//! Cosines and sines of rotary embedding (Su et al. 2021, arXiv:2104.09864), as transformers tabulates them.

use engine::backend::Backend;
use engine::shapes::Span;

/// `[rows, 2·half]`: row p holds `cos(p·f_i)·scaling`, then `sin(p·f_i)·scaling`.
///
/// transformers keeps the frequencies and multiplies positions in f32: an f64 product would drift from it by
/// 1e-4 at position 2,000.
pub(crate) fn table<B: Backend>(
    backend: &B,
    inv_freq: &[f64],
    attention_scaling: f64,
    rows: usize,
) -> (B::Buf, Span) {
    let half = inv_freq.len();
    let scaling = attention_scaling as f32;
    let mut values = Vec::with_capacity(rows * 2 * half);
    for position in 0..rows {
        let angles = || {
            inv_freq
                .iter()
                .map(|frequency| position as f32 * *frequency as f32)
        };
        values.extend(angles().map(|angle| angle.cos() * scaling));
        values.extend(angles().map(|angle| angle.sin() * scaling));
    }
    (backend.upload(&values), Span::dense(rows, 2 * half))
}
