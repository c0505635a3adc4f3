//! `adapter_config.json` of a LoRA adapter, as PEFT 0.21 writes and reads it.
//!
//! All 41 keys of PEFT 0.21.2 with its defaults and the checks of its `LoraConfig.__post_init__`. Older files
//! lack keys: the defaults stand in. Unknown keys (of older or newer versions) are kept in `extra` for reports
//! and, as in PEFT, not written again. Values of methods that we do not run (DoRA, aLoRA, …) pass through
//! unread, so that a file can be rewritten without losing them.

mod read;
mod write;

use std::path::Path;

use indexmap::IndexMap;

use crate::error::FormatsError;
pub use crate::pyjson::Number;
use crate::pyjson::{Json, Style};

/// The PEFT whose format this is; written when a config names no version, as PEFT does.
pub const PEFT_VERSION: &str = "0.21.2";
/// The file's name.
pub const FILE_NAME: &str = "adapter_config.json";
/// Largest rank taken.
pub const MAX_RANK: u32 = 4_096;
/// What PEFT takes as `task_type`.
pub const TASK_TYPES: [&str; 6] = [
    "SEQ_CLS",
    "SEQ_2_SEQ_LM",
    "CAUSAL_LM",
    "TOKEN_CLS",
    "QUESTION_ANS",
    "FEATURE_EXTRACTION",
];

/// A value, or a list of them: PEFT tells the two apart (a string is a regex, a list holds names).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OneOrMany<T> {
    /// The value itself.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values, however written.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// `init_lora_weights`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitLoraWeights {
    /// True: Kaiming A and zero B; false: both random.
    Flag(bool),
    /// `gaussian`, `pissa`, `olora`, …
    Named(String),
}

/// Which biases learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// `none`.
    None,
    /// `all`: every bias of the model.
    All,
    /// `lora_only`: those of the targeted layers.
    LoraOnly,
}

impl Bias {
    /// As PEFT spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::All => "all",
            Self::LoraOnly => "lora_only",
        }
    }
}

/// The configuration. Field names, defaults and meanings are those of PEFT's `LoraConfig`.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "PEFT's names; hf-semantics of the project lists their meaning"
)]
pub struct AdapterConfig {
    pub task_type: Option<String>,
    pub base_model_name_or_path: Option<String>,
    pub revision: Option<String>,
    pub inference_mode: bool,
    pub auto_mapping: Option<Json>,
    pub peft_version: Option<String>,
    pub r: u32,
    pub target_modules: Option<OneOrMany<String>>,
    pub exclude_modules: Option<OneOrMany<String>>,
    pub lora_alpha: Number,
    pub lora_dropout: Number,
    pub fan_in_fan_out: bool,
    pub bias: Bias,
    pub use_rslora: bool,
    pub modules_to_save: Option<Vec<String>>,
    pub init_lora_weights: InitLoraWeights,
    pub layers_to_transform: Option<OneOrMany<u32>>,
    pub layers_pattern: Option<OneOrMany<String>>,
    /// In the order of the file: the first pattern that matches wins.
    pub rank_pattern: IndexMap<String, u32>,
    /// In the order of the file: the first pattern that matches wins.
    pub alpha_pattern: IndexMap<String, Number>,
    pub megatron_core: Option<String>,
    pub lora_bias: bool,
    pub use_dora: bool,
    pub use_qalora: bool,
    pub qalora_group_size: i64,
    pub target_parameters: Option<Vec<String>>,
    pub ensure_weight_tying: bool,
    pub layer_replication: Option<Vec<(u32, u32)>>,
    pub trainable_token_indices: Option<Json>,
    pub loftq_config: IndexMap<String, Json>,
    /// Keys of methods that we do not run, unread, in the order of [`PASSED`]; null where unset.
    pub passed: [Option<Json>; PASSED.len()],
    /// Keys that PEFT 0.21 does not know; not written.
    pub extra: IndexMap<String, Json>,
}

/// Keys that are kept but not looked into.
pub const PASSED: [&str; 10] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "eva_config",
    "kasa_config",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "velora_config",
];

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            task_type: None,
            base_model_name_or_path: None,
            revision: None,
            inference_mode: false,
            auto_mapping: None,
            peft_version: Some(PEFT_VERSION.to_owned()),
            r: 8,
            target_modules: None,
            exclude_modules: None,
            lora_alpha: Number::Int(8),
            lora_dropout: Number::Float(0.0),
            fan_in_fan_out: false,
            bias: Bias::None,
            use_rslora: false,
            modules_to_save: None,
            init_lora_weights: InitLoraWeights::Flag(true),
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            megatron_core: Some("megatron.core".to_owned()),
            lora_bias: false,
            use_dora: false,
            use_qalora: false,
            qalora_group_size: 16,
            target_parameters: None,
            ensure_weight_tying: false,
            layer_replication: None,
            trainable_token_indices: None,
            loftq_config: IndexMap::new(),
            passed: Default::default(),
            extra: IndexMap::new(),
        }
    }
}

impl AdapterConfig {
    /// Reads `adapter_config.json` of a folder.
    ///
    /// # Errors
    /// [`FormatsError::File`] when it is not there; else as [`AdapterConfig::parse`].
    pub fn open(folder: &Path) -> Result<Self, FormatsError> {
        let path = folder.join(FILE_NAME);
        Self::parse(
            &durable::read_capped(&path, crate::fields::MAX_CONFIG_BYTES as u64)?,
            &path,
        )
    }

    /// Reads a file's text; `path` is named in errors.
    ///
    /// # Errors
    /// [`FormatsError::Json`], [`FormatsError::NotAnObject`], [`FormatsError::NotLora`], [`FormatsError::Key`]
    /// for a value of the wrong kind or range, [`FormatsError::Conflict`] for keys that exclude each other.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, FormatsError> {
        let config = read::read(text, path)?;
        config.validate(path)?;
        Ok(config)
    }

    /// The checks of PEFT's `LoraConfig.__post_init__`, and the ranges that its layers check.
    ///
    /// # Errors
    /// [`FormatsError::Key`], [`FormatsError::Conflict`].
    pub fn validate(&self, path: &Path) -> Result<(), FormatsError> {
        read::validate(self, path)
    }

    /// The text of the file, as `json.dumps(…, indent=2, sort_keys=True)`: no newline at its end.
    pub fn to_json(&self) -> String {
        write::to_json(self, Style::PRETTY)
    }

    /// The same, but with the entries of `rank_pattern` and `alpha_pattern` in their own order.
    pub fn to_json_in_order(&self) -> String {
        let style = Style {
            in_order: &["rank_pattern", "alpha_pattern"],
            ..Style::PRETTY
        };
        write::to_json(self, style)
    }

    /// The value of a key in [`PASSED`].
    pub fn passed(&self, key: &str) -> Option<&Json> {
        let index = PASSED.iter().position(|name| *name == key)?;
        self.passed.get(index)?.as_ref()
    }

    /// What PEFT would warn of: keys that have no effect.
    pub fn warnings(&self) -> Vec<String> {
        let unknown = self
            .extra
            .keys()
            .map(|key| format!("unknown key `{key}` is ignored"));
        let unused = [("eva_config", "eva"), ("corda_config", "corda")].into_iter();
        let unused = unused.filter(|(key, init)| {
            self.passed(key).is_some()
                && self.init_lora_weights != InitLoraWeights::Named((*init).to_owned())
        });
        let unused = unused.map(|(key, init)| {
            format!("`{key}` has no effect unless `init_lora_weights` is `{init}`")
        });
        unknown.chain(unused).collect()
    }
}
