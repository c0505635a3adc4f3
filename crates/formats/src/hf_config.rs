//! `config.json` of a Hugging Face model folder, kept whole and read by key.
//!
//! Families and versions spell the same key differently (`n_embd`, `hidden_size`), so a getter takes several
//! spellings and the first that is there wins. Null counts as absent, as in transformers. Nothing is dropped:
//! `raw` is what a merged model's config is written from.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::dtype::Dtype;
use crate::error::FormatsError;
use crate::fields::{Fields, MAX_CONFIG_BYTES, bad_key};
use crate::pyjson::{Json, Style, to_string};

/// Most layers taken.
pub const MAX_LAYERS: usize = 1_024;
/// Largest hidden size, vocabulary and the like: 2^24.
pub const MAX_SIZE: usize = 1 << 24;

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

    /// The family.
    ///
    /// # Errors
    /// [`FormatsError::MissingKey`], [`FormatsError::Key`] when it is not a string.
    pub fn model_type(&self) -> Result<&str, FormatsError> {
        self.text(&["model_type"])?
            .ok_or_else(|| self.missing(&["model_type"]))
    }

    /// The first of `keys` that is there and not null.
    pub fn find<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, &Value)> {
        let found = keys
            .iter()
            .filter_map(|&key| self.raw.get(key).map(|value| (key, value)));
        found.into_iter().find(|(_, value)| !value.is_null())
    }

    /// The object under a key (`rope_parameters`, `text_config`), read with the same getters. Its errors name
    /// the file and only the inner key.
    ///
    /// # Errors
    /// [`FormatsError::Key`] when it is not an object.
    pub fn section(&self, keys: &[&str]) -> Result<Option<HfConfig>, FormatsError> {
        self.read(keys, "an object", |value| {
            let raw = value.as_object()?.clone();
            Some(Self {
                path: self.path.clone(),
                raw,
            })
        })
    }

    /// A text, or `None` when absent.
    ///
    /// # Errors
    /// [`FormatsError::Key`] when it is something else.
    pub fn text(&self, keys: &[&str]) -> Result<Option<&str>, FormatsError> {
        self.read(keys, "a string", Value::as_str)
    }

    /// A flag, or `None` when absent.
    ///
    /// # Errors
    /// [`FormatsError::Key`] when it is something else.
    pub fn flag(&self, keys: &[&str]) -> Result<Option<bool>, FormatsError> {
        self.read(keys, "true or false", Value::as_bool)
    }

    /// A finite number, or `None` when absent.
    ///
    /// # Errors
    /// [`FormatsError::Key`] when it is something else.
    pub fn float(&self, keys: &[&str]) -> Result<Option<f64>, FormatsError> {
        self.read(keys, "a number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    /// A whole number from 0, or `None` when absent.
    ///
    /// # Errors
    /// [`FormatsError::Key`] when it is something else.
    pub fn integer(&self, keys: &[&str]) -> Result<Option<usize>, FormatsError> {
        self.read(keys, "a whole number", as_usize)
    }

    /// A whole number from 1 to `max`, or `None` when absent: sizes that memory is reserved by.
    ///
    /// # Errors
    /// [`FormatsError::Key`] when it is something else.
    pub fn size_up_to(&self, keys: &[&str], max: usize) -> Result<Option<usize>, FormatsError> {
        self.read(keys, &format!("a whole number from 1 to {max}"), |value| {
            as_usize(value).filter(|size| (1..=max).contains(size))
        })
    }

    /// A whole number from 1 to [`MAX_SIZE`].
    ///
    /// # Errors
    /// [`FormatsError::MissingKey`], [`FormatsError::Key`].
    pub fn size(&self, keys: &[&str]) -> Result<usize, FormatsError> {
        self.size_up_to(keys, MAX_SIZE)?
            .ok_or_else(|| self.missing(keys))
    }

    /// The number of layers, from 1 to [`MAX_LAYERS`].
    ///
    /// # Errors
    /// [`FormatsError::MissingKey`], [`FormatsError::Key`].
    pub fn layers(&self, keys: &[&str]) -> Result<usize, FormatsError> {
        self.size_up_to(keys, MAX_LAYERS)?
            .ok_or_else(|| self.missing(keys))
    }

    /// One token id or a list of them (`eos_token_id`); empty when absent. Ids below zero, which some configs
    /// use for "none", are left out.
    ///
    /// # Errors
    /// [`FormatsError::Key`] when it is something else, or an id is beyond 2^24.
    pub fn token_ids(&self, keys: &[&str]) -> Result<Vec<u32>, FormatsError> {
        let ids = self.read(keys, "a token id or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(Value::as_i64).collect::<Option<Vec<_>>>(),
            _ => value.as_i64().map(|id| vec![id]),
        })?;
        let ids = ids.unwrap_or_default().into_iter().filter(|id| *id >= 0);
        let in_range = |id| {
            u32::try_from(id)
                .ok()
                .filter(|id| (*id as usize) < MAX_SIZE)
        };
        let ids: Option<Vec<u32>> = ids.map(in_range).collect();
        ids.ok_or_else(|| self.fault(keys, "ids below 2^24"))
    }

    /// The type that the weights are said to be stored in (`dtype`, before `torch_dtype`).
    ///
    /// # Errors
    /// [`FormatsError::Key`] when it is not the name of one.
    pub fn dtype(&self) -> Result<Option<Dtype>, FormatsError> {
        self.read(&["dtype", "torch_dtype"], "a torch dtype", |value| {
            value.as_str().and_then(Dtype::from_torch_name)
        })
    }

    /// The error of a key that must be there.
    pub fn missing(&self, keys: &[&str]) -> FormatsError {
        let keys = keys.iter().map(|&key| key.to_owned()).collect();
        FormatsError::MissingKey {
            path: self.path.clone(),
            keys,
        }
    }

    /// The error of a key that has another value than it must.
    pub fn fault(&self, keys: &[&str], want: &str) -> FormatsError {
        let (key, value) = self
            .find(keys)
            .unwrap_or((keys.first().copied().unwrap_or(""), &Value::Null));
        bad_key(&self.path, key, want, &Json::from(value))
    }

    fn read<'a, T>(
        &'a self,
        keys: &[&str],
        want: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatsError> {
        let Some((_, value)) = self.find(keys) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| self.fault(keys, want))
    }
}

fn as_usize(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
}

/// `generation_config.json`: what `generate` does when nothing else is said.
///
/// Reads the keys that we honour; the rest stays in [`GenerationConfig::config`] for writing back.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names of transformers' GenerationConfig")]
pub struct GenerationConfig {
    pub config: HfConfig,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub max_length: Option<usize>,
    pub max_new_tokens: Option<usize>,
}

/// The file's name.
pub const GENERATION_CONFIG: &str = "generation_config.json";

impl GenerationConfig {
    /// Reads it from a model folder. Where the file is missing it is made from the token ids of `config.json`,
    /// as transformers does.
    ///
    /// # Errors
    /// As [`HfConfig::open`]; [`FormatsError::Key`] for a value of the wrong kind.
    pub fn open(model_dir: &Path, model: &HfConfig) -> Result<Self, FormatsError> {
        let path = model_dir.join(GENERATION_CONFIG);
        if durable::is_file(&path) {
            return Self::of(HfConfig::open_file(&path)?);
        }
        let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
        let ids = ids
            .iter()
            .filter_map(|&key| Some((key.to_owned(), model.raw.get(key)?.clone())));
        Self::of(HfConfig::from_map(ids.collect(), model.path()))
    }

    /// Reads the keys of a configuration.
    ///
    /// # Errors
    /// [`FormatsError::Key`] for a value of the wrong kind.
    pub fn of(config: HfConfig) -> Result<Self, FormatsError> {
        let one = |key: &str| Ok::<_, FormatsError>(config.token_ids(&[key])?.first().copied());
        Ok(Self {
            bos_token_id: one("bos_token_id")?,
            eos_token_ids: config.token_ids(&["eos_token_id"])?,
            pad_token_id: one("pad_token_id")?,
            do_sample: config.flag(&["do_sample"])?,
            temperature: config.float(&["temperature"])?,
            top_k: config.integer(&["top_k"])?,
            top_p: config.float(&["top_p"])?,
            repetition_penalty: config.float(&["repetition_penalty"])?,
            max_length: config.integer(&["max_length"])?,
            max_new_tokens: config.integer(&["max_new_tokens"])?,
            config,
        })
    }
}
