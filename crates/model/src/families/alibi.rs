//! `ALiBi` slopes (Press et al. 2021, arXiv:2108.12409) as BLOOM's `build_alibi_tensor` makes them.

/// One slope a head: a geometric row for the closest power of two below, then every second step of the next
/// power's row. Computed in f32 from an f32 base, as torch does: the slopes are parameters of the model.
pub(super) fn slopes(heads: usize) -> Vec<f32> {
    let closest = 1usize << heads.max(1).ilog2();
    let mut slopes = row(closest, 1, closest);
    let rest = closest.min(heads - closest);
    slopes.extend(row(2 * closest, 2, rest));
    slopes
}

/// `base^1, base^(1+step), …` with the base that belongs to `heads`, a power of two.
fn row(heads: usize, step: usize, count: usize) -> Vec<f32> {
    let base = (-(-((heads as f64).log2() - 3.0)).exp2()).exp2() as f32;
    let exponents = (0..count).map(|i| (1 + i * step) as f64);
    exponents
        .map(|exponent| f64::from(base).powf(exponent) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_eight_heads_halve() {
        let want: Vec<f32> = (1..=8).map(|i| 0.5f32.powi(i)).collect();
        assert_eq!(slopes(8), want);
    }

    #[test]
    fn slopes_of_twelve_heads_continue_with_odd_steps_of_sixteen() {
        let all = slopes(12);
        assert_eq!(all.len(), 12);
        assert_eq!(all[..8], slopes(8)[..]);
        let sixteen = slopes(16);
        assert_eq!(all[8..], [sixteen[0], sixteen[2], sixteen[4], sixteen[6]]);
    }
}
