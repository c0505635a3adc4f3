//! What of PEFT's configuration is not supported, by name.

use formats::adapter_config::InitLoraWeights;

use crate::LoraConfig;
use crate::error::{PeftError, Result};

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
    check_init(&config.init_lora_weights)
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
