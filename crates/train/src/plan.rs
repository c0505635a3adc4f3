//! From what was asked to what will be done: every value settled, every combination without effect
//! refused (or told, where recipes set one of the two beside the other as a habit).

mod check;
mod settle;

use self::check::Check;
use crate::arguments::TrainingArguments;
use crate::error::TrainError;
use crate::schedule::Schedule;
use crate::steps::Steps;

/// A run, settled. Its invariants hold by construction ([`Plan::new`]).
#[derive(Debug, Clone)]
pub struct Plan {
    /// Rows, micro-batches, updates.
    pub steps: Steps,
    /// Updates of the run.
    pub max_steps: u64,
    /// Epochs that the run touches.
    pub num_train_epochs: u64,
    /// Learning rates.
    pub schedule: Schedule,
    /// When to log.
    pub logging: Interval,
    /// When to evaluate.
    pub evaluation: Interval,
    /// Updates (for [`Interval::Epochs`]: epochs) before the first evaluation.
    pub eval_delay: f64,
    /// When to save.
    pub saving: Saving,
    /// Whether and how the best state is found; `None`: not at all.
    pub best: Option<Best>,
    /// Seed of the row order.
    pub data_seed: u64,
    /// The rest, as asked.
    pub arguments: TrainingArguments,
    /// What the user should know before the run, one line each.
    pub notices: Vec<String>,
}

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Never.
    Never,
    /// Every so many updates.
    Steps(u64),
    /// At the end of each epoch.
    Epochs,
}

/// When a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saving {
    /// At these times, and after the last update where they are updates.
    At(Interval),
    /// After an evaluation that is the best so far.
    Best,
}

/// How evaluations are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// Whether larger is better.
    pub greater: bool,
    /// Evaluations without improvement before the run ends.
    pub patience: Option<usize>,
    /// An improvement counts for [`Best::patience`] from here on.
    pub threshold: f64,
}

impl Interval {
    /// Whether it is time after `done` updates, of which the last did or did not end an epoch.
    pub fn is_due(self, done: u64, ends_epoch: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Steps(every) => done.is_multiple_of(every),
            Self::Epochs => ends_epoch,
        }
    }
}

impl Plan {
    /// Settles the arguments for data of `examples` rows, and `eval_examples` of evaluation data.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] with every problem found.
    pub fn new(
        arguments: &TrainingArguments,
        examples: usize,
        eval_examples: Option<usize>,
    ) -> Result<Self, TrainError> {
        let mut check = Check {
            arguments,
            problems: Vec::new(),
            notices: Vec::new(),
        };
        check.ranges();
        check.logging();
        check.evaluation(eval_examples);
        check.saving();
        let steps = check.steps(examples);
        let plan = steps.and_then(|steps| check.settle(steps));
        match plan {
            Some(plan) if check.problems.is_empty() => Ok(Self {
                notices: check.notices,
                ..plan
            }),
            _ => Err(TrainError::Arguments {
                problems: check.problems,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
