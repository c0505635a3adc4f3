//! Whether a user's own run, stopped and resumed, gives the bytes of one that was never stopped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::Tokenizer;
use durable::StagedFolder;
use train::{Ending, Event, IntervalStrategy, Observer, SaveStrategy, StopFlag, TrainingArguments};

use crate::dataset::TokenizedDataset;
use crate::error::{LowrankError, Result};
use crate::peft_model::PeftModel;
use crate::trainer::Trainer;

/// Updates of the comparison, where the run has more.
const STEPS: u64 = 4;
/// Stands for the request of a person.
const SIGNAL: usize = 15;
/// The largest file that is compared is the optimizer's state.
const MAX_FILE_BYTES: u64 = 1 << 40;

/// What [`verify_resume`] compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeProof {
    /// After this update the second run was stopped, and resumed.
    pub stopped_after: u64,
    /// After this one both were compared.
    pub compared_after: u64,
    /// The files compared: adapter, optimizer, state, log, and what is beside them.
    pub files: Vec<String>,
    /// Their bytes.
    pub size_bytes: u64,
}

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
/// the two checkpoints byte by byte. Works beside the output folder; nothing is left of it. `None` where it was asked
/// to stop.
///
/// # Errors
/// [`LowrankError::ResumeDiffers`] with the files that do, a run that is too short, or as the run itself.
pub fn verify_resume(mut check: ResumeCheck<'_>) -> Result<Option<ResumeProof>> {
    let scratch = StagedFolder::beside(Path::new(&check.args.output_dir))?;
    let compared_after = check.compared_after()?;
    let stopped_after = compared_after / 2;
    let (whole, parted) = (
        scratch.staging_path().join("whole"),
        scratch.staging_path().join("parted"),
    );
    let never_stopped = check.train(&whole, compared_after, false)?;
    check.train(&parted, stopped_after, false)?;
    let resumed = check.train(&parted, compared_after, true)?;
    let (Some(never_stopped), Some(resumed)) = (never_stopped, resumed) else {
        return Ok(None);
    };
    let proof = compare(&never_stopped, &resumed)?;
    Ok(Some(ResumeProof {
        stopped_after,
        compared_after,
        ..proof
    }))
}

impl ResumeCheck<'_> {
    /// The last update must come after it, else the run would not be stopped but done.
    fn compared_after(&self) -> Result<u64> {
        let plan = train::Plan::new(&self.only_updates(), self.train_dataset.len(), None)?;
        let steps = STEPS.min(plan.max_steps.saturating_sub(1));
        if steps < 2 {
            return Err(LowrankError::TooShortToVerify {
                max_steps: plan.max_steps,
            });
        }
        Ok(steps)
    }

    /// Trains until `step` and stops there; gives the checkpoint, or nothing where everything is to stop.
    fn train(&mut self, folder: &Path, step: u64, resume: bool) -> Result<Option<PathBuf>> {
        if self.stop.requested().is_some() {
            return Ok(None);
        }
        let mut model = (self.model)()?;
        let args = TrainingArguments {
            output_dir: folder.to_string_lossy().into_owned(),
            resume_from_checkpoint: resume.then(|| "latest".to_owned()),
            ..self.only_updates()
        };
        let mut trainer = Trainer {
            model: &mut model,
            args,
            train_dataset: self.train_dataset,
            eval_dataset: None,
            processing_class: self.processing_class.clone(),
        };
        let stop = StopFlag::default();
        let mut observer = StopAfter {
            step,
            stop: stop.clone(),
            asked: self.stop.clone(),
            inner: &mut *self.observer,
        };
        match trainer.train_observed(&mut observer, stop)?.ending {
            _ if self.stop.requested().is_some() => Ok(None),
            Ending::Interrupted { checkpoint, .. } => Ok(Some(checkpoint)),
            // The compared update is before the last.
            Ending::Complete | Ending::EarlyStop => {
                Err(LowrankError::TooShortToVerify { max_steps: step })
            }
        }
    }

    /// The run without what only reads or writes: evaluations, and checkpoints on its way.
    fn only_updates(&self) -> TrainingArguments {
        let usual = TrainingArguments::default();
        TrainingArguments {
            eval_strategy: IntervalStrategy::No,
            eval_steps: usual.eval_steps,
            eval_delay: usual.eval_delay,
            eval_on_start: usual.eval_on_start,
            logging_strategy: IntervalStrategy::Steps,
            logging_steps: 1.0,
            save_strategy: SaveStrategy::No,
            save_steps: usual.save_steps,
            save_total_limit: usual.save_total_limit,
            save_only_model: usual.save_only_model,
            load_best_model_at_end: usual.load_best_model_at_end,
            metric_for_best_model: usual.metric_for_best_model,
            greater_is_better: usual.greater_is_better,
            early_stopping_patience: usual.early_stopping_patience,
            early_stopping_threshold: usual.early_stopping_threshold,
            resume_with_changed: usual.resume_with_changed,
            ..self.args.clone()
        }
    }
}

/// Raises the flag after an update.
struct StopAfter<'a> {
    step: u64,
    stop: StopFlag,
    /// By a person.
    asked: StopFlag,
    inner: &'a mut dyn Observer,
}

impl Observer for StopAfter<'_> {
    fn on(&mut self, event: Event<'_>) {
        if let Event::Update(update) = &event {
            if update.step >= self.step || self.asked.requested().is_some() {
                self.stop.request(SIGNAL);
            }
            self.inner.on(event);
        }
    }
}

/// All files of two checkpoints, and the logs beside them.
fn compare(whole: &Path, parted: &Path) -> Result<ResumeProof> {
    let names = |folder: &Path| -> Result<BTreeSet<String>> {
        let entries = durable::list_dir(folder)?.into_iter();
        Ok(entries.map(|entry| entry.name).collect())
    };
    let (ours, theirs) = (names(whole)?, names(parted)?);
    let mut proof = ResumeProof {
        stopped_after: 0,
        compared_after: 0,
        files: Vec::new(),
        size_bytes: 0,
    };
    let mut differing: Vec<String> = ours.symmetric_difference(&theirs).cloned().collect();
    let in_both = ours.intersection(&theirs).cloned();
    for name in in_both.chain(["../metrics.jsonl".to_owned()]) {
        let one = durable::read_capped(whole.join(&name), MAX_FILE_BYTES)?;
        let other = durable::read_capped(parted.join(&name), MAX_FILE_BYTES)?;
        proof.size_bytes += one.len() as u64;
        if one != other {
            differing.push(name.clone());
        }
        proof.files.push(name);
    }
    if differing.is_empty() {
        Ok(proof)
    } else {
        Err(LowrankError::ResumeDiffers { files: differing })
    }
}

#[cfg(test)]
mod tests {
    use super::compare;
    use crate::error::LowrankError;

    #[test]
    fn one_other_byte_or_a_missing_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for run in ["whole", "parted"] {
            durable::create_dir_all(at(&format!("{run}/checkpoint-4"))).unwrap();
            for name in [
                "metrics.jsonl",
                "checkpoint-4/adapter",
                "checkpoint-4/optimizer",
            ] {
                durable::write_atomic(at(&format!("{run}/{name}")), b"the same").unwrap();
            }
        }
        let compared = || compare(&at("whole/checkpoint-4"), &at("parted/checkpoint-4"));
        let proof = compared().unwrap();
        assert_eq!((proof.files.len(), proof.size_bytes), (3, 24));
        let differs = |want: &[&str]| match compared() {
            Err(LowrankError::ResumeDiffers { files }) => assert_eq!(files, want),
            other => panic!("{other:?}"),
        };
        durable::write_atomic(at("parted/checkpoint-4/optimizer"), b"the sane").unwrap();
        differs(&["optimizer"]);
        durable::remove_file(at("parted/checkpoint-4/optimizer")).unwrap();
        differs(&["optimizer"]);
        durable::write_atomic(at("parted/metrics.jsonl"), b"").unwrap();
        differs(&["optimizer", "../metrics.jsonl"]);
    }
}
