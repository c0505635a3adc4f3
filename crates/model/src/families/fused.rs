//! What BLOOM and GPT-2 share: LayerNorms with bias, as many kv heads as heads, a plain MLP, a tied head.

use engine::shapes::{Activation, AttentionShape, Norm, Orient};

use super::ConfigError;
use super::keys::{Keys, MAX_LAYERS, MAX_WIDTH};
use crate::spec::{DecoderSpec, Names, Positions};

/// A spec in which each family replaces what is its own.
pub(super) fn spec(
    keys: Keys<'_>,
    model_type: &str,
    attention: AttentionShape,
    names: Names,
) -> Result<DecoderSpec, ConfigError> {
    let hidden = attention.heads * attention.head_dim;
    Ok(DecoderSpec {
        model_type: model_type.into(),
        vocab_size: keys.required_size(&["vocab_size"], MAX_WIDTH)?,
        hidden_size: hidden,
        num_hidden_layers: keys.required_size(&["n_layer", "num_hidden_layers"], MAX_LAYERS)?,
        qkv_width: 3 * hidden,
        attention,
        positions: Positions::Alibi,
        norm: Norm::Layer {
            eps: keys.epsilon(&["layer_norm_epsilon"], 1e-5)?,
        },
        norm_bias: true,
        residual_after_norm: false,
        activation: Activation::GeluTanh,
        gated_mlp: false,
        intermediate_size: names.mlp_output.in_features,
        orient: Orient::OutIn,
        tie_word_embeddings: keys.flag("tie_word_embeddings", true)?,
        padding_idx: None,
        max_positions: None,
        names,
    })
}
