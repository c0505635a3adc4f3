//! What the tests of this crate share.

use std::path::PathBuf;

use crate::data::Tokenizer;
use serde_json::{Map, Value};

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

pub(crate) fn json(name: &str) -> Value {
    let text = std::fs::read(fixture(name)).expect("a fixture is part of the repository");
    serde_json::from_slice(&text).expect("a fixture is valid JSON")
}

pub(crate) fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_pretrained(fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|id| id.as_u64().expect("an id") as u32)
        .collect()
}

pub(crate) fn labels(value: &Value) -> Vec<i32> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|id| id.as_i64().expect("a label") as i32)
        .collect()
}

pub(crate) fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("an object")
}

/// A folder under the shared inputs.
pub(crate) fn shared(relative: &str) -> Option<PathBuf> {
    let found = testkit::shared_inputs().map(|inputs| inputs.join(relative));
    if found.is_none() {
        eprintln!("skipped: no shared inputs");
    }
    found
}
