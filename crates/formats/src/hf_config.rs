//! `config.json` of a Hugging Face model folder, kept whole, and the keys of `generation_config.json`.
//!
//! Nothing is dropped: `raw` is what a merged model's config is written from. What its keys mean is known where
//! families are (`model`). Null counts as absent, as in transformers.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::FormatsError;
use crate::fields::{Fields, MAX_CONFIG_BYTES, bad_key};
use crate::pyjson::{Json, Style, to_string};

/// Token ids are below it, as vocabularies are at most so large: 2^24.
const MAX_TOKENS: u32 = 1 << 24;

/// A configuration: of the model (`config.json`) or of generation (`generation_config.json`).
#[derive(Debug, Clone, PartialEq)]
pub struct HfConfig {
    path: PathBuf,
    /// Everything that the file holds, in its order.
    pub raw: Map<String, Value>,
}

impl HfConfig {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// [`FormatsError::File`] when it is not there; else as [`HfConfig::parse`].
    pub fn open(model_dir: &Path) -> Result<Self, FormatsError> {
        Self::open_file(&model_dir.join("config.json"))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`HfConfig::open`].
    pub fn open_file(path: &Path) -> Result<Self, FormatsError> {
        Self::parse(&durable::read_capped(path, MAX_CONFIG_BYTES as u64)?, path)
    }

    /// Reads a file's text; `path` is named in errors.
    ///
    /// # Errors
    /// [`FormatsError::Json`], [`FormatsError::NotAnObject`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, FormatsError> {
        let fields = Fields::parse(text, path)?;
        let raw = fields
            .rest()
            .into_iter()
            .map(|(key, value)| (key, value.into_value()))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            raw,
        })
    }

    /// A configuration that comes from no file; `path` is named in errors.
    pub fn from_map(raw: Map<String, Value>, path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            raw,
        }
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text as `save_pretrained` writes it: sorted keys, indent 2, a newline at its end.
    pub fn to_json(&self) -> String {
        to_string(&Json::from(&self.raw), Style::PRETTY) + "\n"
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, FormatsError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A finite number, or `None` when absent.
    fn float(&self, key: &str) -> Result<Option<f64>, FormatsError> {
        self.read(key, "a number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    /// A whole number from 0, or `None` when absent.
    fn integer(&self, key: &str) -> Result<Option<usize>, FormatsError> {
        self.read(key, "a whole number", |value| {
            usize::try_from(value.as_u64()?).ok()
        })
    }

    /// One token id or a list of them; empty when absent. Ids below zero, which some configs use for "none", are left
    /// out.
    fn token_ids(&self, key: &str) -> Result<Vec<u32>, FormatsError> {
        let ids = self.read(key, "a token id or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(Value::as_i64).collect::<Option<Vec<_>>>(),
            _ => value.as_i64().map(|id| vec![id]),
        })?;
        let ids = ids.unwrap_or_default().into_iter().filter(|id| *id >= 0);
        let in_range = |id| u32::try_from(id).ok().filter(|id| *id < MAX_TOKENS);
        let ids: Option<Vec<u32>> = ids.map(in_range).collect();
        ids.ok_or_else(|| self.fault(key, "ids below 2^24"))
    }

    fn read<T>(
        &self,
        key: &str,
        want: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, FormatsError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.fault(key, want)),
        }
    }

    fn fault(&self, key: &str, want: &str) -> FormatsError {
        let value = self.raw.get(key).unwrap_or(&Value::Null);
        bad_key(&self.path, key, want, &Json::from(value))
    }
}

/// `generation_config.json`: what `generate` does when nothing else is said.
///
/// The keys that we honour by name: a merge copies the file itself.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the names of transformers' GenerationConfig")]
pub struct GenerationConfig {
    pub eos_token_ids: Vec<u32>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    /// Every key of the file, also those that nothing here honours.
    pub raw: Map<String, Value>,
}

impl GenerationConfig {
    /// Reads it from a model folder. Where the file is missing its `eos_token_id` is that of `config.json`, as in
    /// transformers.
    ///
    /// # Errors
    /// As [`HfConfig::open`]; [`FormatsError::Key`] for a value of the wrong kind.
    pub fn open(model_dir: &Path, model: &HfConfig) -> Result<Self, FormatsError> {
        let path = model_dir.join("generation_config.json");
        if durable::is_file(&path) {
            return Self::of(&HfConfig::open_file(&path)?);
        }
        Ok(Self {
            eos_token_ids: model.token_ids("eos_token_id")?,
            ..Self::default()
        })
    }

    /// Reads the keys of a configuration.
    ///
    /// # Errors
    /// [`FormatsError::Key`] for a value of the wrong kind.
    pub fn of(config: &HfConfig) -> Result<Self, FormatsError> {
        Ok(Self {
            eos_token_ids: config.token_ids("eos_token_id")?,
            do_sample: config.flag("do_sample")?,
            temperature: config.float("temperature")?,
            top_k: config.integer("top_k")?,
            top_p: config.float("top_p")?,
            repetition_penalty: config.float("repetition_penalty")?,
            raw: config.raw.clone(),
        })
    }
}
