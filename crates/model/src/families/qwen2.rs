//! Qwen2 and Qwen2.5: Llama with biases on q, k and v; a sliding window only where the config turns it on.

use super::gated::{self, Gated};
use super::keys::{Keys, MAX_LAYERS, MAX_POSITIONS};
use super::{ConfigError, Family};
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family =
    Family::new("qwen2", spec, |keys, spec| gated::tree(keys, spec, "Qwen2"));

fn spec(keys: Keys<'_>) -> Result<DecoderSpec, ConfigError> {
    let family = Gated {
        model_type: FAMILY.model_type,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        kv_heads: None,
        sliding_window: window(keys)?,
    };
    gated::spec(keys, &family)
}

/// The window that all layers share. Below `max_window_layers` attention is full, and one decoder has one
/// window: configs that mix both are refused.
fn window(keys: Keys<'_>) -> Result<Option<usize>, ConfigError> {
    let key = "layer_types";
    let layers = keys.required_size(&["num_hidden_layers"], MAX_LAYERS)?;
    let on = keys.flag("use_sliding_window", false)?;
    let window = match (on, keys.size(&["sliding_window"], MAX_POSITIONS)?) {
        (false, _) => None,
        (true, None) if keys.has("sliding_window") => None,
        (true, given) => Some(given.unwrap_or(4096)),
    };
    let sliding = match keys.texts(key)? {
        Some(types) => types
            .iter()
            .filter(|kind| **kind == "sliding_attention")
            .count(),
        None if window.is_none() => 0,
        None => layers - keys.count("max_window_layers")?.unwrap_or(28).min(layers),
    };
    match window {
        _ if sliding == 0 => Ok(None),
        Some(window) if sliding == layers => Ok(Some(window)),
        _ => {
            let found = format!("{sliding} of {layers} layers slide");
            Err(keys.unsupported(key, &found, "all layers must share one window"))
        }
    }
}
