//! Mistral: Llama with a sliding window over all layers, and without biases.

use super::gated::{self, Gated};
use super::keys::{Keys, MAX_POSITIONS};
use super::{ConfigError, Family};
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family::new("mistral", spec, |keys, spec| {
    gated::tree(keys, spec, "Mistral")
});

fn spec(keys: Keys<'_>) -> Result<DecoderSpec, ConfigError> {
    let window = keys.size(&["sliding_window"], MAX_POSITIONS)?;
    // `MistralConfig` has a window unless the file says null.
    let absent = !keys.has("sliding_window");
    let family = Gated {
        model_type: FAMILY.model_type,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        kv_heads: Some(8),
        sliding_window: window.or(absent.then_some(4096)),
    };
    gated::spec(keys, &family)
}
