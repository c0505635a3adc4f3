//! [`Trainer`] runs of which it is asked whether they resume to the same bytes.

use std::sync::Arc;

use data::Tokenizer;
use durable::Disk;
use train::{Observer, ResumeProof, StopFlag, TrainingArguments};

use crate::dataset::TokenizedDataset;
use crate::error::Result;
use crate::peft_model::PeftModel;
use crate::trainer::Trainer;

/// A run to be verified. Evaluations are left out; everything that is learnt is as in the run itself.
pub struct ResumeCheck<'a> {
    /// Makes the model as at the run's start, once for each process that the check stands for.
    pub model: &'a mut dyn FnMut() -> Result<PeftModel>,
    /// The run's own.
    pub args: &'a TrainingArguments,
    /// The run's own.
    pub train_dataset: &'a TokenizedDataset,
    /// The run's own.
    pub processing_class: Option<Arc<Tokenizer>>,
    /// Ends the check after the update at hand.
    pub stop: StopFlag,
    /// Hears of all updates.
    pub observer: &'a mut dyn Observer,
}

/// Trains a few updates of the run, trains half of them again, stops, resumes with a model loaded anew, and compares
/// the two checkpoints byte by byte. Works in the output folder, or beside it where it is not there yet; nothing is left
/// of it, and nothing else is touched. `None` where it was asked to stop.
///
/// # Errors
/// [`train::TrainError::ResumeDiffers`] with the files that do, a run that is too short, or as the run itself.
pub fn verify_resume(check: ResumeCheck<'_>) -> Result<Option<ResumeProof>> {
    let run = train::ResumeCheck {
        arguments: check.args,
        num_examples: check.train_dataset.len(),
        stop: check.stop,
        observer: check.observer,
        disk: Disk::real(),
    };
    train::verify_resume(run, |leg| {
        let mut trainer = Trainer {
            model: &mut (check.model)()?,
            args: leg.arguments,
            train_dataset: check.train_dataset,
            eval_dataset: None,
            processing_class: check.processing_class.clone(),
        };
        trainer.train_observed(leg.observer, leg.stop)
    })
}
