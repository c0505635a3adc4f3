//! GPT-2: learned positions, `Conv1D` projections that lie `[in, out]`.

use engine::shapes::Orient;

use super::activation::activation;
use super::keys::{Keys, MAX_WIDTH};
use super::nodes::{self, project};
use super::{ConfigError, Family, fused};
use crate::spec::{DecoderSpec, Names, Positions};
use crate::tree::{Module, layers};

pub(super) const FAMILY: Family = Family::new("gpt2", spec, tree);
const ROWS: &[&str] = &["n_positions", "max_position_embeddings"];
const ACT: &str = "activation_function";

fn spec(keys: Keys<'_>) -> Result<DecoderSpec, ConfigError> {
    for flag in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        keys.refuse_flag(flag, "one scale for all layers, no encoder")?;
    }
    // `reorder_and_upcast_attn` asks for scores and softmax in f32, which they are here in any case.
    let hidden = keys.required_size(&["n_embd", "hidden_size"], MAX_WIDTH)?;
    let heads = keys.heads(&["n_head", "num_attention_heads"], hidden)?;
    let rows = keys.size(ROWS, MAX_WIDTH)?.unwrap_or(1024);
    let wide = keys.size(&["n_inner"], MAX_WIDTH)?.unwrap_or(4 * hidden);
    let mut attention = nodes::contiguous(heads, heads, hidden / heads);
    if !keys.flag("scale_attn_weights", true)? {
        attention.scale = 1.0;
    }
    Ok(DecoderSpec {
        positions: Positions::Learned { rows },
        activation: activation(keys, ACT, "gelu_new")?.0,
        orient: Orient::InOut,
        max_positions: Some(rows),
        ..fused::spec(keys, FAMILY.model_type, attention, names(hidden, wide))?
    })
}

fn names(hidden: usize, wide: usize) -> Names {
    Names {
        embedding: "transformer.wte".into(),
        positions: Some("transformer.wpe".into()),
        embedding_norm: None,
        layers: "transformer.h".into(),
        attention_norm: "ln_1".into(),
        qkv: vec![project("attn.c_attn", hidden, 3 * hidden, true)],
        attention_output: project("attn.c_proj", hidden, hidden, true),
        mlp_norm: "ln_2".into(),
        mlp_input: vec![project("mlp.c_fc", hidden, wide, true)],
        mlp_output: project("mlp.c_proj", wide, hidden, true),
        final_norm: "transformer.ln_f".into(),
        head: "lm_head".into(),
    }
}

fn tree(keys: Keys<'_>, spec: &DecoderSpec) -> Result<Module, ConfigError> {
    let dropout = |key| nodes::dropout_of(keys, key, 0.1);
    let attention = nodes::attention("GPT2Attention", spec)
        .with("attn_dropout", dropout("attn_pdrop")?)
        .with("resid_dropout", dropout("resid_pdrop")?);
    let mlp = nodes::mlp("GPT2MLP", spec)
        .with("act", Module::new(activation(keys, ACT, "gelu_new")?.1))
        .with("dropout", dropout("resid_pdrop")?);
    let block = Module::new("GPT2Block")
        .with("ln_1", nodes::norm(spec))
        .with("attn", attention)
        .with("ln_2", nodes::norm(spec))
        .with("mlp", mlp);
    let rows = spec.max_positions.unwrap_or_default();
    let model = Module::new("GPT2Model")
        .with("wte", nodes::token_embedding(spec))
        .with("wpe", layers::embedding(rows, spec.hidden_size, None))
        .with("drop", dropout("embd_pdrop")?)
        .with("h", layers::list(spec.num_hidden_layers, &block))
        .with("ln_f", nodes::norm(spec));
    Ok(Module::new("GPT2LMHeadModel")
        .with("transformer", model)
        .with("lm_head", nodes::head(spec)))
}
