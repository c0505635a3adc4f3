//! What can go wrong in a run.

use std::fmt;
use std::path::PathBuf;

use data::DataError;
use durable::DurableError;
use engine::backend::EngineError;
use formats::FormatsError;
use model::ModelError;
use peft::PeftError;

/// One thing wrong with the arguments of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The argument.
    pub name: String,
    /// What is wrong with it, to be read after its name.
    pub message: String,
    /// How to mend it, where the message does not say so.
    pub mend: Option<String>,
}

impl Problem {
    pub(crate) fn new(name: &str, message: String) -> Self {
        Self {
            name: name.to_owned(),
            message,
            mend: None,
        }
    }

    pub(crate) fn mend(self, mend: &str) -> Self {
        Self {
            mend: Some(mend.to_owned()),
            ..self
        }
    }
}

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Arguments that are unknown, of the wrong kind, or make no sense together: all of them.
    #[error("{}", list(.problems))]
    Arguments {
        /// What is wrong, one by one.
        problems: Vec<Problem>,
    },
    /// A loss that is not finite.
    #[error("loss of update {step} is not finite, in {}", rows_text(.rows))]
    LossNotFinite {
        /// The update that was not made, counted from 1.
        step: u64,
        /// The rows, as numbers in the data set.
        rows: Vec<usize>,
    },
    /// A gradient that is not finite, of losses that are.
    #[error(
        "gradient of update {step} is not finite, of {} first, from {}",
        .parameters.first().map_or("no parameter", String::as_str), rows_text(.rows)
    )]
    GradientNotFinite {
        /// The update that was not made, counted from 1.
        step: u64,
        /// The update's rows, as numbers in the data set.
        rows: Vec<usize>,
        /// The parameters whose gradients are not finite.
        parameters: Vec<String>,
    },
    /// A new run in a folder that has another's checkpoints or results.
    #[error("output folder has the results of another run: `{}`", .folder.display())]
    OutputInUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A run that would write into a model's own folder.
    #[error("output folder is a model's: `{}`", .folder.display())]
    OutputIsModel {
        /// The folder.
        folder: PathBuf,
    },
    /// Rows in which nothing is to be said.
    #[error("{}", nothing_labelled(*.rows))]
    NothingLabelled {
        /// How many were looked at.
        rows: usize,
    },
    /// A folder that holds checkpoints, named to resume from as if it were one.
    #[error("not a checkpoint but the output folder of a run: `{}`", .folder.display())]
    ResumeFromRun {
        /// The folder.
        folder: PathBuf,
    },
    /// A checkpoint with an adapter, of the Python stack or another program.
    #[error("checkpoint was written by another program and cannot be resumed: `{}`", .folder.display())]
    ForeignCheckpoint {
        /// The folder.
        folder: PathBuf,
    },
    /// A checkpoint of a run with other settings or data.
    #[error(
        "checkpoint `{}` belongs to another run{}",
        .checkpoint.display(), .changed.iter().map(|one| format!("\n  {one}")).collect::<String>()
    )]
    Changed {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Everything that differs and may not.
        changed: Vec<ChangedSetting>,
        /// What `resume_with_changed` names.
        named: Vec<String>,
    },
    /// An override of a setting that does not differ.
    #[error("`resume_with_changed` names `{name}`, which does not differ from the resumed run")]
    NotChanged {
        /// The setting.
        name: String,
    },
    /// A run that is done, but whose last checkpoint could not be written (`save_failure` is `warn`).
    #[error(
        "the run is done and its adapter is in `{}`, but the checkpoint of step {step} was not saved: {source}",
        .folder.display()
    )]
    LastSaveFailed {
        /// The run's folder.
        folder: PathBuf,
        /// The checkpoint's step.
        step: u64,
        /// Why it was not saved.
        source: Box<TrainError>,
    },
    /// A checkpoint that this run wrote and that something else removed.
    #[error("checkpoint `{}` was saved and is not there any more", .checkpoint.display())]
    Gone {
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// A checkpoint without the optimizer's state.
    #[error("checkpoint has a model only and cannot be resumed: `{}`", .folder.display())]
    ModelOnly {
        /// The checkpoint.
        folder: PathBuf,
    },
    /// A moment that the optimizer's file lacks, or of another shape.
    #[error(
        "tensor `{name}` of `{}` must be {want:?} in f32: found {}",
        .path.display(), .found.as_ref().map_or("none".to_owned(), |shape| format!("{shape:?}"))
    )]
    OptimizerState {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Shape needed.
        want: Vec<usize>,
        /// Shape found, where it is there in f32.
        found: Option<Vec<usize>>,
    },
    /// A state file that does not parse.
    #[error("`{}` does not parse: {problem}", .path.display())]
    ResumeFile {
        /// The file.
        path: PathBuf,
        /// What and where.
        problem: String,
    },
    /// A state of another version of this tool.
    #[error("state of `{}` has format_version {found}, this build reads {ours}", .folder.display())]
    ResumeVersion {
        /// The checkpoint.
        folder: PathBuf,
        /// Its version.
        found: u64,
        /// Ours.
        ours: u64,
    },
    /// A run that was stopped and resumed, and did not give the bytes of one that was not.
    #[error("the resumed run differs from one that was never stopped, in {}", .files.join(", "))]
    ResumeDiffers {
        /// The files that differ.
        files: Vec<String>,
    },
    /// A run with no update to stop at and one to compare before its last.
    #[error("the run is too short to stop and resume inside it: {max_steps} updates")]
    TooShortToVerify {
        /// Its updates.
        max_steps: u64,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The adapter's files failed.
    #[error(transparent)]
    Peft(#[from] PeftError),
    /// The tokenizer's files failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file could not be written or read.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A file's contents could not be written or read.
    #[error(transparent)]
    Formats(#[from] FormatsError),
}

/// A setting that a resumed run does not have any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedSetting {
    /// Its name.
    pub name: String,
    /// Its value or digest in the checkpoint; empty where there was none.
    pub was: String,
    /// Its value or digest now.
    pub is: String,
}

impl fmt::Display for ChangedSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (was, is) = (shown(&self.was), shown(&self.is));
        write!(f, "`{}` was {was}, is {is}", self.name)
    }
}

/// Of a digest as much as tells two apart.
fn shown(value: &str) -> &str {
    let is_digest = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    match value {
        "" => "nothing",
        _ if is_digest => &value[..12],
        _ => value,
    }
}

/// At most this many are named: an update can have thousands.
const ROWS_NAMED: usize = 16;

fn rows_text(rows: &[usize]) -> String {
    let named: Vec<String> = rows.iter().take(ROWS_NAMED).map(usize::to_string).collect();
    let noun = if rows.len() == 1 { "row" } else { "rows" };
    let more = rows.len().saturating_sub(ROWS_NAMED);
    let rest = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    format!("{noun} {}{rest}", named.join(", "))
}

fn nothing_labelled(rows: usize) -> String {
    match rows {
        0 => "the data set has no rows".into(),
        rows => format!("none of {rows} rows has a token of a response, so there is no loss"),
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("argument `{}` {}", problem.name, problem.message))
        .collect();
    lines.join("\n")
}

impl TrainError {
    /// Whether a number of an update is not finite; the weights are then those of before it.
    pub(crate) fn is_not_finite(&self) -> bool {
        matches!(
            self,
            Self::LossNotFinite { .. } | Self::GradientNotFinite { .. }
        )
    }

    /// How to mend it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Arguments { problems } => {
                let mut mends: Vec<&str> = problems
                    .iter()
                    .filter_map(|problem| problem.mend.as_deref())
                    .collect();
                mends.dedup();
                (!mends.is_empty()).then(|| mends.join("; "))
            }
            Self::Changed { changed, named, .. } => {
                let refused = changed.iter().map(|one| &one.name);
                let names: Vec<&str> = named.iter().chain(refused).map(|name| &**name).collect();
                Some(format!(
                    "put things back, or let them differ with resume_with_changed={}, or start anew in another output_dir",
                    names.join(",")
                ))
            }
            Self::LastSaveFailed { source, .. } => source.hint(),
            Self::ForeignCheckpoint { folder } => Some(format!(
                "`--adapter {}` starts from its weights, with a fresh optimizer and schedule",
                folder.display()
            )),
            Self::Model(error) => error.hint(),
            Self::Peft(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Durable(error) => error.hint(),
            Self::Formats(error) => error.hint(),
            Self::Engine(_) => None,
            _ => self.own_hint().map(str::to_owned),
        }
    }

    fn own_hint(&self) -> Option<&'static str> {
        match self {
            Self::LossNotFinite { .. } => Some(
                "look at these rows and at the learning rate; resume from the last checkpoint, which is untouched",
            ),
            Self::GradientNotFinite { .. } => {
                Some("lower the learning rate; resume from the last checkpoint, which is untouched")
            }
            Self::OutputInUse { .. } => Some(
                "take another output_dir, or, to go on from its checkpoints, set resume_from_checkpoint to latest",
            ),
            Self::NotChanged { .. } => Some("leave it out"),
            Self::Gone { .. } => Some(
                "see what else removes files there; resume from the newest checkpoint that is left",
            ),
            Self::OutputIsModel { .. } => {
                Some("take another output_dir: a run's files would replace the model's")
            }
            Self::ResumeFromRun { .. } => Some(
                "set resume_from_checkpoint to latest, which is the newest one in output_dir, or name one of its checkpoints",
            ),
            Self::NothingLabelled { rows: 0 } => Some("give another data set"),
            Self::NothingLabelled { .. } => Some("look at the template and raise max_length"),
            Self::ModelOnly { .. } => Some(
                "start anew from its adapter, or resume from a checkpoint saved without save_only_model",
            ),
            Self::OptimizerState { .. } => Some(
                "other tensors learn here than in the checkpoint, and it cannot be resumed with them: put the LoRA settings back, or start anew in another output_dir (`adapter` starts from an adapter's weights, with the LoRA settings that they fit)",
            ),
            Self::ResumeFile { .. } => Some("resume from another checkpoint"),
            Self::ResumeVersion { .. } => Some("update this program, or use another checkpoint"),
            Self::ResumeDiffers { .. } => Some("this is a bug, please report it with the run file"),
            Self::TooShortToVerify { .. } => Some("verify a run of 3 updates or more"),
            _ => None,
        }
    }
}
