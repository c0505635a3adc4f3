//! The loss of an evaluation set, in constant memory, and what follows from it.

use std::time::Instant;

use crate::arguments::LossNormalization;
use crate::error::TrainError;
use crate::learner::{Examples, Learner, Row};
use crate::observer::Event;
use crate::passes::{Packing, Passes};
use crate::plan::Saving;
use crate::state::{entry, rounded};
use crate::trainer::{Session, Trainer};

impl<L: Learner> Session<'_, L> {
    /// The evaluation due after an update, with what follows from it.
    pub(crate) fn evaluate_here(&mut self) -> Result<(), TrainError> {
        self.state.resume.evaluation_pending = true;
        let Some(loss) = self.evaluate()? else {
            return Ok(());
        };
        self.state.resume.evaluation_pending = false;
        let is_best = self.state.judge(self.run.plan, loss);
        if is_best && self.run.plan.saving == Saving::Best {
            self.save()?;
        }
        Ok(())
    }

    /// `None` where it was interrupted.
    pub(crate) fn evaluate(&mut self) -> Result<Option<f64>, TrainError> {
        let Some(examples) = self.run.eval_examples else {
            return Ok(None);
        };
        let (arguments, began) = (&self.run.plan.arguments, Instant::now());
        let (total, batch_size) = (examples.len(), arguments.per_device_eval_batch_size);
        let Trainer {
            learner,
            observer,
            stop,
            ..
        } = &mut self.run;
        let max_tokens = arguments.max_tokens_per_pass;
        let evaluated = eval_loss(&**learner, examples, batch_size, max_tokens, |done| {
            observer.on(Event::Evaluating { done, total });
            stop.requested().is_none()
        })?;
        let Some(loss) = evaluated else {
            return Ok(None);
        };
        let (loss, runtime) = (loss.unwrap_or(f64::NAN), began.elapsed().as_secs_f64());
        let batches = total.div_ceil(batch_size) as f64;
        self.log(entry([
            ("eval_loss", loss),
            ("eval_runtime", rounded(runtime, 4)),
            (
                "eval_samples_per_second",
                rounded(total as f64 / runtime, 3),
            ),
            ("eval_steps_per_second", rounded(batches / runtime, 3)),
        ]));
        Ok(Some(loss))
    }
}

/// `eval_loss` as the Trainer defines it: the token mean of each batch, then the mean of those over
/// the batches' rows. Batches without a finite mean are left out; `None` where none is left.
///
/// * `going`: told the rows done before each batch; false gives up.
///
/// Returns `None` in the outer option where it was given up.
///
/// # Errors
/// A row that cannot be read, or a failure of the model.
fn eval_loss<L: Learner>(
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
    let packing = Packing {
        normalization: LossNormalization::Tokens,
        max_tokens,
        counts_first: learner.counts_first_label(),
        shares_prefixes: learner.shares_prefixes(false),
    };
    let work = Passes::new(&[rows], packing);
    let mut sum = 0.0;
    for pass in &work.passes {
        let losses = learner.losses(&pass.batch)?;
        sum += pass.weighted(&losses);
    }
    Ok((work.num_items > 0).then_some(sum))
}
