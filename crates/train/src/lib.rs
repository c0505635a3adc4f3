//! The training loop, as `transformers.Trainer` 5.23 runs it for a causal language model.
//!
//! It knows arguments, steps, schedules, logs and checkpoints; a model is to it something that adds
//! gradients (see `Learner`). It prints nothing and parses no flags.

mod adapter_files;
mod arguments;
mod checkpoints;
mod decoder_learner;
mod due;
mod ending;
mod error;
mod evaluate;
mod identity;
mod journal;
mod learner;
mod observer;
mod optimizer;
mod order;
mod output_folder;
mod passes;
mod perplexity;
mod plan;
mod plot;
mod prefixes;
mod run;
mod schedule;
mod state;
mod steps;
mod tensors;
mod trainer;
mod update;
mod verify;

pub use adapter_files::AdapterFiles;
pub use arguments::{
    ArgumentValue, FIELDS, Field, IntervalStrategy, LossNormalization, Names, Optimizer,
    SamplingStrategy, SaveFailure, SaveStrategy, SchedulerKwargs, SchedulerType, TrainingArguments,
    unsupported_arguments,
};
pub use checkpoints::{TOKEN_CACHE, check_output};
pub use decoder_learner::{DecoderLearner, ModelFiles};
pub use error::{ChangedSetting, Problem, TrainError};
/// An entry of the log, as in the Trainer's `log_history`.
pub use formats::trainer_state::LogEntry;
pub use identity::{DATASET, EVAL_DATASET, LORA};
pub use learner::{Examples, Learner, Row};
pub use observer::{Banner, Ending, Event, Observer, StopFlag, TrainOutput, UpdateDone};
pub use perplexity::{Evaluation, RowLoss, evaluate};
pub use plan::{Best, Interval, Plan, Saving};
pub use schedule::Schedule;
pub use steps::{Place, Steps};
pub use trainer::Trainer;
pub use verify::{Leg, ResumeCheck, ResumeProof, verify_resume};
