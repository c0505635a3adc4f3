//! Cross-entropy of a chunk of logits, in place.
//!
//! A row is read three times while it is in cache: for its maximum, for its exponentials, which take its place where
//! the gradient is wanted, and for the gradient, which is made of them. Exponentials are summed in blocks of a
//! thousand in f32 and the blocks in f64, so a vocabulary of any size costs no accuracy.

use crate::share::{SharedMat, SharedSlice};
use crate::vector::{Kernel, LANES, Vector, dispatch, exp, reduce, update};
use crate::{Context, MatMut};

const BLOCK: usize = 1024;

/// What to compute for each row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy<'a> {
    /// Column of each row that is right.
    pub targets: &'a [u32],
    /// Multiplies each row's gradient.
    pub weights: &'a [f32],
    /// Share of the target spread over all columns.
    pub label_smoothing: f32,
    /// Replace the logits by `weight · ∂loss/∂logits`.
    pub gradient: bool,
}

/// `losses[r] = (1-ε)(lse - logits[target]) + ε·mean_v(lse - logits[v])`.
///
/// A row with NaN or +inf has the loss NaN; -inf is a column that cannot happen.
///
/// # Panics
/// When sizes do not fit, or a target is not a column.
pub fn cross_entropy(
    context: &Context,
    logits: MatMut<'_>,
    work: CrossEntropy<'_>,
    losses: &mut [f32],
) {
    let rows = logits.rows;
    assert!(
        work.targets.len() == rows && work.weights.len() == rows && losses.len() == rows,
        "{rows} rows of logits with {} targets, {} weights, {} losses",
        work.targets.len(),
        work.weights.len(),
        losses.len()
    );
    let (logits, losses) = (SharedMat::new(logits), SharedSlice::new(losses));
    context.threads.run(rows, |r| {
        // SAFETY: each task has its own row.
        let (row, loss) = unsafe { (logits.row(r), losses.part(r..r + 1)) };
        let kernel = Row {
            row,
            target: work.targets[r] as usize,
            weight: work.weights[r],
            work,
        };
        loss[0] = dispatch(context.isa, kernel);
    });
}

struct Row<'a> {
    row: &'a mut [f32],
    target: usize,
    weight: f32,
    work: CrossEntropy<'a>,
}

impl Kernel for Row<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> f32 {
        let highest = highest(v, self.row);
        let top = v.splat(highest);
        let smoothing = f64::from(self.work.label_smoothing);
        let size = self.row.len() as f64;
        let target = f64::from(self.row[self.target]);
        let mean = if smoothing > 0.0 {
            total(v, self.row) / size
        } else {
            0.0
        };
        let sum = if self.work.gradient {
            exponentiate(v, self.row, top)
        } else {
            exponentials(v, self.row, top)
        };
        let lse = f64::from(highest) + sum.ln();
        let mut loss = lse - target;
        if smoothing > 0.0 {
            loss = (1.0 - smoothing) * loss + smoothing * (lse - mean);
        }
        if self.work.gradient {
            self.differentiate(v, sum, smoothing / size);
        }
        loss as f32
    }
}

impl Row<'_> {
    /// From `e = exp(x - top)`: `weight · (e/sum - spread)`, and less `1 - ε` at the target.
    #[inline(always)]
    fn differentiate<V: Vector>(self, v: V, sum: f64, spread: f64) {
        let weight = f64::from(self.weight);
        let factor = v.splat((weight / sum) as f32);
        let spread = v.splat((-weight * spread) as f32);
        update!(v, self.row, |e| v.fma(e, factor, spread));
        let hit = weight * (1.0 - f64::from(self.work.label_smoothing));
        self.row[self.target] = (f64::from(self.row[self.target]) - hit) as f32;
    }
}

#[inline(always)]
fn highest<V: Vector>(v: V, row: &[f32]) -> f32 {
    let (lanes, tail) = row.as_chunks::<LANES>();
    let mut top = v.load_part(tail, f32::NEG_INFINITY);
    for x in lanes {
        top = v.max(v.load(x), top);
    }
    v.highest(top)
}

#[inline(always)]
fn exponentials<V: Vector>(v: V, row: &[f32], top: V::F) -> f64 {
    let mut total = 0.0;
    for block in row.chunks(BLOCK) {
        let sum = reduce!(v, block, f32::NEG_INFINITY, |sum, x| {
            v.add(sum, exp(v, v.sub(x, top)))
        });
        total += f64::from(sum);
    }
    total
}

/// The same sum, and every `x` replaced by its `exp(x - top)`.
#[inline(always)]
fn exponentiate<V: Vector>(v: V, row: &mut [f32], top: V::F) -> f64 {
    let mut total = 0.0;
    for block in row.chunks_mut(BLOCK) {
        update!(v, block, |x| exp(v, v.sub(x, top)));
        total += f64::from(reduce!(v, block, 0.0, |sum, e| v.add(sum, e)));
    }
    total
}

#[inline(always)]
fn total<V: Vector>(v: V, row: &[f32]) -> f64 {
    let mut total = 0.0;
    for block in row.chunks(BLOCK) {
        total += f64::from(reduce!(v, block, 0.0, |sum, x| v.add(sum, x)));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::elementwise::uniform;
    use proptest::prelude::*;

    fn run(context: &Context, logits: &[f32], rows: usize, smoothing: f32) -> (Vec<f32>, Vec<f32>) {
        let cols = logits.len() / rows;
        let targets: Vec<u32> = (0..rows).map(|r| (r * 31 % cols) as u32).collect();
        let weights: Vec<f32> = (0..rows).map(|r| 0.25 + r as f32).collect();
        let mut gradient = logits.to_vec();
        let mut losses = vec![9.0; rows];
        let work = CrossEntropy {
            targets: &targets,
            weights: &weights,
            label_smoothing: smoothing,
            gradient: true,
        };
        cross_entropy(
            context,
            MatMut::dense(&mut gradient, rows, cols),
            work,
            &mut losses,
        );
        (losses, gradient)
    }

    proptest! {
        #[test]
        fn losses_and_gradients_are_those_of_f64_in_the_same_bits_everywhere(
            rows in 1usize..4, cols in 1usize..2200, spread in 0.1f32..30.0, smooth: bool,
        ) {
            let logits: Vec<f32> = (0..rows * cols)
                .map(|i| spread * (uniform(3, i as u64) - 0.5))
                .collect();
            let smoothing = if smooth { 0.1f32 } else { 0.0 };
            let first = run(&Context::new(Some(1), Some(Isa::Scalar)), &logits, rows, smoothing);
            for isa in Isa::available() {
                prop_assert_eq!(&first, &run(&Context::new(Some(2), Some(isa)), &logits, rows, smoothing));
            }
            for r in 0..rows {
                let row = &logits[r * cols..][..cols];
                let target = r * 31 % cols;
                let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                let (lse, eps) = (sum.ln(), f64::from(smoothing));
                let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / cols as f64;
                let want = lse - (1.0 - eps) * f64::from(row[target]) - eps * mean;
                prop_assert!((f64::from(first.0[r]) - want).abs() <= 4e-7 * lse.abs().max(1.0));
                let weight = 0.25 + r as f64;
                for (c, x) in row.iter().enumerate() {
                    let hit = if c == target { 1.0 - eps } else { 0.0 };
                    let want = weight * (f64::from(*x).exp() / sum - eps / cols as f64 - hit);
                    let error = (f64::from(first.1[r * cols + c]) - want).abs();
                    prop_assert!(error <= 1e-6 * weight, "column {c}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_loss_has_the_same_bits_with_and_without_its_gradient() {
        let cols = 2 * BLOCK + 37;
        let logits: Vec<f32> = (0..2 * cols).map(|i| 9.0 * uniform(5, i as u64)).collect();
        for isa in Isa::available() {
            let context = Context::new(Some(1), Some(isa));
            let (want, _) = run(&context, &logits, 2, 0.1);
            let mut losses = vec![9.0; 2];
            let work = CrossEntropy {
                targets: &[0, 31],
                weights: &[1.0; 2],
                label_smoothing: 0.1,
                gradient: false,
            };
            let mut kept = logits.clone();
            let mat = MatMut::dense(&mut kept, 2, cols);
            cross_entropy(&context, mat, work, &mut losses);
            assert_eq!(losses, want, "{isa:?}");
            assert_eq!(kept, logits, "{isa:?}");
        }
    }

    #[test]
    fn minus_infinity_is_a_column_that_cannot_happen_and_nan_shows() {
        let context = Context::new(Some(1), None);
        let mut logits = vec![0.0; 40];
        logits[5] = f32::NEG_INFINITY;
        let (losses, gradient) = run(&context, &logits, 1, 0.0);
        assert!((losses[0] - 39f32.ln()).abs() < 1e-6);
        assert_eq!(gradient[5], 0.0);
        for bad in [f32::NAN, f32::INFINITY] {
            logits[38] = bad;
            assert!(run(&context, &logits, 1, 0.0).0[0].is_nan());
        }
    }
}
