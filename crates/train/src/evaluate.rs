//! The loss of an evaluation set, in constant memory.

use crate::arguments::LossNormalization;
use crate::error::TrainError;
use crate::learner::{Examples, Learner, Row};
use crate::passes::Passes;

/// `eval_loss` as the Trainer defines it: the token mean of each batch, then the mean of those over
/// the batches' rows. Batches without a finite mean are left out; `None` where none is left.
///
/// * `going`: told the rows done before each batch; false gives up.
///
/// Returns `None` in the outer option where it was given up.
///
/// # Errors
/// A row that cannot be read, or a failure of the model.
pub(crate) fn eval_loss<L: Learner>(
    learner: &L,
    examples: &dyn Examples,
    batch_size: usize,
    max_tokens: usize,
    mut going: impl FnMut(usize) -> bool,
) -> Result<Option<Option<f64>>, TrainError> {
    let (mut sum, mut rows_counted) = (0.0, 0usize);
    for first in (0..examples.len()).step_by(batch_size) {
        if !going(first) {
            return Ok(None);
        }
        let end = (first + batch_size).min(examples.len());
        let rows: Vec<Row> = (first..end)
            .map(|index| examples.example(index))
            .collect::<Result<_, _>>()?;
        let mean = batch_loss(learner, rows, max_tokens)?;
        if let Some(mean) = mean.filter(|mean| mean.is_finite()) {
            sum += mean * (end - first) as f64;
            rows_counted += end - first;
        }
    }
    Ok(Some((rows_counted > 0).then(|| sum / rows_counted as f64)))
}

fn batch_loss<L: Learner>(
    learner: &L,
    rows: Vec<Row>,
    max_tokens: usize,
) -> Result<Option<f64>, TrainError> {
    let work = Passes::new(
        &[rows],
        LossNormalization::Tokens,
        max_tokens,
        learner.counts_first_label(),
    );
    let mut sum = 0.0;
    for pass in &work.passes {
        let losses = learner.losses(&pass.batch)?;
        sum += pass.weighted(&losses);
    }
    Ok((work.num_items > 0).then_some(sum))
}
