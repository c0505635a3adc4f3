//! What a run is asked to do, in the names and with the defaults of `transformers.TrainingArguments` 5.23.
//!
//! One table makes the struct, the names that a run file may use, and [`FIELDS`], from which a command
//! line makes its flags. Whether the values make sense together is for [`crate::Plan`] to say.

mod names;
mod value;

pub use names::unsupported as unsupported_arguments;
pub use value::{
    ArgumentValue, IntervalStrategy, LossNormalization, Names, Optimizer, SamplingStrategy,
    SaveFailure, SaveStrategy, SchedulerKwargs, SchedulerType,
};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::error::{Problem, TrainError};

/// One argument, as a command line or a help text needs it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// `snake_case` name.
    pub name: &'static str,
    /// What it does; the doc comment of the struct's field.
    pub help: &'static str,
    /// What a value looks like: `a number`.
    pub wants: &'static str,
    /// The allowed words, where there are only some.
    pub choices: &'static [&'static str],
    /// Whether the value is true or false.
    pub is_switch: bool,
    default: fn() -> Value,
}

impl Field {
    /// The default as text, empty where there is none.
    pub fn default_text(&self) -> String {
        match (self.default)() {
            Value::Null => String::new(),
            Value::String(text) => text,
            value => value.to_string(),
        }
    }

    /// The name as a flag: `learning-rate`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Names that it had in earlier versions of `transformers`, which are still read.
    pub fn old_names(&self) -> impl Iterator<Item = &'static str> {
        names::old(self.name)
    }
}

macro_rules! arguments {
    ($( $(#[doc = $help:literal])+ $name:ident: $type:ty = $default:expr; )+) => {
        /// Settings of a run. Missing names take the Trainer's defaults.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        pub struct TrainingArguments {
            $( $(#[doc = $help])+ pub $name: $type, )+
        }

        impl Default for TrainingArguments {
            fn default() -> Self {
                Self { $( $name: $default, )+ }
            }
        }

        /// Every argument, in the order of the struct.
        pub const FIELDS: &[Field] = &[ $( Field {
            name: stringify!($name),
            help: concat!($($help),+),
            wants: <$type as ArgumentValue>::WANTS,
            choices: <$type as ArgumentValue>::CHOICES,
            is_switch: <$type as ArgumentValue>::IS_SWITCH,
            default: || { let value: $type = $default; value.to_value() },
        }, )+ ];

        impl TrainingArguments {
            fn assign(&mut self, name: &str, value: &Value) -> Result<(), Problem> {
                match names::current(name) {
                    $( stringify!($name) => {
                        self.$name = value::parse(name, &names::spelled(name, value))?;
                    } )+
                    _ => return names::without_field(name, value),
                }
                Ok(())
            }
        }
    };
}

arguments! {
    /// Folder for checkpoints, the final adapter, logs and the loss plot.
    output_dir: String = "trainer_output".into();

    /// Rows of one micro-batch.
    per_device_train_batch_size: usize = 8;
    /// Rows of one evaluation batch: the mean over batches depends on it, as in the Trainer.
    per_device_eval_batch_size: usize = 8;
    /// Micro-batches of one update.
    gradient_accumulation_steps: usize = 1;
    /// Passes over the data; a fraction ends inside an epoch.
    num_train_epochs: f64 = 3.0;
    /// Updates of the run, instead of num_train_epochs; -1 leaves it to the epochs.
    max_steps: i64 = -1;
    /// Tokens that go through the model at once at most: an update of more is split, which bounds
    /// memory and changes nothing but the order of sums.
    max_tokens_per_pass: usize = 576;
    /// Keep of each block its input alone, and run the block again for its gradient: less memory, more
    /// time, the same bits (once called gradient_checkpointing).
    activation_checkpointing: bool = false;
    /// How losses of one update are averaged: over its tokens (Trainer since 4.46), or over its
    /// micro-batches' means (before).
    loss_normalization: LossNormalization = LossNormalization::Tokens;

    /// Updates in a row that may be left out because a loss or a gradient is not finite; at the next, and with 0 at
    /// the first, the run stops.
    max_skipped_updates: usize = 0;

    /// Peak learning rate.
    learning_rate: f64 = 5e-5;
    /// Course of the learning rate after the warm-up.
    lr_scheduler_type: SchedulerType = SchedulerType::Linear;
    /// Settings of the schedule, as JSON: {"num_cycles": 2}.
    lr_scheduler_kwargs: SchedulerKwargs = SchedulerKwargs::default();
    /// Updates over which the learning rate rises from 0; below 1, a share of the run.
    warmup_steps: f64 = 0.0;
    /// Old name of a warm-up given as a share of the run.
    warmup_ratio: Option<f64> = None;

    /// Optimizer; adamw_torch and adamw_torch_fused are the same arithmetic here.
    optim: Optimizer = Optimizer::AdamwTorch;
    /// Decay of AdamW's first moment.
    adam_beta1: f64 = 0.9;
    /// Decay of AdamW's second moment.
    adam_beta2: f64 = 0.999;
    /// Added to the root of AdamW's second moment.
    adam_epsilon: f64 = 1e-8;
    /// Decoupled weight decay; biases and norms are left out of it.
    weight_decay: f64 = 0.0;
    /// Gradients are scaled down to this norm; 0 leaves them alone.
    max_grad_norm: f64 = 1.0;
    /// Share of the target's probability that is spread over the vocabulary, in training and in `eval_loss`.
    label_smoothing_factor: f64 = 0.0;

    /// When to log: no, steps, epoch.
    logging_strategy: IntervalStrategy = IntervalStrategy::Steps;
    /// Updates between logs; below 1, a share of the run.
    logging_steps: f64 = 500.0;
    /// Log the first update too.
    logging_first_step: bool = false;

    /// When to evaluate: no, steps, epoch.
    eval_strategy: IntervalStrategy = IntervalStrategy::No;
    /// Updates between evaluations; logging_steps where not given.
    eval_steps: Option<f64> = None;
    /// Updates (or epochs) before the first evaluation.
    eval_delay: f64 = 0.0;
    /// Evaluate before the first update too.
    eval_on_start: bool = false;

    /// When to save a checkpoint: no, steps, epoch, best.
    save_strategy: SaveStrategy = SaveStrategy::Steps;
    /// Updates between checkpoints; below 1, a share of the run.
    save_steps: f64 = 500.0;
    /// Checkpoints kept; the best and the newest are never removed.
    save_total_limit: Option<usize> = None;
    /// Save the adapter only: such a checkpoint cannot be resumed.
    save_only_model: bool = false;
    /// When a checkpoint cannot be written: stop, warn (go on, and fail at the end if the last one was not written).
    save_failure: SaveFailure = SaveFailure::Stop;
    /// After the last update, go back to the best checkpoint.
    load_best_model_at_end: bool = false;
    /// What decides which checkpoint is best: loss.
    metric_for_best_model: Option<String> = None;
    /// Whether a larger metric is better.
    greater_is_better: Option<bool> = None;
    /// Stop after this many evaluations in a row without a better metric (EarlyStoppingCallback).
    early_stopping_patience: Option<usize> = None;
    /// What counts as better for early stopping: by more than this.
    early_stopping_threshold: f64 = 0.0;

    /// Seed of everything random.
    seed: u64 = 42;
    /// Seed of the row order; seed where not given.
    data_seed: Option<u64> = None;
    /// Order of rows: random (anew each epoch), sequential.
    train_sampling_strategy: SamplingStrategy = SamplingStrategy::Random;
    /// Leave out an epoch's last micro-batch where it is short.
    dataloader_drop_last: bool = false;

    /// Continue a run: latest, or a checkpoint folder.
    resume_from_checkpoint: Option<String> = None;
    /// What may differ from the resumed run, by the names that a refusal tells; `lora` and `dataset` mean all of theirs.
    resume_with_changed: Names = Names::default();
}

impl TrainingArguments {
    /// Sets one argument from a JSON value, as a run file has it.
    ///
    /// # Errors
    /// A name that this tool does not know (with the nearest that it does) or does not support (with
    /// the reason), or a value of the wrong kind.
    pub fn set(&mut self, name: &str, value: &Value) -> Result<(), TrainError> {
        self.assign(name, value)
            .map_err(|problem| TrainError::Arguments {
                problems: vec![problem],
            })
    }

    /// Sets one argument from text, as a flag has it.
    ///
    /// # Errors
    /// As [`TrainingArguments::set`].
    pub fn set_text(&mut self, name: &str, text: &str) -> Result<(), TrainError> {
        self.set(name, &Value::String(text.to_owned()))
    }

    /// Reads all arguments of a run file's `train` section.
    ///
    /// # Errors
    /// Everything wrong with it at once, as [`TrainingArguments::set`] says it.
    pub fn from_map(map: &Map<String, Value>) -> Result<Self, TrainError> {
        let mut arguments = Self::default();
        let problems: Vec<Problem> = map
            .iter()
            .filter_map(|(name, value)| arguments.assign(name, value).err())
            .collect();
        if problems.is_empty() {
            Ok(arguments)
        } else {
            Err(TrainError::Arguments { problems })
        }
    }
}

/// Through [`TrainingArguments::from_map`], so that unknown names get their nearest known one.
impl<'de> Deserialize<'de> for TrainingArguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(deserializer)?;
        Self::from_map(&map).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(map: Value) -> String {
        let Value::Object(map) = map else {
            panic!("an object")
        };
        TrainingArguments::from_map(&map).unwrap_err().to_string()
    }

    #[test]
    fn a_run_file_round_trips_and_numbers_may_be_text() {
        let map = json!({"learning_rate": "1e-4", "max_steps": 60, "lr_scheduler_type": "cosine",
            "lr_scheduler_kwargs": {"num_cycles": 2}, "eval_steps": 0.1, "logging_first_step": "True"});
        let arguments: TrainingArguments = serde_json::from_value(map).unwrap();
        assert_eq!(arguments.learning_rate, 1e-4);
        assert_eq!(arguments.eval_steps, Some(0.1));
        assert!(arguments.logging_first_step);
        let again: TrainingArguments =
            serde_json::from_value(serde_json::to_value(&arguments).unwrap()).unwrap();
        assert_eq!(again, arguments);
    }

    #[test]
    fn an_old_name_sets_the_argument_of_today() {
        for name in ["activation_checkpointing", "gradient_checkpointing"] {
            let mut arguments = TrainingArguments::default();
            arguments.set(name, &json!(true)).unwrap();
            assert!(arguments.activation_checkpointing, "{name}");
        }
        assert_eq!(
            message(json!({"gradient_checkpointing": "maybe"})),
            "argument `gradient_checkpointing` wants true or false: found \"maybe\""
        );
    }

    #[test]
    fn a_bare_no_of_yaml_and_a_switch_for_resuming_are_understood() {
        let map = json!({"eval_strategy": false, "save_strategy": false});
        let arguments: TrainingArguments = serde_json::from_value(map).unwrap();
        assert_eq!(arguments.eval_strategy, IntervalStrategy::No);
        assert_eq!(arguments.save_strategy, SaveStrategy::No);
        let resumed = |value: Value| {
            let mut arguments = TrainingArguments::default();
            arguments.set("resume_from_checkpoint", &value).unwrap();
            arguments.resume_from_checkpoint
        };
        assert_eq!(resumed(json!(true)).as_deref(), Some("latest"));
        assert_eq!(resumed(json!("True")).as_deref(), Some("latest"));
        assert_eq!(resumed(json!(false)), None);
        assert_eq!(
            resumed(json!("lora/checkpoint-2")).as_deref(),
            Some("lora/checkpoint-2")
        );
        assert!(message(json!({"optim": false})).contains("`optim` wants one of"));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_known_one() {
        assert_eq!(
            message(json!({"learning_rte": 1e-4})),
            "argument `learning_rte` is not known, did you mean `learning_rate`"
        );
    }

    #[test]
    fn a_name_of_transformers_without_meaning_here_is_refused_with_the_reason() {
        let text = message(json!({"fp16": true, "deepspeed": "ds.json"}));
        assert!(
            text.contains("`fp16`") && text.contains("compute_dtype"),
            "{text}"
        );
        assert!(text.contains("`deepspeed`"), "{text}");
    }

    #[test]
    fn a_name_without_meaning_here_is_accepted_where_it_asks_for_nothing() {
        let map = json!({"fp16": false, "report_to": "none", "hub_token": null});
        let Value::Object(map) = map else {
            panic!("an object")
        };
        assert_eq!(
            TrainingArguments::from_map(&map).unwrap(),
            TrainingArguments::default()
        );
    }

    #[test]
    fn a_value_of_the_wrong_kind_says_what_is_wanted() {
        assert_eq!(
            message(json!({"learning_rate": "fast"})),
            "argument `learning_rate` wants a number: found \"fast\""
        );
        assert_eq!(
            message(json!({"gradient_accumulation_steps": -3})),
            "argument `gradient_accumulation_steps` wants a whole number, 0 or more: found -3"
        );
        assert_eq!(
            message(json!({"eval_strategy": "step"})),
            "argument `eval_strategy` wants one of `no`, `steps`, `epoch`: found \"step\""
        );
    }

    #[test]
    fn every_field_takes_its_own_default_as_text() {
        for field in FIELDS {
            let mut arguments = TrainingArguments::default();
            if !field.default_text().is_empty() {
                arguments
                    .set_text(field.name, &field.default_text())
                    .unwrap();
            }
            assert_eq!(arguments, TrainingArguments::default(), "{}", field.name);
            assert!(!field.help.is_empty());
        }
    }
}
