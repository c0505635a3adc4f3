//! Arguments that are out of range, or have no effect beside others.

use crate::arguments::{IntervalStrategy, SaveStrategy, TrainingArguments};
use crate::error::Problem;

/// Most rows of a micro-batch, micro-batches of an update, tokens of a pass: no product of two comes near overflowing.
const MAX_SIZE: usize = 1 << 24;

pub(super) struct Check<'a> {
    pub(super) arguments: &'a TrainingArguments,
    pub(super) problems: Vec<Problem>,
    pub(super) notices: Vec<String>,
}

impl Check<'_> {
    pub(super) fn wrong(&mut self, name: &str, message: impl Into<String>, mend: &str) {
        self.problems
            .push(Problem::new(name, message.into()).mend(mend));
    }

    pub(super) fn require(&mut self, holds: bool, name: &str, wants: &str, found: f64) {
        if !holds {
            self.problems.push(Problem::new(
                name,
                format!("must be {wants}: found {found}"),
            ));
        }
    }

    pub(super) fn ranges(&mut self) {
        let a = self.arguments;
        let sizes = [
            ("per_device_train_batch_size", a.per_device_train_batch_size),
            ("per_device_eval_batch_size", a.per_device_eval_batch_size),
            ("gradient_accumulation_steps", a.gradient_accumulation_steps),
            ("max_tokens_per_pass", a.max_tokens_per_pass),
        ];
        for (name, size) in sizes {
            self.require(
                (1..=MAX_SIZE).contains(&size),
                name,
                &format!("from 1 to {MAX_SIZE}"),
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
        if a.output_dir.is_empty() {
            self.wrong(
                "output_dir",
                "is empty",
                "give `.` for the folder that you are in",
            );
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

    pub(super) fn logging(&mut self) {
        let a = self.arguments;
        let is_asked = a.logging_steps != TrainingArguments::default().logging_steps;
        let are_eval_steps = a.eval_strategy == IntervalStrategy::Steps && a.eval_steps.is_none();
        if is_asked && a.logging_strategy != IntervalStrategy::Steps && !are_eval_steps {
            let message = format!(
                "has no effect with logging_strategy `{}`",
                a.logging_strategy.as_str()
            );
            self.wrong("logging_steps", message, "set logging_strategy to steps");
        }
    }

    pub(super) fn evaluation(&mut self, eval_examples: Option<usize>) {
        let a = self.arguments;
        let evaluates = a.eval_strategy != IntervalStrategy::No;
        let wants_data = evaluates || a.eval_on_start;
        let name = if evaluates {
            "eval_strategy"
        } else {
            "eval_on_start"
        };
        match eval_examples {
            None if wants_data => self.wrong(
                name,
                "needs an evaluation set",
                "give `--eval-dataset`, or `eval_dataset` in the run file",
            ),
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
        self.evaluation_batches(eval_examples.filter(|_| wants_data));
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

    /// * `rows`: of evaluation, where there is any.
    fn evaluation_batches(&mut self, rows: Option<usize>) {
        let a = self.arguments;
        let batch = a.per_device_eval_batch_size;
        let Some(rows) = rows else {
            if batch != TrainingArguments::default().per_device_eval_batch_size {
                // Refusing it would stop recipes of the Python stack, which set it beside the training one out of habit.
                self.notices
                    .push("per_device_eval_batch_size has no effect without evaluations".into());
            }
            return;
        };
        if a.dataloader_drop_last && rows < batch {
            let message = format!(
                "is {batch}, more than the {rows} rows of evaluation, of which dataloader_drop_last leaves none"
            );
            self.wrong("per_device_eval_batch_size", message, "lower it");
        }
    }

    pub(super) fn metric(&mut self) {
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
    pub(super) fn compares(&self) -> bool {
        let a = self.arguments;
        a.load_best_model_at_end
            || a.metric_for_best_model.is_some()
            || a.early_stopping_patience.is_some()
            || a.save_strategy == SaveStrategy::Best
    }

    pub(super) fn saving(&mut self) {
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
        if a.resume_from_checkpoint.is_none() && !a.resume_with_changed.0.is_empty() {
            self.wrong(
                "resume_with_changed",
                "has no effect without resume_from_checkpoint",
                "set resume_from_checkpoint to latest or remove it",
            );
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
    pub(super) fn best_checkpoint(&mut self) {
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
}
