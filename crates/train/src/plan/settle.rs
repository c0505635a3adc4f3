//! Arguments to numbers: updates, warm-up, intervals.

use super::check::Check;
use super::{Best, Interval, Plan, Saving};
use crate::arguments::{IntervalStrategy, LossNormalization, SamplingStrategy, SaveStrategy};
use crate::arguments::{SchedulerType, TrainingArguments};
use crate::schedule::Schedule;
use crate::steps::Steps;

/// Most epochs. Whatever rows fit a machine, these make fewer than 2^53 updates, which f64 still tells apart.
const MAX_EPOCHS: f64 = 1e6;

impl Check<'_> {
    pub(super) fn steps(&mut self, examples: usize) -> Option<Steps> {
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

    pub(super) fn settle(&mut self, steps: Steps) -> Option<Plan> {
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
    pub(super) fn length(&mut self, steps: Steps) -> Option<(u64, u64)> {
        let a = self.arguments;
        let per_epoch = steps.updates_per_epoch();
        if a.max_steps == -1 {
            let epochs = a.num_train_epochs;
            let possible = epochs > 0.0 && epochs <= MAX_EPOCHS;
            let wants = format!("above 0 and at most {MAX_EPOCHS}");
            self.require(possible, "num_train_epochs", &wants, epochs);
            let updates = (epochs * per_epoch as f64).ceil();
            return possible.then_some((updates as u64, epochs.ceil() as u64));
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

    pub(super) fn warmup(&mut self, max_steps: u64) -> u64 {
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
        if steps > 0 && a.lr_scheduler_type == SchedulerType::Constant {
            let message = "has no effect with lr_scheduler_type `constant`";
            self.wrong(name, message, "use constant_with_warmup");
        }
        steps.min(max_steps)
    }

    pub(super) fn interval(
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

    pub(super) fn sampling(&mut self) {
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

    pub(super) fn note(&mut self, logging: Interval, saving: Saving, max_steps: u64) {
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
