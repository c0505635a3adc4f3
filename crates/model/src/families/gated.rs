//! What Llama, Mistral and Qwen2 share: RMS norms, rotary positions, grouped heads, a gated MLP.

use engine::shapes::{Norm, Orient};

use super::ConfigError;
use super::activation::activation;
use super::keys::{Keys, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH};
use super::nodes::{self, project};
use super::rope::rope;
use crate::spec::{DecoderSpec, Names};
use crate::tree::{Module, layers};

/// Where they differ.
pub(super) struct Gated {
    pub(super) model_type: &'static str,
    pub(super) qkv_bias: bool,
    pub(super) output_bias: bool,
    pub(super) mlp_bias: bool,
    /// `num_key_value_heads` where the key is absent; `None`: as many as query heads.
    pub(super) kv_heads: Option<usize>,
    pub(super) sliding_window: Option<usize>,
}

const HEADS: &[&str] = &["num_attention_heads", "n_head"];
const KV_HEADS: &[&str] = &["num_key_value_heads"];
const POSITIONS: &[&str] = &["max_position_embeddings", "max_sequence_length"];

pub(super) fn spec(keys: Keys<'_>, family: &Gated) -> Result<DecoderSpec, ConfigError> {
    let hidden = keys.required_size(&["hidden_size"], MAX_WIDTH)?;
    let (heads, kv_heads, head_dim) = head_sizes(keys, family, hidden)?;
    let vocab_size = keys.required_size(&["vocab_size"], MAX_WIDTH)?;
    let intermediate = keys.required_size(&["intermediate_size"], MAX_WIDTH)?;
    let mut attention = nodes::contiguous(heads, kv_heads, head_dim);
    attention.sliding_window = family.sliding_window;
    let spec = DecoderSpec {
        model_type: family.model_type.into(),
        vocab_size,
        hidden_size: hidden,
        num_hidden_layers: keys.required_size(&["num_hidden_layers"], MAX_LAYERS)?,
        attention,
        qkv_width: (heads + 2 * kv_heads) * head_dim,
        positions: rope(keys, head_dim)?,
        norm: Norm::Rms {
            eps: keys.epsilon(&["rms_norm_eps"], 1e-6)?,
        },
        norm_bias: false,
        residual_after_norm: false,
        activation: activation(keys, "hidden_act", "silu")?.0,
        gated_mlp: true,
        intermediate_size: intermediate,
        orient: Orient::OutIn,
        tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
        padding_idx: padding_idx(keys, vocab_size)?,
        max_positions: keys.size(POSITIONS, MAX_POSITIONS)?,
        names: Names::default(),
    };
    Ok(DecoderSpec {
        names: names(&spec, family),
        ..spec
    })
}

/// A negative one counts from the end, as torch has it; `None` where it is no row, which torch refuses.
fn padding_idx(keys: Keys<'_>, vocab_size: usize) -> Result<Option<u32>, ConfigError> {
    let vocab_size = vocab_size as i64;
    let given = keys.integer("pad_token_id")?;
    let index = given.map(|index| if index < 0 { index + vocab_size } else { index });
    let row = index.filter(|index| (0..vocab_size).contains(index));
    Ok(row.and_then(|index| u32::try_from(index).ok()))
}

fn head_sizes(
    keys: Keys<'_>,
    family: &Gated,
    hidden: usize,
) -> Result<(usize, usize, usize), ConfigError> {
    let given = keys.size(&["head_dim"], MAX_WIDTH)?;
    let (heads, head_dim) = match given {
        Some(head_dim) => (keys.required_size(HEADS, MAX_WIDTH)?, head_dim),
        None => {
            let heads = keys.heads(HEADS, hidden)?;
            (heads, hidden / heads)
        }
    };
    let key = if given.is_some() {
        "head_dim"
    } else {
        HEADS[0]
    };
    if heads.saturating_mul(head_dim) as u64 > MAX_WIDTH {
        let want = format!("at most {MAX_WIDTH} over all heads");
        return Err(keys.out_of_range(key, want, &head_dim.into()));
    }
    if !head_dim.is_multiple_of(2) {
        let why = "rotary positions turn pairs of columns";
        return Err(keys.unsupported(key, &format!("head dimension {head_dim}"), why));
    }
    let kv_heads = keys.size(KV_HEADS, MAX_WIDTH)?;
    let absent = if keys.has("num_key_value_heads") {
        None
    } else {
        family.kv_heads
    };
    let kv_heads = kv_heads.or(absent).unwrap_or(heads);
    Ok((heads, keys.divisor(kv_heads, heads, KV_HEADS)?, head_dim))
}

fn names(spec: &DecoderSpec, family: &Gated) -> Names {
    let (hidden, wide) = (spec.hidden_size, spec.intermediate_size);
    let rows = |heads: usize| heads * spec.attention.head_dim;
    let (queries, keys) = (rows(spec.attention.heads), rows(spec.attention.kv_heads));
    Names {
        embedding: "model.embed_tokens".into(),
        positions: None,
        embedding_norm: None,
        layers: "model.layers".into(),
        attention_norm: "input_layernorm".into(),
        qkv: vec![
            project("self_attn.q_proj", hidden, queries, family.qkv_bias),
            project("self_attn.k_proj", hidden, keys, family.qkv_bias),
            project("self_attn.v_proj", hidden, keys, family.qkv_bias),
        ],
        attention_output: project("self_attn.o_proj", queries, hidden, family.output_bias),
        mlp_norm: "post_attention_layernorm".into(),
        mlp_input: vec![
            project("mlp.gate_proj", hidden, wide, family.mlp_bias),
            project("mlp.up_proj", hidden, wide, family.mlp_bias),
        ],
        mlp_output: project("mlp.down_proj", wide, hidden, family.mlp_bias),
        final_norm: "model.norm".into(),
        head: "lm_head".into(),
    }
}

/// `prefix` begins the class names, as `Llama`.
pub(super) fn tree(
    keys: Keys<'_>,
    spec: &DecoderSpec,
    prefix: &str,
) -> Result<Module, ConfigError> {
    let class = |rest: &str| format!("{prefix}{rest}");
    let (Norm::Layer { eps } | Norm::Rms { eps }) = spec.norm;
    let norm = || layers::rms_norm(&class("RMSNorm"), spec.hidden_size, eps);
    let act = activation(keys, "hidden_act", "silu")?.1;
    let mlp = nodes::mlp(&class("MLP"), spec).with("act_fn", Module::new(act));
    let block = Module::new(class("DecoderLayer"))
        .with("self_attn", nodes::attention(&class("Attention"), spec))
        .with("mlp", mlp)
        .with("input_layernorm", norm())
        .with("post_attention_layernorm", norm());
    let model = Module::new(class("Model"))
        .with("embed_tokens", nodes::token_embedding(spec))
        .with("layers", layers::list(spec.num_hidden_layers, &block))
        .with("norm", norm())
        .with("rotary_emb", Module::new(class("RotaryEmbedding")));
    Ok(Module::new(class("ForCausalLM"))
        .with("model", model)
        .with("lm_head", nodes::head(spec)))
}
