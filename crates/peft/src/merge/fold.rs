//! `W + scaling · B·A`, computed in f32, rounded once to the stored type.

use formats::Dtype;

use crate::plan::LoraTarget;

/// One delta with its factors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delta<'a> {
    /// Shapes, orientation, scaling.
    pub(crate) target: &'a LoraTarget,
    /// `[R, D]`.
    pub(crate) a: &'a [f32],
    /// `[O, R]`.
    pub(crate) b: &'a [f32],
}

/// Folds into a stored matrix `[O, D]` (or `[D, O]` for `Conv1D`). `None` when the type is no float or the sizes
/// do not fit. The sum over the rank runs in its order and then takes the scaling, as PEFT's
/// `get_delta_weight` does.
pub(crate) fn folded(weight: &[u8], dtype: Dtype, delta: Delta<'_>) -> Option<Vec<u8>> {
    let (rows, cols) = sides(delta.target);
    let row_bytes = cols.checked_mul(dtype.size_bytes())?;
    if weight.len() != rows.checked_mul(row_bytes)? || rows == 0 || cols == 0 {
        return None;
    }
    let (left, right) = factors(delta);
    let rank = delta.target.rank;
    if left.len() != rows.checked_mul(rank)? || right.len() != rank.checked_mul(cols)? {
        return None;
    }
    let mut out = vec![0; weight.len()];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows_each = rows.div_ceil(threads);
    let scaling = delta.target.scaling as f32;
    let chunks = out
        .chunks_mut(rows_each * row_bytes)
        .zip(weight.chunks(rows_each * row_bytes))
        .zip(left.chunks(rows_each * rank));
    // A row's value does not depend on the chunk it is in: the same bytes for any number of threads.
    std::thread::scope(|scope| {
        let started: Vec<_> = chunks
            .map(|((out, weight), left)| {
                let right = &right;
                scope.spawn(move || fold_rows(out, weight, dtype, left, right, cols, scaling))
            })
            .collect();
        let done = started
            .into_iter()
            .map(|thread| thread.join().ok().flatten());
        done.collect::<Option<Vec<()>>>()
    })?;
    Some(out)
}

/// Rows and columns of the stored matrix.
fn sides(target: &LoraTarget) -> (usize, usize) {
    if target.fan_in_fan_out {
        (target.in_features, target.out_features)
    } else {
        (target.out_features, target.in_features)
    }
}

/// `[rows, R]` and `[R, cols]` whose product is the delta as stored.
fn factors(delta: Delta<'_>) -> (Vec<f32>, Vec<f32>) {
    let Delta { target, a, b } = delta;
    if target.fan_in_fan_out {
        return (
            transposed(a, target.rank, target.in_features),
            transposed(b, target.out_features, target.rank),
        );
    }
    (b.to_vec(), a.to_vec())
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let at = |index: usize| values.get((index % rows) * cols + index / rows).copied();
    (0..values.len().min(rows * cols)).filter_map(at).collect()
}

fn fold_rows(
    out: &mut [u8],
    weight: &[u8],
    dtype: Dtype,
    left: &[f32],
    right: &[f32],
    cols: usize,
    scaling: f32,
) -> Option<()> {
    let row_bytes = cols * dtype.size_bytes();
    let rank = right.len() / cols;
    let (mut row, mut stored) = (vec![0.0; cols], vec![0.0; cols]);
    let rows = out.chunks_mut(row_bytes).zip(weight.chunks(row_bytes));
    for ((out, weight), factors) in rows.zip(left.chunks(rank)) {
        row.fill(0.0);
        for (factor, right) in factors.iter().zip(right.chunks(cols)) {
            for (sum, value) in row.iter_mut().zip(right) {
                *sum += factor * value;
            }
        }
        dtype.read_f32(weight, &mut stored)?;
        for (sum, weight) in row.iter_mut().zip(&stored) {
            *sum = weight + *sum * scaling;
        }
        dtype.write_f32(&row, out)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(fan_in_fan_out: bool) -> (LoraTarget, Vec<f32>, Vec<f32>, Vec<f32>) {
        let (rank, in_features, out_features) = (3, 5, 7);
        let target = LoraTarget {
            path: "h.0".into(),
            in_features,
            out_features,
            fan_in_fan_out,
            rank,
            scaling: 1.5,
        };
        let values = |key: u64, count: u64| {
            let draws = (0..count).map(|i| engine::shapes::uniform(key, i) - 0.5);
            draws.collect::<Vec<f32>>()
        };
        (target, values(1, 15), values(2, 21), values(3, 35))
    }

    /// The definition, element by element in f64.
    fn want(target: &LoraTarget, a: &[f32], b: &[f32], w: &[f32]) -> Vec<f64> {
        let (r, d, o) = (target.rank, target.in_features, target.out_features);
        let mut out: Vec<f64> = w.iter().map(|v| f64::from(*v)).collect();
        for (row, col) in (0..o).flat_map(|row| (0..d).map(move |col| (row, col))) {
            let sum: f64 = (0..r)
                .map(|k| f64::from(b[row * r + k]) * f64::from(a[k * d + col]))
                .sum();
            let index = if target.fan_in_fan_out {
                col * o + row
            } else {
                row * d + col
            };
            out[index] += sum * target.scaling;
        }
        out
    }

    #[test]
    fn folds_both_orientations_as_defined() {
        for fan_in_fan_out in [false, true] {
            let (target, a, b, w) = case(fan_in_fan_out);
            let delta = Delta {
                target: &target,
                a: &a,
                b: &b,
            };
            let got = folded(bytemuck::cast_slice(&w), Dtype::F32, delta).unwrap();
            let got = Dtype::F32.to_f32(&got).unwrap();
            let want = want(&target, &a, &b, &w);
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(want) {
                assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
            }
        }
    }

    #[test]
    fn rounds_once_to_the_stored_type() {
        let (target, a, b, w) = case(false);
        for dtype in [Dtype::BF16, Dtype::F16] {
            let stored = dtype.from_f32(&w).unwrap();
            let delta = Delta {
                target: &target,
                a: &a,
                b: &b,
            };
            let wide = dtype.to_f32(&stored).unwrap();
            let exact = folded(bytemuck::cast_slice(&wide), Dtype::F32, delta).unwrap();
            let exact = Dtype::F32.to_f32(&exact).unwrap();
            let got = folded(&stored, dtype, delta).unwrap();
            assert_eq!(got, dtype.from_f32(&exact).unwrap());
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let (target, a, b, w) = case(false);
        let bytes: &[u8] = bytemuck::cast_slice(&w);
        let short = Delta {
            target: &target,
            a: &a[1..],
            b: &b,
        };
        assert!(folded(bytes, Dtype::F32, short).is_none());
        let delta = Delta {
            target: &target,
            a: &a,
            b: &b,
        };
        assert!(folded(&bytes[4..], Dtype::F32, delta).is_none());
        assert!(folded(bytes, Dtype::I32, delta).is_none());
    }
}
