//! From what was asked to what will be done: every value settled, every combination without effect
//! refused.

use crate::arguments::{
    IntervalStrategy, LossNormalization, SamplingStrategy, SaveStrategy, TrainingArguments,
};
use crate::error::{Problem, TrainError};
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

struct Check<'a> {
    arguments: &'a TrainingArguments,
    problems: Vec<Problem>,
    notices: Vec<String>,
}

impl Check<'_> {
    fn wrong(&mut self, name: &str, message: impl Into<String>, mend: &str) {
        self.problems
            .push(Problem::new(name, message.into()).mend(mend));
    }

    fn require(&mut self, holds: bool, name: &str, wants: &str, found: f64) {
        if !holds {
            self.problems.push(Problem::new(
                name,
                format!("must be {wants}: found {found}"),
            ));
        }
    }

    fn ranges(&mut self) {
        let a = self.arguments;
        let sizes = [
            ("per_device_train_batch_size", a.per_device_train_batch_size),
            ("per_device_eval_batch_size", a.per_device_eval_batch_size),
            ("gradient_accumulation_steps", a.gradient_accumulation_steps),
            ("max_tokens_per_pass", a.max_tokens_per_pass),
        ];
        for (name, size) in sizes {
            self.require(
                (1..=1 << 32).contains(&size),
                name,
                "1 or more",
                size as f64,
            );
        }
        for (name, beta) in [("adam_beta1", a.adam_beta1), ("adam_beta2", a.adam_beta2)] {
            self.require(
                (0.0..1.0).contains(&beta),
                name,
                "0 or more and below 1",
                beta,
            );
        }
        let not_negative = [
            ("adam_epsilon", a.adam_epsilon),
            ("weight_decay", a.weight_decay),
            ("max_grad_norm", a.max_grad_norm),
            ("warmup_steps", a.warmup_steps),
            ("eval_delay", a.eval_delay),
            ("early_stopping_threshold", a.early_stopping_threshold),
        ];
        for (name, value) in not_negative {
            self.require(value >= 0.0, name, "0 or more", value);
        }
        self.require(
            a.learning_rate > 0.0,
            "learning_rate",
            "above 0",
            a.learning_rate,
        );
        let smoothing = a.label_smoothing_factor;
        let in_range = (0.0..1.0).contains(&smoothing);
        self.require(
            in_range,
            "label_smoothing_factor",
            "0 or more and below 1",
            smoothing,
        );
    }

    fn evaluation(&mut self, eval_examples: Option<usize>) {
        let a = self.arguments;
        let evaluates = a.eval_strategy != IntervalStrategy::No;
        let wants_data = evaluates || a.eval_on_start;
        let name = if evaluates {
            "eval_strategy"
        } else {
            "eval_on_start"
        };
        match eval_examples {
            None if wants_data => self.wrong(name, "needs an evaluation set", "give one"),
            Some(0) => self.wrong(
                name,
                "needs rows: the evaluation set is empty",
                "give another",
            ),
            Some(_) if !wants_data => self.wrong(
                "eval_strategy",
                "is `no`, so the evaluation set has no effect",
                "set eval_strategy to steps or epoch",
            ),
            _ => {}
        }
        if a.eval_steps.is_some() && a.eval_strategy != IntervalStrategy::Steps {
            let message = format!(
                "has no effect with eval_strategy `{}`",
                a.eval_strategy.as_str()
            );
            self.wrong("eval_steps", message, "set eval_strategy to steps");
        }
        if a.eval_delay > 0.0 && !evaluates {
            self.wrong(
                "eval_delay",
                "has no effect without evaluations",
                "set eval_strategy",
            );
        }
        let deciding = [
            ("load_best_model_at_end", a.load_best_model_at_end),
            ("metric_for_best_model", a.metric_for_best_model.is_some()),
            (
                "early_stopping_patience",
                a.early_stopping_patience.is_some(),
            ),
            ("save_strategy", a.save_strategy == SaveStrategy::Best),
        ];
        for (name, asked) in deciding {
            if asked && !evaluates {
                self.wrong(name, "needs evaluations to compare", "set eval_strategy");
            }
        }
        self.metric();
    }

    fn metric(&mut self) {
        let a = self.arguments;
        if let Some(metric) = &a.metric_for_best_model
            && metric != "loss"
            && metric != "eval_loss"
        {
            let message = format!("can only be `loss`, the one metric there is: found `{metric}`");
            self.problems
                .push(Problem::new("metric_for_best_model", message));
        }
        let compares = self.compares();
        if a.greater_is_better.is_some() && !compares {
            let message = "has no effect, nothing compares evaluations";
            self.wrong(
                "greater_is_better",
                message,
                "set metric_for_best_model or remove it",
            );
        }
        if a.early_stopping_patience == Some(0) {
            self.require(false, "early_stopping_patience", "1 or more", 0.0);
        }
        if a.early_stopping_threshold > 0.0 && a.early_stopping_patience.is_none() {
            let message = "has no effect without early_stopping_patience";
            self.wrong(
                "early_stopping_threshold",
                message,
                "set early_stopping_patience",
            );
        }
    }

    /// Whether evaluations are compared. The Trainer's `save_strategy: best` silently saves nothing
    /// without a metric; here it implies one.
    fn compares(&self) -> bool {
        let a = self.arguments;
        a.load_best_model_at_end
            || a.metric_for_best_model.is_some()
            || a.early_stopping_patience.is_some()
            || a.save_strategy == SaveStrategy::Best
    }

    fn saving(&mut self) {
        let a = self.arguments;
        let usual = TrainingArguments::default();
        let strategy = a.save_strategy;
        if a.save_steps != usual.save_steps && strategy != SaveStrategy::Steps {
            let message = format!("has no effect with save_strategy `{}`", strategy.as_str());
            self.wrong("save_steps", message, "set save_strategy to steps");
        }
        if strategy == SaveStrategy::No {
            for (name, asked) in [
                ("save_total_limit", a.save_total_limit.is_some()),
                ("save_only_model", a.save_only_model),
            ] {
                if asked {
                    self.wrong(
                        name,
                        "has no effect with save_strategy `no`",
                        "set save_strategy",
                    );
                }
            }
        }
        if a.save_total_limit == Some(0) {
            self.require(false, "save_total_limit", "1 or more", 0.0);
        }
        if a.save_only_model && a.resume_from_checkpoint.is_some() {
            self.notices
                .push("checkpoints of this run cannot be resumed (save_only_model)".into());
        }
        if a.load_best_model_at_end {
            self.best_checkpoint();
        }
    }

    /// The Trainer's own rule: the best evaluation must fall on a checkpoint.
    fn best_checkpoint(&mut self) {
        let a = self.arguments;
        let (save, eval) = (a.save_strategy, a.eval_strategy);
        if save == SaveStrategy::Best {
            return;
        }
        if save.as_str() != eval.as_str() {
            let message = format!(
                "needs eval_strategy and save_strategy to agree (or save_strategy `best`): found `{}` and `{}`",
                eval.as_str(),
                save.as_str()
            );
            self.problems
                .push(Problem::new("load_best_model_at_end", message));
            return;
        }
        let eval_steps = a.eval_steps.unwrap_or(a.logging_steps);
        let both_shares = a.save_steps < 1.0 && eval_steps < 1.0;
        let both_counts = a.save_steps >= 1.0 && eval_steps >= 1.0;
        // In millionths, as the Trainer does, since 0.3 is not three times 0.1.
        let scale = if both_shares { 1e6 } else { 1.0 };
        let multiple = (a.save_steps * scale).round() % (eval_steps * scale).round() == 0.0;
        if save == SaveStrategy::Steps && !(multiple && (both_shares || both_counts)) {
            let message = format!(
                "needs save_steps to be a multiple of eval_steps: found {} and {eval_steps}",
                a.save_steps
            );
            self.problems
                .push(Problem::new("load_best_model_at_end", message));
        }
    }

    fn steps(&mut self, examples: usize) -> Option<Steps> {
        let a = self.arguments;
        let (size, accumulation) = (a.per_device_train_batch_size, a.gradient_accumulation_steps);
        let steps = Steps::new(examples, size, accumulation, a.dataloader_drop_last);
        if steps.is_none() && size > 0 && accumulation > 0 {
            if examples == 0 {
                self.wrong(
                    "dataset",
                    "has no rows to learn from",
                    "give another data set",
                );
            } else {
                let message =
                    format!("leaves nothing of {examples} rows in micro-batches of {size}");
                self.wrong(
                    "dataloader_drop_last",
                    message,
                    "lower per_device_train_batch_size",
                );
            }
        }
        steps
    }

    fn settle(&mut self, steps: Steps) -> Option<Plan> {
        let a = self.arguments;
        let (max_steps, num_train_epochs) = self.length(steps)?;
        let warmup_steps = self.warmup(max_steps);
        let schedule = Schedule::new(
            a.lr_scheduler_type,
            &a.lr_scheduler_kwargs,
            a.learning_rate,
            warmup_steps,
            max_steps,
        )
        .map_err(|problem| self.problems.push(problem))
        .ok()?;
        let logging = self.interval(
            "logging_steps",
            a.logging_strategy,
            a.logging_steps,
            max_steps,
        );
        let eval_steps = a.eval_steps.unwrap_or(a.logging_steps);
        let evaluation = self.interval("eval_steps", a.eval_strategy, eval_steps, max_steps);
        let save_at = match a.save_strategy {
            SaveStrategy::No | SaveStrategy::Best => IntervalStrategy::No,
            SaveStrategy::Steps => IntervalStrategy::Steps,
            SaveStrategy::Epoch => IntervalStrategy::Epoch,
        };
        let saving = match a.save_strategy {
            SaveStrategy::Best => Saving::Best,
            _ => Saving::At(self.interval("save_steps", save_at, a.save_steps, max_steps)),
        };
        self.sampling();
        self.note(logging, saving, max_steps);
        let best = self.compares().then(|| Best {
            greater: a.greater_is_better.unwrap_or(false),
            patience: a.early_stopping_patience,
            threshold: a.early_stopping_threshold,
        });
        Some(Plan {
            steps,
            max_steps,
            num_train_epochs,
            schedule,
            logging,
            evaluation,
            eval_delay: a.eval_delay,
            saving,
            best,
            data_seed: a.data_seed.unwrap_or(a.seed),
            arguments: a.clone(),
            notices: Vec::new(),
        })
    }

    /// Updates and epochs of the run.
    fn length(&mut self, steps: Steps) -> Option<(u64, u64)> {
        let a = self.arguments;
        let per_epoch = steps.updates_per_epoch();
        if a.max_steps == -1 {
            let updates = (a.num_train_epochs * per_epoch as f64).ceil();
            let possible = (1.0..1e15).contains(&updates);
            self.require(possible, "num_train_epochs", "above 0", a.num_train_epochs);
            return possible.then_some((updates as u64, a.num_train_epochs.ceil() as u64));
        }
        if a.num_train_epochs != TrainingArguments::default().num_train_epochs {
            let message = "has no effect beside max_steps, which overrides it";
            self.wrong("num_train_epochs", message, "give one of the two");
        }
        self.require(
            a.max_steps > 0,
            "max_steps",
            "-1 or above 0",
            a.max_steps as f64,
        );
        let max_steps = u64::try_from(a.max_steps).ok().filter(|steps| *steps > 0)?;
        Some((max_steps, max_steps.div_ceil(per_epoch)))
    }

    fn warmup(&mut self, max_steps: u64) -> u64 {
        let a = self.arguments;
        let asked = match a.warmup_ratio {
            Some(_) if a.warmup_steps > 0.0 => {
                let message = "is the old name of a warm-up, and warmup_steps is given too";
                self.wrong("warmup_ratio", message, "give one of the two");
                return 0;
            }
            Some(ratio) if !(0.0..1.0).contains(&ratio) => {
                self.require(false, "warmup_ratio", "0 or more and below 1", ratio);
                return 0;
            }
            Some(ratio) => ratio,
            None => a.warmup_steps,
        };
        let name = if a.warmup_ratio.is_some() {
            "warmup_ratio"
        } else {
            "warmup_steps"
        };
        let steps = if asked >= 1.0 {
            asked as u64
        } else {
            (max_steps as f64 * asked).ceil() as u64
        };
        if asked >= 1.0 && asked.fract() != 0.0 {
            self.require(false, name, "a whole number, or a share below 1", asked);
        }
        if steps > max_steps {
            let message = format!("is a warm-up of {steps} updates in a run of {max_steps}");
            self.wrong(name, message, "make it shorter than the run");
        }
        if steps > 0 && a.lr_scheduler_type == crate::arguments::SchedulerType::Constant {
            let message = "has no effect with lr_scheduler_type `constant`";
            self.wrong(name, message, "use constant_with_warmup");
        }
        steps.min(max_steps)
    }

    fn interval(
        &mut self,
        name: &str,
        strategy: IntervalStrategy,
        steps: f64,
        max_steps: u64,
    ) -> Interval {
        match strategy {
            IntervalStrategy::No => Interval::Never,
            IntervalStrategy::Epoch => Interval::Epochs,
            IntervalStrategy::Steps => {
                let possible = steps > 0.0 && (steps < 1.0 || steps.fract() == 0.0);
                self.require(
                    possible,
                    name,
                    "a whole number, or a share above 0 and below 1",
                    steps,
                );
                let every = if steps < 1.0 {
                    (max_steps as f64 * steps).ceil()
                } else {
                    steps
                };
                Interval::Steps((every as u64).max(1))
            }
        }
    }

    fn sampling(&mut self) {
        let a = self.arguments;
        if a.train_sampling_strategy == SamplingStrategy::Sequential && a.data_seed.is_some() {
            let message = "has no effect with train_sampling_strategy `sequential`";
            self.wrong("data_seed", message, "remove it");
        }
        let means = a.loss_normalization == LossNormalization::MeanOfMicroBatches;
        if means && a.gradient_accumulation_steps == 1 {
            let message = "is the same as `tokens` where an update is one micro-batch";
            self.wrong("loss_normalization", message, "remove it");
        }
    }

    fn note(&mut self, logging: Interval, saving: Saving, max_steps: u64) {
        if let Interval::Steps(every) = logging
            && every > max_steps
        {
            self.notices.push(format!(
                "no loss is logged: logging_steps is {every}, the run has {max_steps} updates"
            ));
        }
        if let Saving::At(Interval::Steps(every)) = saving
            && every > max_steps
        {
            self.notices.push(format!(
                "only the last state is saved: save_steps is {every}, the run has {max_steps} updates"
            ));
        }
        if saving == Saving::At(Interval::Never) {
            self.notices
                .push("no checkpoint is saved: an interrupted run is lost".into());
        }
    }
}

#[cfg(test)]
mod tests;
