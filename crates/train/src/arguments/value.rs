//! Kinds of argument values: how each is read from JSON or text, and what it is called in a message.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::Problem;

/// A type that an argument can have.
pub trait ArgumentValue: Sized {
    /// For messages: `a number`.
    const WANTS: &'static str;
    /// The allowed words, where there are only some.
    const CHOICES: &'static [&'static str] = &[];
    /// Whether it is true or false.
    const IS_SWITCH: bool = false;
    /// Reads it; `None` where the value is of another kind.
    fn from_value(value: &Value) -> Option<Self>;
    /// As JSON; null for nothing.
    fn to_value(&self) -> Value;
}

pub(super) fn parse<T: ArgumentValue>(name: &str, value: &Value) -> Result<T, Problem> {
    T::from_value(value).ok_or_else(|| {
        let wants = if T::CHOICES.is_empty() {
            T::WANTS.to_owned()
        } else {
            let quoted: Vec<String> = T::CHOICES.iter().map(|word| format!("`{word}`")).collect();
            format!("one of {}", quoted.join(", "))
        };
        Problem::new(name, format!("wants {wants}: found {value}"))
    })
}

/// The number in a JSON number or in text (flags, and YAML files of people used to `PyYAML`'s `1e-4`).
fn number<T: std::str::FromStr>(value: &Value) -> Option<T> {
    match value {
        Value::Number(number) => number.to_string().parse().ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// As [`number`], taking `2.0` and `1e3` for whole numbers too.
fn whole(value: &Value) -> Option<i128> {
    number(value).or_else(|| {
        let float: f64 = number(value)?;
        (float.fract() == 0.0 && float.abs() < 1e15).then_some(float as i128)
    })
}

macro_rules! whole_numbers {
    ($($type:ty: $wants:literal),+) => { $(
        impl ArgumentValue for $type {
            const WANTS: &'static str = $wants;
            fn from_value(value: &Value) -> Option<Self> {
                whole(value)?.try_into().ok()
            }
            fn to_value(&self) -> Value {
                Value::from(*self)
            }
        }
    )+ };
}

whole_numbers!(usize: "a whole number, 0 or more", u64: "a whole number, 0 or more", i64: "a whole number");

impl ArgumentValue for f64 {
    const WANTS: &'static str = "a number";
    fn from_value(value: &Value) -> Option<Self> {
        number(value).filter(|float: &f64| float.is_finite())
    }
    fn to_value(&self) -> Value {
        Value::from(*self)
    }
}

impl ArgumentValue for bool {
    const WANTS: &'static str = "true or false";
    const IS_SWITCH: bool = true;
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(switch) => Some(*switch),
            Value::String(text) => match text.as_str() {
                "true" | "True" => Some(true),
                "false" | "False" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::from(*self)
    }
}

impl ArgumentValue for String {
    const WANTS: &'static str = "text";
    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
    fn to_value(&self) -> Value {
        Value::from(self.as_str())
    }
}

impl<T: ArgumentValue> ArgumentValue for Option<T> {
    const WANTS: &'static str = T::WANTS;
    const CHOICES: &'static [&'static str] = T::CHOICES;
    const IS_SWITCH: bool = T::IS_SWITCH;
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_value)
    }
}

/// Settings of a schedule by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct SchedulerKwargs(pub Map<String, Value>);

impl ArgumentValue for SchedulerKwargs {
    const WANTS: &'static str = "a JSON object like {\"num_cycles\": 2}";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::default()),
            Value::Object(map) => Some(Self(map.clone())),
            Value::String(text) => serde_json::from_str(text).ok().map(Self),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        if self.0.is_empty() {
            Value::Null
        } else {
            Value::Object(self.0.clone())
        }
    }
}

/// Some names; as text, with commas between.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Names(pub Vec<String>);

impl ArgumentValue for Names {
    const WANTS: &'static str = "names with commas between";
    fn from_value(value: &Value) -> Option<Self> {
        let names = match value {
            Value::Null => Vec::new(),
            Value::String(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Value::Array(list) => list
                .iter()
                .map(|name| name.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            _ => return None,
        };
        Some(Self(
            names
                .into_iter()
                .filter(|name: &String| !name.is_empty())
                .collect(),
        ))
    }
    fn to_value(&self) -> Value {
        if self.0.is_empty() {
            Value::Null
        } else {
            Value::from(self.0.clone())
        }
    }
}

macro_rules! choices {
    ($(#[doc = $help:literal])+ $type:ident { $( $(#[doc = $word_help:literal])+ $variant:ident = $word:literal, )+ }) => {
        $(#[doc = $help])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $( $(#[doc = $word_help])+ $variant, )+ }

        impl $type {
            /// The word for it in arguments.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl ArgumentValue for $type {
            const WANTS: &'static str = "a word";
            const CHOICES: &'static [&'static str] = &[$($word),+];
            fn from_value(value: &Value) -> Option<Self> {
                // What YAML makes of a bare `no`.
                let word = if *value == Value::Bool(false) { "no" } else { value.as_str()? };
                match word { $( $word => Some(Self::$variant), )+ _ => None }
            }
            fn to_value(&self) -> Value {
                Value::from(self.as_str())
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

choices! {
    /// Course of the learning rate.
    SchedulerType {
        /// Down to 0 in a line.
        Linear = "linear",
        /// Down to 0 in half a cosine.
        Cosine = "cosine",
        /// Cosines with hard restarts.
        CosineWithRestarts = "cosine_with_restarts",
        /// Down to `lr_end` by a power.
        Polynomial = "polynomial",
        /// No change, no warm-up.
        Constant = "constant",
        /// No change after the warm-up.
        ConstantWithWarmup = "constant_with_warmup",
        /// Down with the root of the step.
        InverseSqrt = "inverse_sqrt",
    }
}

choices! {
    /// The optimizers there are.
    Optimizer {
        /// `AdamW`, torch's arithmetic.
        AdamwTorch = "adamw_torch",
        /// The same here: torch's fused kernel differs from it by rounding only.
        AdamwTorchFused = "adamw_torch_fused",
    }
}

choices! {
    /// When something happens.
    IntervalStrategy {
        /// Never.
        No = "no",
        /// Every so many updates.
        Steps = "steps",
        /// At the end of each epoch.
        Epoch = "epoch",
    }
}

choices! {
    /// What becomes of a run whose checkpoint cannot be written.
    SaveFailure {
        /// The run ends with the error.
        Stop = "stop",
        /// The run goes on and says so; it fails at its end where its last save did.
        Warn = "warn",
    }
}

choices! {
    /// When a checkpoint is written.
    SaveStrategy {
        /// Never.
        No = "no",
        /// Every so many updates, and after the last.
        Steps = "steps",
        /// At the end of each epoch.
        Epoch = "epoch",
        /// Whenever an evaluation is the best so far.
        Best = "best",
    }
}

choices! {
    /// Order of rows.
    SamplingStrategy {
        /// A permutation of its own for each epoch.
        Random = "random",
        /// As in the data set.
        Sequential = "sequential",
    }
}

choices! {
    /// How the losses of one update are averaged.
    LossNormalization {
        /// Over all labelled tokens of the update.
        Tokens = "tokens",
        /// Over the means of its micro-batches.
        MeanOfMicroBatches = "mean_of_micro_batches",
    }
}
