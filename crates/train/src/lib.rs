//! The training loop, as `transformers.Trainer` 5.23 runs it for a causal language model.
//!
//! It knows arguments, steps, schedules, logs and checkpoints; a model is to it something that adds
//! gradients (see `Learner`). It prints nothing and parses no flags.

mod arguments;
mod error;
mod plan;
mod schedule;
mod steps;

pub use arguments::{
    ArgumentValue, FIELDS, Field, IntervalStrategy, LossNormalization, Names, Optimizer,
    SamplingStrategy, SaveStrategy, SchedulerKwargs, SchedulerType, TrainingArguments,
    nearest_name,
};
pub use error::{Problem, TrainError};
pub use plan::{Best, Interval, Plan, Saving};
pub use schedule::Schedule;
pub use steps::{Place, Steps};
