//! Llama, and whatever is published under its name (Yi, SmolLM, TinyLlama, …).

use super::gated::{self, Gated};
use super::keys::Keys;
use super::{ConfigError, Family};
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family =
    Family::new("llama", spec, |keys, spec| gated::tree(keys, spec, "Llama"));

fn spec(keys: Keys<'_>) -> Result<DecoderSpec, ConfigError> {
    let attention_bias = keys.flag("attention_bias", false)?;
    let family = Gated {
        model_type: FAMILY.model_type,
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: keys.flag("mlp_bias", false)?,
        kv_heads: None,
        sliding_window: None,
    };
    gated::spec(keys, &family)
}
