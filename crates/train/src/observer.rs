//! What the loop tells while it runs. Who prints it, and how, is not its business.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use formats::trainer_state::LogEntry;

/// Is told of everything that happens in a run.
pub trait Observer {
    /// One event, in the order of their happening.
    fn on(&mut self, event: Event<'_>);
}

/// Hears nothing.
impl Observer for () {
    fn on(&mut self, _: Event<'_>) {}
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run begins.
    Begin(&'a Banner),
    /// Something worth knowing that stops nothing.
    Notice(&'a str),
    /// A checkpoint was passed over in the search for one to resume from.
    Skipped {
        /// Its folder.
        path: &'a Path,
        /// Why.
        reason: &'a str,
    },
    /// The run goes on from a checkpoint.
    Resumed {
        /// Its folder.
        path: &'a Path,
        /// Updates done.
        step: u64,
    },
    /// An update is done.
    Update(&'a UpdateDone),
    /// An entry of the log: training, evaluation, or the run's summary.
    Log(&'a LogEntry),
    /// An evaluation goes on.
    Evaluating {
        /// Rows done.
        done: usize,
        /// Rows in all.
        total: usize,
    },
    /// A checkpoint is complete on disk.
    Saved {
        /// Its folder.
        path: &'a Path,
        /// Bytes of its files.
        size_bytes: u64,
    },
    /// A checkpoint was removed to keep `save_total_limit`.
    Removed(&'a Path),
    /// The best state is loaded again.
    LoadedBest {
        /// Its folder.
        path: &'a Path,
        /// Its metric.
        metric: f64,
    },
}

/// What a run is, as the Trainer announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banner {
    /// Rows.
    pub num_examples: usize,
    /// Epochs, the last perhaps not whole.
    pub num_train_epochs: u64,
    /// Updates of a whole epoch.
    pub updates_per_epoch: u64,
    /// Rows of one micro-batch.
    pub per_device_train_batch_size: usize,
    /// Rows of one update.
    pub total_train_batch_size: usize,
    /// Micro-batches of one update.
    pub gradient_accumulation_steps: usize,
    /// Updates of the run.
    pub max_steps: u64,
    /// Trained values.
    pub trainable_parameters: u64,
}

/// One update, done.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateDone {
    /// Updates done.
    pub step: u64,
    /// Updates of the run.
    pub max_steps: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Mean loss.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// As used.
    pub learning_rate: f64,
    /// Tokens of its rows.
    pub tokens: u64,
    /// Time that it took.
    pub seconds: f64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOutput {
    /// Updates done.
    pub global_step: u64,
    /// Mean loss of all updates.
    pub training_loss: f64,
    /// The summary, as logged; empty where the run was interrupted.
    pub metrics: LogEntry,
    /// Why it ended.
    pub ending: Ending,
    /// Lines of `metrics.jsonl` that could not be written.
    pub lost_log_lines: u64,
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All updates are done.
    Complete,
    /// Evaluations stopped getting better.
    EarlyStop,
    /// It was asked to stop; everything is in this checkpoint.
    Interrupted {
        /// Of the request: 1 for SIGHUP, 2 for SIGINT, 15 for SIGTERM.
        signal: usize,
        /// Where to resume from.
        checkpoint: PathBuf,
    },
}

/// A request to end the run after the update at hand, from a signal handler or another thread.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicUsize>);

impl StopFlag {
    /// The cell itself: a signal handler stores its signal's number in it.
    pub fn cell(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.0)
    }

    /// Asks for it.
    pub fn request(&self, signal: usize) {
        self.0.store(signal, Ordering::SeqCst);
    }

    /// The signal that asked, if one did.
    pub fn requested(&self) -> Option<usize> {
        Some(self.0.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}
