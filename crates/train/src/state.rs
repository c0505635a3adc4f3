//! Where a run is: what the Trainer keeps in `trainer_state.json`, and what it forgets.

use std::path::Path;

use formats::pyjson::{Json, Number, Style, value_to_string};
use formats::trainer_state::{FILE_NAME, LogEntry, TrainerState};
use serde::{Deserialize, Serialize};

use crate::due::Due;
use crate::error::TrainError;
use crate::plan::{Interval, Plan, Saving};
use crate::update::Update;

/// A run's state.
#[derive(Debug, Clone)]
pub(crate) struct RunState {
    /// The Trainer's own state and file.
    pub(crate) file: TrainerState,
    /// What it does not say, in a file of its own: the Trainer refuses keys that it does not know.
    pub(crate) resume: ResumeState,
}

/// What it takes besides to go on exactly.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResumeState {
    /// Of this file.
    pub(crate) format_version: u64,
    /// Sum of the losses of updates that no log entry counts yet.
    pub(crate) loss_since_log: f64,
    /// Those updates' number.
    pub(crate) steps_since_log: u64,
    /// Sum of all updates' losses.
    pub(crate) total_loss: f64,
    /// Steps of the optimizer.
    pub(crate) optimizer_steps: u64,
    /// Evaluations in a row that were no gain.
    pub(crate) evaluations_without_gain: usize,
    /// Whether the run has stopped early.
    pub(crate) stopped_early: bool,
    /// Whether an interruption left out the evaluation that is due here.
    pub(crate) evaluation_pending: bool,
    /// Size of `metrics.jsonl`, in files of earlier builds: the log that the Trainer's file has says more.
    #[serde(default, skip_serializing, rename = "metrics_bytes")]
    _metrics_bytes: u64,
    /// Updates left out because a number was not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) skipped_updates: u64,
    /// Those at the end so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) skipped_in_a_row: u64,
}

/// Not written, so that runs without such updates keep the file that they always had.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

const FORMAT_VERSION: u64 = 1;
pub(crate) const TRAINER_STATE: &str = FILE_NAME;
pub(crate) const RESUME_STATE: &str = "resume_state.json";
const MAX_RESUME_BYTES: u64 = 1 << 16;
/// A log entry is about 200 bytes; this is a million of them.
const MAX_STATE_BYTES: u64 = 256 << 20;

impl RunState {
    /// The state before the first update.
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut this = Self {
            file: TrainerState::default(),
            resume: ResumeState::default(),
        };
        this.file.total_flos = 0.0.into();
        this.refer_to(plan);
        this
    }

    /// Writes the plan's own numbers into the state, as the Trainer's `init_training_references`.
    fn refer_to(&mut self, plan: &Plan) {
        let arguments = &plan.arguments;
        let steps = |interval, otherwise: f64| match interval {
            Interval::Steps(every) => Number::Int(every as i64),
            _ if otherwise.fract() == 0.0 => Number::Int(otherwise as i64),
            _ => otherwise.into(),
        };
        let saving = match plan.saving {
            Saving::At(interval) => interval,
            Saving::Best => Interval::Never,
        };
        let file = &mut self.file;
        file.eval_steps = steps(plan.evaluation, arguments.eval_steps.unwrap_or(500.0));
        file.logging_steps = steps(plan.logging, arguments.logging_steps);
        file.save_steps = steps(saving, arguments.save_steps);
        file.max_steps = plan.max_steps;
        file.num_train_epochs = plan.num_train_epochs;
        file.train_batch_size = Some(arguments.per_device_train_batch_size as u64);
        file.epoch = plan.steps.epoch_after(file.global_step).into();
    }

    /// Updates done.
    pub(crate) fn step(&self) -> u64 {
        self.file.global_step
    }

    /// Counts an update that was done.
    pub(crate) fn count(&mut self, plan: &Plan, update: &Update) {
        self.file.global_step += 1;
        self.file.epoch = plan.steps.epoch_after(self.file.global_step).into();
        self.file.num_input_tokens_seen += update.input_tokens;
        self.file.total_flos = (self.file.total_flos.get() + update.flos).into();
        self.resume.loss_since_log += update.loss;
        self.resume.steps_since_log += 1;
        self.resume.total_loss += update.loss;
        self.resume.skipped_in_a_row = 0;
    }

    /// Counts an update that was left out: a step of the run, with no loss of its own.
    pub(crate) fn count_skipped(&mut self, plan: &Plan) {
        self.file.global_step += 1;
        self.file.epoch = plan.steps.epoch_after(self.file.global_step).into();
        self.resume.skipped_updates += 1;
        self.resume.skipped_in_a_row += 1;
    }

    /// Mean loss of all updates that were made.
    pub(crate) fn training_loss(&self) -> f64 {
        let made = self.step() - self.resume.skipped_updates;
        self.resume.total_loss / made.max(1) as f64
    }

    /// The training entry due now: the mean of the losses since the last one, the gradient's norm and
    /// the learning rate of the last update. Without a loss where every update since was left out, without a norm where
    /// the last was.
    pub(crate) fn training_entry(&mut self, update: &Update) -> LogEntry {
        let resume = &mut self.resume;
        let (losses, steps) = (resume.loss_since_log, resume.steps_since_log);
        (resume.loss_since_log, resume.steps_since_log) = (0.0, 0);
        let mut entry = LogEntry::new();
        if steps > 0 {
            entry.insert("loss", losses / steps as f64);
        }
        if update.grad_norm.is_finite() {
            entry.insert("grad_norm", update.grad_norm);
        }
        entry.insert("learning_rate", update.learning_rate);
        entry
    }

    /// Adds epoch and step to an entry, as the Trainer's `log`, and keeps it.
    pub(crate) fn keep(&mut self, mut entry: LogEntry) -> &LogEntry {
        entry.insert("epoch", self.file.epoch);
        entry.insert("step", self.file.global_step);
        self.file.log_history.push(entry);
        self.file.log_history.last().expect("just pushed")
    }

    /// Takes note of an evaluation's metric; true where it is the best so far.
    pub(crate) fn judge(&mut self, plan: &Plan, metric: f64) -> bool {
        let Some(best) = plan.best else { return false };
        let (file, resume) = (&mut self.file, &mut self.resume);
        let better = |than: f64| {
            if best.greater {
                metric > than
            } else {
                metric < than
            }
        };
        let gained = |than: f64| better(than) && (metric - than).abs() > best.threshold;
        if file.best_metric.is_none_or(gained) {
            resume.evaluations_without_gain = 0;
        } else {
            resume.evaluations_without_gain += 1;
        }
        resume.stopped_early |= best
            .patience
            .is_some_and(|patience| resume.evaluations_without_gain >= patience);
        let is_best = metric.is_finite() && file.best_metric.is_none_or(better);
        if is_best {
            file.best_metric = Some(metric);
            file.best_global_step = Some(file.global_step);
        }
        is_best
    }

    /// The text of `trainer_state.json`.
    pub(crate) fn file_text(&mut self, plan: &Plan) -> String {
        let (done, stopped_early) = (self.file.global_step, self.resume.stopped_early);
        let due = Due::after(plan, done, stopped_early);
        let control = Json::object([
            ("should_epoch_stop", Json::from(false)),
            ("should_evaluate", false.into()),
            ("should_log", due.asks_again.into()),
            ("should_save", true.into()),
            (
                "should_training_stop",
                (done >= plan.max_steps || stopped_early).into(),
            ),
        ]);
        let none = Json::object::<String>([]);
        let mut callbacks = vec![("TrainerControl".to_owned(), callback(control, none))];
        if let Some(best) = plan.best
            && let Some(patience) = best.patience
        {
            let counter = self.resume.evaluations_without_gain;
            let args = Json::object([
                ("early_stopping_patience", Json::from(patience)),
                ("early_stopping_threshold", best.threshold.into()),
            ]);
            let attributes = Json::object([("early_stopping_patience_counter", counter.into())]);
            callbacks.push((
                "EarlyStoppingCallback".to_owned(),
                callback(args, attributes),
            ));
        }
        self.file.stateful_callbacks = callbacks.into_iter().collect();
        self.file.to_json()
    }

    /// The text of the file beside it.
    pub(crate) fn resume_json(&self) -> String {
        let state = ResumeState {
            format_version: FORMAT_VERSION,
            ..self.resume.clone()
        };
        let value = serde_json::to_value(state).expect("numbers and switches serialise");
        value_to_string(&value, Style::PRETTY) + "\n"
    }

    /// Reads both files of a checkpoint.
    pub(crate) fn read(
        disk: &durable::Disk,
        folder: &Path,
        plan: &Plan,
    ) -> Result<Self, TrainError> {
        let path = folder.join(TRAINER_STATE);
        let file = TrainerState::parse(&disk.read_capped(&path, MAX_STATE_BYTES)?, &path)?;
        let path = folder.join(RESUME_STATE);
        let text = disk.read_text_capped(&path, MAX_RESUME_BYTES)?;
        // Through `Value`, which keeps a number's text: serde_json's own parser of f64 may be off by
        // an ulp, and a resumed sum of losses must be the very same.
        let value = serde_json::from_str::<serde_json::Value>(&text);
        let resume: ResumeState =
            value
                .and_then(serde_json::from_value)
                .map_err(|source| TrainError::ResumeFile {
                    path,
                    problem: source.to_string(),
                })?;
        if resume.format_version != FORMAT_VERSION {
            let (found, ours) = (resume.format_version, FORMAT_VERSION);
            return Err(TrainError::ResumeVersion {
                folder: folder.to_owned(),
                found,
                ours,
            });
        }
        let mut this = Self { file, resume };
        this.refer_to(plan);
        Ok(this)
    }
}

fn callback(args: Json, attributes: Json) -> Json {
    Json::object([("args", args), ("attributes", attributes)])
}

/// A log entry of numbers.
pub(crate) fn entry<const N: usize>(numbers: [(&'static str, f64); N]) -> LogEntry {
    let mut entry = LogEntry::new();
    for (name, number) in numbers {
        entry.insert(name, number);
    }
    entry
}

/// Python's `round(number, digits)`, but for ties.
pub(crate) fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (number * scale).round() / scale
}
