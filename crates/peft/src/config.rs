//! What of PEFT's configuration is not supported, by name.

use formats::adapter_config::{InitLoraWeights, OneOrMany};

use crate::LoraConfig;
use crate::error::{PeftError, Result};

/// Most names of a list: a model of the largest size has some thousand linear layers.
const MAX_NAMES: usize = 16_384;
/// Most patterns of a key: each is compiled.
const MAX_PATTERNS: usize = 4_096;

/// Refuses variants and inits that would be silently ignored otherwise.
///
/// # Errors
/// [`PeftError::Unsupported`].
pub fn check_supported(config: &LoraConfig) -> Result<()> {
    let flags = [
        ("use_dora", config.use_dora),
        ("use_qalora", config.use_qalora),
        ("lora_bias", config.lora_bias),
        ("layer_replication", config.layer_replication.is_some()),
        (
            "trainable_token_indices",
            config.trainable_token_indices.is_some(),
        ),
        (
            "target_parameters",
            config
                .target_parameters
                .as_ref()
                .is_some_and(|p| !p.is_empty()),
        ),
        ("loftq_config", !config.loftq_config.is_empty()),
    ];
    let passed = formats::adapter_config::PASSED.iter();
    let passed = passed.map(|key| (*key, config.passed(key).is_some_and(|value| !is_off(value))));
    if let Some((key, _)) = flags.into_iter().chain(passed).find(|(_, on)| *on) {
        return Err(PeftError::Unsupported {
            key,
            found: "it is set".into(),
        });
    }
    check_counts(config)?;
    check_init(&config.init_lora_weights)
}

/// Time is entries times modules: a stranger's file must not take minutes.
fn check_counts(config: &LoraConfig) -> Result<()> {
    let names = |list: Option<&OneOrMany<String>>| list.map_or(0, |list| list.as_slice().len());
    let saved = config.modules_to_save.as_ref().map_or(0, Vec::len);
    let counts = [
        (
            "target_modules",
            names(config.target_modules.as_ref()),
            MAX_NAMES,
        ),
        (
            "exclude_modules",
            names(config.exclude_modules.as_ref()),
            MAX_NAMES,
        ),
        ("layers_pattern", names(config.layers_pattern.as_ref()), 64),
        ("modules_to_save", saved, MAX_PATTERNS),
        ("rank_pattern", config.rank_pattern.len(), MAX_PATTERNS),
        ("alpha_pattern", config.alpha_pattern.len(), MAX_PATTERNS),
    ];
    match counts.into_iter().find(|(_, count, limit)| count > limit) {
        None => Ok(()),
        Some((key, count, limit)) => Err(PeftError::TooMany { key, count, limit }),
    }
}

fn is_off(value: &formats::pyjson::Json) -> bool {
    *value == formats::pyjson::Json::Bool(false) || *value == formats::pyjson::Json::Null
}

fn check_init(init: &InitLoraWeights) -> Result<()> {
    match init {
        InitLoraWeights::Flag(_) => Ok(()),
        InitLoraWeights::Named(name) if name == "gaussian" => Ok(()),
        InitLoraWeights::Named(name) => Err(PeftError::Unsupported {
            key: "init_lora_weights",
            found: format!("{name} (use true, false or gaussian)"),
        }),
    }
}
