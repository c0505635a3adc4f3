//! The loss of an evaluation set, in constant memory, and what follows from it.

use std::time::Instant;

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
        // Without a set, as where a resumed run left it out, none would ever be done, and no checkpoint saved.
        self.state.resume.evaluation_pending = self.run.eval_examples.is_some();
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

    /// `None` where it was interrupted, or there is no set.
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
        let packing = Packing {
            normalization: arguments.loss_normalization,
            max_tokens: arguments.max_tokens_per_pass,
            counts_first: learner.counts_first_label(),
            shares_prefixes: learner.shares_prefixes(false),
        };
        let batches = Batches {
            size: batch_size,
            drop_last: arguments.dataloader_drop_last,
            packing,
        };
        let evaluated = eval_loss(&**learner, examples, batches, |done| {
            observer.on(Event::Evaluating { done, total });
            stop.requested().is_none()
        })?;
        let Some(loss) = evaluated else {
            return Ok(None);
        };
        let (loss, runtime) = (loss.unwrap_or(f64::NAN), began.elapsed().as_secs_f64());
        let steps = total.div_ceil(batch_size) as f64;
        self.log(entry([
            ("eval_loss", loss),
            ("eval_runtime", rounded(runtime, 4)),
            (
                "eval_samples_per_second",
                rounded(total as f64 / runtime, 3),
            ),
            ("eval_steps_per_second", rounded(steps / runtime, 3)),
        ]));
        Ok(Some(loss))
    }
}

/// How an evaluation set is cut.
#[derive(Clone, Copy)]
struct Batches {
    size: usize,
    /// A last batch that is short is left out, as the Trainer's loaders do, this one too.
    drop_last: bool,
    packing: Packing,
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
    batches: Batches,
    mut going: impl FnMut(usize) -> bool,
) -> Result<Option<Option<f64>>, TrainError> {
    let (mut sum, mut rows_counted) = (0.0, 0usize);
    let all = examples.len();
    let short = if batches.drop_last {
        all % batches.size
    } else {
        0
    };
    let len = all - short;
    for first in (0..len).step_by(batches.size) {
        if !going(first) {
            return Ok(None);
        }
        let end = (first + batches.size).min(len);
        let rows: Vec<Row> = (first..end)
            .map(|index| examples.example(index))
            .collect::<Result<_, _>>()?;
        let mean = batch_loss(learner, rows, batches.packing)?;
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
    packing: Packing,
) -> Result<Option<f64>, TrainError> {
    let work = Passes::new(&[rows], packing);
    let mut sum = 0.0;
    for pass in &work.passes {
        let losses = learner.losses(&pass.batch)?;
        sum += pass.weighted(&losses);
    }
    Ok((work.num_items > 0).then_some(sum))
}
