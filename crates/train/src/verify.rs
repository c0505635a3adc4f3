//! Whether a run that is stopped and resumed leaves the bytes of one that was never stopped.
//!
//! A few updates of the user's own run are trained in one go, trained again with a stop half way, and resumed; then the
//! two checkpoints are compared byte by byte. All of it lies in a folder of its own, and nothing is left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use durable::{Disk, DurableError, StagedFolder};

use crate::arguments::{IntervalStrategy, SaveStrategy, TrainingArguments};
use crate::error::TrainError;
use crate::journal::METRICS;
use crate::observer::{Ending, Event, Observer, StopFlag, TrainOutput};
use crate::plan::Plan;

/// Updates of the comparison, where the run has more.
const STEPS: u64 = 4;
/// Stands for the request of a person.
const SIGNAL: usize = 15;
/// What is never published is staged for this name.
const INSIDE: &str = "verification";

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
    /// The run's own.
    pub arguments: &'a TrainingArguments,
    /// Rows that are learnt from.
    pub num_examples: usize,
    /// Ends the check after the update at hand.
    pub stop: StopFlag,
    /// Hears of all updates.
    pub observer: &'a mut dyn Observer,
    /// Where files go.
    pub disk: Disk,
}

/// What stands for one process: a run to be trained on the check's rows, by a learner made as at the run's start.
pub struct Leg<'a> {
    /// Of the leg.
    pub arguments: TrainingArguments,
    /// Raised where the leg ends.
    pub stop: StopFlag,
    /// Must hear of every update: it raises `stop`.
    pub observer: &'a mut dyn Observer,
}

/// Verifies a run whose legs `train` trains. `None` where it was asked to stop.
///
/// # Errors
/// [`TrainError::ResumeDiffers`] with the files that do, [`TrainError::TooShortToVerify`], or as `train`.
pub fn verify_resume<E: From<TrainError>>(
    mut check: ResumeCheck<'_>,
    mut train: impl FnMut(Leg<'_>) -> Result<TrainOutput, E>,
) -> Result<Option<ResumeProof>, E> {
    let compared_after = check.compared_after()?;
    let scratch = check.scratch()?;
    let stopped_after = compared_after / 2;
    let [whole, parted] = ["whole", "parted"].map(|name| scratch.staging_path().join(name));
    let mut leg = |folder, step, resume| check.leg(folder, step, resume, &mut train);
    let never_stopped = leg(&whole, compared_after, false)?;
    leg(&parted, stopped_after, false)?;
    let resumed = leg(&parted, compared_after, true)?;
    let (Some(never_stopped), Some(resumed)) = (never_stopped, resumed) else {
        return Ok(None);
    };
    let compared = compare(&check.disk, &never_stopped, &resumed)?;
    Ok(Some(ResumeProof {
        stopped_after,
        compared_after,
        files: compared.files,
        size_bytes: compared.size_bytes,
    }))
}

impl ResumeCheck<'_> {
    /// In the run's folder where that is there already, since nothing else is known to take files (`.` has not even a
    /// name to be beside); else beside it. The next run removes a dead process's from both. Removed when it is dropped.
    fn scratch(&self) -> Result<StagedFolder, TrainError> {
        let run = Path::new(&self.arguments.output_dir);
        let inside = self.disk.is_dir(run).then(|| run.join(INSIDE));
        let target = inside.as_deref().unwrap_or(run);
        Ok(StagedFolder::beside_on(&self.disk, target)?)
    }

    /// The last update must come after it, else the run would not be stopped but done.
    fn compared_after(&self) -> Result<u64, TrainError> {
        let plan = Plan::new(&only_updates(self.arguments), self.num_examples, None)?;
        let steps = STEPS.min(plan.max_steps.saturating_sub(1));
        if steps < 2 {
            return Err(TrainError::TooShortToVerify {
                max_steps: plan.max_steps,
            });
        }
        Ok(steps)
    }

    /// Trains until `step` and stops there; gives the checkpoint, or nothing where everything is to stop.
    fn leg<E: From<TrainError>>(
        &mut self,
        folder: &Path,
        step: u64,
        resume: bool,
        train: &mut impl FnMut(Leg<'_>) -> Result<TrainOutput, E>,
    ) -> Result<Option<PathBuf>, E> {
        if self.stop.requested().is_some() {
            return Ok(None);
        }
        let stop = StopFlag::default();
        let mut observer = StopAfter {
            step,
            stop: stop.clone(),
            asked: self.stop.clone(),
            inner: &mut *self.observer,
        };
        let output = train(Leg {
            arguments: TrainingArguments {
                output_dir: folder.to_string_lossy().into_owned(),
                resume_from_checkpoint: resume.then(|| "latest".to_owned()),
                ..only_updates(self.arguments)
            },
            stop,
            observer: &mut observer,
        })?;
        match output.ending {
            _ if self.stop.requested().is_some() => Ok(None),
            Ending::Interrupted { checkpoint, .. } => Ok(Some(checkpoint)),
            // The compared update is before the last.
            Ending::Complete | Ending::EarlyStop => {
                Err(TrainError::TooShortToVerify { max_steps: step }.into())
            }
        }
    }
}

/// A run without what only reads or writes: evaluations, and checkpoints on its way.
fn only_updates(arguments: &TrainingArguments) -> TrainingArguments {
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
        ..arguments.clone()
    }
}

/// Raises the flag after a step.
struct StopAfter<'a> {
    step: u64,
    stop: StopFlag,
    /// By a person.
    asked: StopFlag,
    inner: &'a mut dyn Observer,
}

impl Observer for StopAfter<'_> {
    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Update(_) => self.inner.on(event),
            // Every step is logged, also one whose update was left out.
            Event::Log(entry)
                if entry.step() >= Some(self.step) || self.asked.requested().is_some() =>
            {
                self.stop.request(SIGNAL);
            }
            _ => {}
        }
    }
}

/// All files of two checkpoints, and the logs beside them.
fn compare(disk: &Disk, whole: &Path, parted: &Path) -> Result<Compared, TrainError> {
    let (ours, theirs) = (names(disk, whole)?, names(disk, parted)?);
    let mut found = Compared {
        differing: ours.symmetric_difference(&theirs).cloned().collect(),
        ..Compared::default()
    };
    for name in ours.intersection(&theirs) {
        found.add(disk, name.clone(), [whole.join(name), parted.join(name)])?;
    }
    let logs = [whole, parted].map(|folder| folder.with_file_name(METRICS));
    found.add(disk, format!("../{METRICS}"), logs)?;
    if found.differing.is_empty() {
        return Ok(found);
    }
    Err(TrainError::ResumeDiffers {
        files: found.differing,
    })
}

/// Of the files so far.
#[derive(Debug, Default)]
struct Compared {
    files: Vec<String>,
    size_bytes: u64,
    differing: Vec<String>,
}

impl Compared {
    fn add(&mut self, disk: &Disk, name: String, paths: [PathBuf; 2]) -> Result<(), TrainError> {
        // An optimizer's state may be larger than what memory is left: digests are taken in pieces.
        let digest = |path| {
            let size_bytes = disk.open_read(path)?.size_bytes();
            Ok::<_, DurableError>((size_bytes, disk.sha256_file(path)?))
        };
        let (one, other) = (digest(&paths[0])?, digest(&paths[1])?);
        self.size_bytes += one.0;
        if one != other {
            self.differing.push(name.clone());
        }
        self.files.push(name);
        Ok(())
    }
}

fn names(disk: &Disk, folder: &Path) -> Result<BTreeSet<String>, DurableError> {
    let entries = disk.list_dir(folder)?.into_iter();
    Ok(entries.map(|entry| entry.name).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use durable::faults::SimFs;

    use super::*;

    #[test]
    fn one_other_byte_or_a_missing_file_is_named() {
        let disk = Disk::with(Arc::new(SimFs::new()));
        for run in ["/whole", "/parted"] {
            disk.create_dir_all(format!("{run}/checkpoint-4")).unwrap();
            for name in [
                "metrics.jsonl",
                "checkpoint-4/adapter",
                "checkpoint-4/optimizer",
            ] {
                let path = format!("{run}/{name}");
                disk.write_atomic(path, b"the same").unwrap();
            }
        }
        let compared = || {
            let [whole, parted] =
                ["/whole", "/parted"].map(|run| Path::new(run).join("checkpoint-4"));
            compare(&disk, &whole, &parted)
        };
        let same = compared().unwrap();
        assert_eq!((same.files.len(), same.size_bytes), (3, 24));
        let differs = |want: &[&str]| match compared() {
            Err(TrainError::ResumeDiffers { files }) => assert_eq!(files, want),
            other => panic!("{other:?}"),
        };
        let optimizer = "/parted/checkpoint-4/optimizer";
        disk.write_atomic(optimizer, b"the sane").unwrap();
        differs(&["optimizer"]);
        disk.remove_file(optimizer).unwrap();
        differs(&["optimizer"]);
        disk.write_atomic("/parted/metrics.jsonl", b"").unwrap();
        differs(&["optimizer", "../metrics.jsonl"]);
    }
}
