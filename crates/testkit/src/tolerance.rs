//! How close two results are, and the words for it when they are not.

/// An element passes where `|got - want| <= abs + rel·|want|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tol {
    /// Absolute part.
    pub abs: f32,
    /// Part of the wanted value.
    pub rel: f32,
}

/// Distance of a whole tensor from the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Largest `|got - truth|`.
    pub max_abs: f64,
    /// `‖got - truth‖₂ / ‖truth‖₂`.
    pub rel: f64,
}

/// Measures `got` from `truth` as the goldens' `torch_bf16_from_f64` does.
///
/// # Panics
/// Where the lengths differ.
pub fn distance(got: &[f32], truth: &[f32]) -> Distance {
    assert_eq!(got.len(), truth.len(), "lengths of got and truth");
    let mut found = Distance {
        max_abs: 0.0,
        rel: 0.0,
    };
    let (mut gaps, mut sizes) = (0.0, 0.0);
    for (&got, &truth) in got.iter().zip(truth) {
        let gap = (f64::from(got) - f64::from(truth)).abs();
        // `max` would swallow a NaN; this keeps the first one
        if gap > found.max_abs || gap.is_nan() {
            found.max_abs = gap;
        }
        gaps += gap * gap;
        sizes += f64::from(truth) * f64::from(truth);
    }
    found.rel = gaps.sqrt() / sizes.sqrt().max(1e-30);
    found
}

/// Fails with name, index, got, want and ulps of the worst element where any is out of tolerance.
///
/// # Panics
/// That is what it is for.
pub fn assert_close(name: &str, got: &[f32], want: &[f32], tol: Tol) {
    if let Some(complaint) = complaint(name, got, want, &[], tol) {
        panic!("{complaint}");
    }
}

/// What is wrong with `got`, if anything; elements whose `skip` is not 0 are left out (`skip` may be empty).
pub(crate) fn complaint(
    name: &str,
    got: &[f32],
    want: &[f32],
    skip: &[u8],
    tol: Tol,
) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!(
            "`{name}`: {} elements, want {}",
            got.len(),
            want.len()
        ));
    }
    let (mut bad, mut worst, mut worst_at) = (0_usize, 0.0_f32, 0);
    for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
        let excess = (got - want).abs() / (tol.abs + tol.rel * want.abs());
        let fine = got == want || excess <= 1.0 || skip.get(at).is_some_and(|&skip| skip != 0);
        if !fine {
            bad += 1;
            let excess = if excess.is_nan() {
                f32::INFINITY
            } else {
                excess
            };
            (worst, worst_at) = if excess > worst {
                (excess, at)
            } else {
                (worst, worst_at)
            };
        }
    }
    let elements = got.len();
    (bad > 0).then(|| {
        let (got, want) = (got[worst_at], want[worst_at]);
        format!(
            "`{name}`: {bad} of {elements} elements off; worst at {worst_at}: got {got:e}, want {want:e}, {} ulps, {worst:.1} times the tolerance",
            ulps(got, want),
        )
    })
}

/// Steps between two floats along the line of all floats.
pub fn ulps(a: f32, b: f32) -> u64 {
    let place = |x: f32| {
        let bits = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -bits } else { bits }
    };
    place(a).abs_diff(place(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOL: Tol = Tol {
        abs: 1e-6,
        rel: 1e-4,
    };

    #[test]
    fn complaint_names_index_got_and_want() {
        let said = complaint("grad.x", &[1.0, 2.0, 3.0], &[1.0, 2.5, 3.0], &[], TOL)
            .expect("2.0 is not 2.5");
        assert!(
            said.contains("`grad.x`: 1 of 3") && said.contains("at 1: got 2e0, want 2.5e0"),
            "{said}"
        );
    }

    #[test]
    fn nan_is_never_close() {
        assert!(complaint("x", &[f32::NAN], &[0.0], &[], TOL).is_some());
        assert!(complaint("x", &[0.0], &[f32::NAN], &[], TOL).is_some());
        assert!(distance(&[f32::NAN, 1.0], &[0.0, 1.0]).max_abs.is_nan());
    }

    #[test]
    fn shorter_is_not_close_and_noise_is_skipped() {
        assert!(complaint("x", &[1.0], &[1.0, 1.0], &[], TOL).is_some());
        assert!(complaint("x", &[1.0, 9.0], &[1.0, 1.0], &[0, 1], TOL).is_none());
    }

    #[test]
    fn ulps_cross_zero() {
        assert_eq!(ulps(f32::from_bits(1), -f32::from_bits(1)), 2);
        assert_eq!(ulps(1.0, 1.0 + f32::EPSILON), 1);
    }
}
