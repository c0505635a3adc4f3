//! BLOOM: `ALiBi`, one fused qkv whose columns alternate head by head, a norm after the embedding.

use super::keys::{Keys, MAX_WIDTH};
use super::nodes::{self, project};
use super::{ConfigError, Family, alibi, fused};
use crate::spec::{DecoderSpec, Names};
use crate::tree::{Module, layers};

pub(super) const FAMILY: Family = Family::new("bloom", spec, tree);

fn spec(keys: Keys<'_>) -> Result<DecoderSpec, ConfigError> {
    // Slices of two weights would be multiplied apart, without their bias and their delta.
    if keys.flag("slow_but_exact", false)? && keys.count("pretraining_tp")?.unwrap_or(1) > 1 {
        let why = "set it to false, or pretraining_tp to 1";
        return Err(keys.unsupported("slow_but_exact", "true", why));
    }
    // `n_embed` wins over `hidden_size`, as in `BloomConfig`.
    let hidden = keys.required_size(&["n_embed", "hidden_size"], MAX_WIDTH)?;
    let heads = keys.heads(&["n_head", "num_attention_heads"], hidden)?;
    let mut attention = nodes::interleaved(heads, hidden / heads);
    attention.alibi_slopes = Some(alibi::slopes(heads));
    let spec = fused::spec(keys, FAMILY.model_type, attention, names(hidden))?;
    Ok(DecoderSpec {
        residual_after_norm: keys.flag("apply_residual_connection_post_layernorm", false)?,
        ..spec
    })
}

fn names(hidden: usize) -> Names {
    let wide = 4 * hidden;
    let qkv = project("self_attention.query_key_value", hidden, 3 * hidden, true);
    Names {
        embedding: "transformer.word_embeddings".into(),
        positions: None,
        embedding_norm: Some("transformer.word_embeddings_layernorm".into()),
        layers: "transformer.h".into(),
        attention_norm: "input_layernorm".into(),
        qkv: vec![qkv],
        attention_output: project("self_attention.dense", hidden, hidden, true),
        mlp_norm: "post_attention_layernorm".into(),
        mlp_input: vec![project("mlp.dense_h_to_4h", hidden, wide, true)],
        mlp_output: project("mlp.dense_4h_to_h", wide, hidden, true),
        final_norm: "transformer.ln_f".into(),
        head: "lm_head".into(),
    }
}

fn tree(keys: Keys<'_>, spec: &DecoderSpec) -> Result<Module, ConfigError> {
    let dropout = nodes::dropout_of(keys, "attention_dropout", 0.0)?;
    let attention = nodes::attention("BloomAttention", spec).with("attention_dropout", dropout);
    let mut mlp = nodes::mlp("BloomMLP", spec);
    mlp.children
        .insert(1, ("gelu_impl".into(), Module::new("BloomGelu")));
    let block = Module::new("BloomBlock")
        .with("input_layernorm", nodes::norm(spec))
        .with("self_attention", attention)
        .with("post_attention_layernorm", nodes::norm(spec))
        .with("mlp", mlp);
    let model = Module::new("BloomModel")
        .with("word_embeddings", nodes::token_embedding(spec))
        .with("word_embeddings_layernorm", nodes::norm(spec))
        .with("h", layers::list(spec.num_hidden_layers, &block))
        .with("ln_f", nodes::norm(spec));
    Ok(Module::new("BloomForCausalLM")
        .with("transformer", model)
        .with("lm_head", nodes::head(spec)))
}
