//! What of PEFT's configuration is not supported, by name.

use formats::adapter_config::{InitLoraWeights, OneOrMany};

use crate::LoraConfig;
use crate::error::{PeftError, Result};

/// Most names of a list: a model of the largest size has some thousand linear layers.
const MAX_NAMES: usize = 16_384;
/// Most patterns of a key: each is compiled.
const MAX_PATTERNS: usize = 4_096;

/// Starts that leave the base as it is (`LoraLayer.update_layer` of PEFT 0.21): their adapters belong on the plain base.
const PLAIN_INITS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

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
    // Of EVA's start nothing is left but the ranks that it chose, which rank_pattern says.
    let passed = passed.filter(|(key, _)| *key != "eva_config" || !is_init(config, "eva"));
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

fn is_init(config: &LoraConfig, name: &str) -> bool {
    matches!(&config.init_lora_weights, InitLoraWeights::Named(named) if named == name)
}

/// Refuses first values that are not drawn here, though an adapter that was trained from them is read; what is not even
/// read, [`check_supported`] refuses.
///
/// # Errors
/// [`PeftError::NotDrawn`].
pub fn check_fresh(config: &LoraConfig) -> Result<()> {
    match &config.init_lora_weights {
        InitLoraWeights::Named(name) if name != "gaussian" && PLAIN_INITS.contains(&&**name) => {
            Err(PeftError::NotDrawn { name: name.clone() })
        }
        _ => Ok(()),
    }
}

fn check_init(init: &InitLoraWeights) -> Result<()> {
    match init {
        InitLoraWeights::Named(name) if !PLAIN_INITS.contains(&name.as_str()) => {
            Err(PeftError::Unsupported {
                key: "init_lora_weights",
                found: format!("{name} (use true, false or gaussian)"),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(keys: &str) -> LoraConfig {
        let text = format!(r#"{{"peft_type": "LORA", {keys}}}"#);
        LoraConfig::parse(text.as_bytes(), Path::new("adapter_config.json")).unwrap()
    }

    #[test]
    fn a_start_that_leaves_the_base_alone_is_read_and_not_drawn() {
        for start in [
            r#""init_lora_weights": "orthogonal""#,
            r#""init_lora_weights": "eva", "eva_config": {"rho": 2.0}"#,
        ] {
            let config = parse(start);
            check_supported(&config).unwrap();
            assert!(check_fresh(&config).is_err(), "{start}");
        }
        for changes_base in ["pissa", "pissa_niter_4", "olora"] {
            let config = parse(&format!(r#""init_lora_weights": "{changes_base}""#));
            assert!(check_supported(&config).is_err(), "{changes_base}");
        }
        assert!(check_supported(&parse(r#""eva_config": {"rho": 2.0}"#)).is_err());
    }
}
