//! JSON as Python's `json` module reads and writes it, byte for byte.
//!
//! `adapter_config.json`, `config.json` and `trainer_state.json` are compared and hashed as text by people and
//! programs, so what we write must be what `json.dumps` writes: its float digits, its escapes, its separators.
//! The reader takes what `json.loads` takes (NaN and Infinity too), under limits, and never builds more than
//! the limits allow. Refused although Python takes them: lone surrogates, integers beyond 128 bits.

mod float;
mod read;
mod write;

use indexmap::IndexMap;

pub use float::float_repr;
pub(crate) use read::{Budget, Scanner, value};
pub use read::{JsonFault, JsonFaultKind, MAX_DEPTH, parse};
pub use write::{Style, to_string, value_to_string};

/// A value of Python's JSON: unlike `serde_json::Value` it can hold NaN and the infinities.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`, Python's `None`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without point or exponent, Python's `int`.
    Int(i128),
    /// A number with point or exponent, Python's `float`; `NaN`, `Infinity`, `-Infinity`.
    Float(f64),
    /// Text.
    String(String),
    /// Python's `list`.
    Array(Vec<Json>),
    /// Python's `dict`: keeps the order of its keys.
    Object(Box<IndexMap<String, Json>>),
}

impl Json {
    /// An object from its entries, in order; a repeated key keeps its last value.
    pub fn object<K: Into<String>>(entries: impl IntoIterator<Item = (K, Json)>) -> Self {
        let entries = entries.into_iter();
        Self::Object(Box::new(
            entries.map(|(key, value)| (key.into(), value)).collect(),
        ))
    }

    /// The value of a key, where this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Self::Object(entries) => entries.get(key),
            _ => None,
        }
    }

    /// A whole number, where this is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A number as Python's `float(…)` gives it.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// A finite number as it was written.
    pub fn as_number(&self) -> Option<Number> {
        match self {
            Self::Int(_) => self.as_i64().map(Number::Int),
            Self::Float(value) => value.is_finite().then_some(Number::Float(*value)),
            _ => None,
        }
    }

    /// The text, where this is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The same value for serde. What serde cannot hold becomes `{"__float__": "Infinity"}`, the form in which
    /// transformers 5 writes such a number.
    pub fn into_value(self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Number(int_number(value)),
            Self::Float(value) => float_value(value),
            Self::String(value) => Value::String(value),
            Self::Array(items) => items.into_iter().map(Self::into_value).collect(),
            Self::Object(entries) => {
                let entries = entries.into_iter();
                Value::Object(
                    entries
                        .map(|(key, value)| (key, value.into_value()))
                        .collect(),
                )
            }
        }
    }

    /// A word for the kind of value, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

fn int_number(value: i128) -> serde_json::Number {
    serde_json::Number::from_i128(value).expect("every i128 is a number with arbitrary_precision")
}

fn float_value(value: f64) -> serde_json::Value {
    match serde_json::Number::from_f64(value) {
        Some(number) => serde_json::Value::Number(number),
        None => serde_json::json!({ "__float__": float_repr(value) }),
    }
}

impl From<&serde_json::Value> for Json {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => from_number(number),
            Value::String(value) => Self::String(value.clone()),
            Value::Array(items) => Self::Array(items.iter().map(Self::from).collect()),
            Value::Object(entries) => entries.into(),
        }
    }
}

impl From<&serde_json::Map<String, serde_json::Value>> for Json {
    fn from(entries: &serde_json::Map<String, serde_json::Value>) -> Self {
        Self::object(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), value.into())),
        )
    }
}

/// With `arbitrary_precision` a number is its text: a point or exponent makes it Python's float.
fn from_number(number: &serde_json::Number) -> Json {
    let text = number.as_str();
    match text.parse::<i128>() {
        Ok(value) => Json::Int(value),
        Err(_) => Json::Float(text.parse().unwrap_or(f64::NAN)),
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Json {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<f32> for Json {
    /// Widens, as `tensor.item()` does: `0.1f32` is written as `0.10000000149011612`.
    fn from(value: f32) -> Self {
        Self::Float(f64::from(value))
    }
}

impl From<&str> for Json {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Json {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Json>> From<Vec<T>> for Json {
    fn from(items: Vec<T>) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

macro_rules! from_integer {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Json {
            fn from(value: $integer) -> Self {
                Self::Int(i128::from(value))
            }
        }
    )*};
}

from_integer!(i32, u32, i64, u64);

impl From<usize> for Json {
    fn from(value: usize) -> Self {
        Self::Int(i128::try_from(value).expect("a usize has at most 64 bits"))
    }
}

/// A number that keeps how it was written: `16` and `16.0` are different texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Without a point.
    Int(i64),
    /// With one.
    Float(f64),
}

impl Number {
    /// Its value.
    pub fn get(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<Number> for Json {
    fn from(number: Number) -> Self {
        match number {
            Number::Int(value) => value.into(),
            Number::Float(value) => value.into(),
        }
    }
}
