//! What a family's decoder computes, and where its weights lie. Pure data, made by `families`.

use engine::shapes::{Activation, AttentionShape, Norm, Orient};

/// A causal decoder, resolved from `config.json`: every size checked, nothing optional left open.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// `model_type` of the config, as `bloom`.
    pub model_type: String,
    /// V, rows of the embedding and of the head.
    pub vocab_size: usize,
    /// D.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads, their layout in the fused qkv row, scale, `ALiBi` slopes, sliding window.
    pub attention: AttentionShape,
    /// Columns of the fused qkv row: `(H + 2K)·E`.
    pub qkv_width: usize,
    /// How positions enter.
    pub positions: Positions,
    /// All norms of the decoder.
    pub norm: Norm,
    /// Norms carry a bias (LayerNorm does, RMSNorm does not).
    pub norm_bias: bool,
    /// BLOOM's `apply_residual_connection_post_layernorm`: the residual is the norm's output.
    pub residual_after_norm: bool,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// `down(f(gate(x))·up(x))` instead of `down(f(up(x)))`.
    pub gated_mlp: bool,
    /// I, columns of the MLP's middle.
    pub intermediate_size: usize,
    /// How every projection of the blocks lies in its file (the head is always `OutIn`).
    pub orient: Orient,
    /// The head reads the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// The row of the embedding that its own gradient leaves as it is (torch's `padding_idx`); a head that is tied to
    /// the embedding still changes it. It matters where the token is part of a text, as where it ends one too.
    pub padding_idx: Option<u32>,
    /// Longest sequence, where the family has a hard end (learned positions); else a soft one for notices.
    pub max_positions: Option<usize>,
    /// Module paths.
    pub names: Names,
}

/// Buffers that old checkpoints carry and no current class has.
const COMPUTED: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

impl DecoderSpec {
    /// The Trainer counts the label of a row's first token, which nothing predicts, among the tokens that an
    /// update's loss is divided by. It tells from the class name whether labels shift, and `GPT2LMHeadModel`
    /// tells it nothing.
    pub fn counts_first_label(&self) -> bool {
        self.model_type == "gpt2"
    }

    /// A tensor that a checkpoint may carry and nobody reads: a mask or table that old versions stored and that is
    /// computed, or the head's own copy of a tied matrix.
    pub fn is_unread(&self, name: &str) -> bool {
        COMPUTED.iter().any(|suffix| name.ends_with(suffix)) || self.is_tied_head(name)
    }

    /// The first step of block paths: `transformer.` or `model.`. Files of the bare base model lack it.
    pub fn prefix(&self) -> &str {
        let end = self.names.layers.find('.').map_or(0, |dot| dot + 1);
        self.names.layers.get(..end).unwrap_or_default()
    }

    /// The head's name for a matrix that it shares with the embedding.
    pub fn is_tied_head(&self, name: &str) -> bool {
        let path = name.strip_suffix(".weight");
        self.tie_word_embeddings && path == Some(self.names.head.as_str())
    }

    /// Columns of attention's output: `H·E`.
    pub fn attention_width(&self) -> usize {
        self.attention.heads * self.attention.head_dim
    }

    /// Columns of a cached key or value row: `K·E`.
    pub fn cache_width(&self) -> usize {
        self.attention.kv_heads * self.attention.head_dim
    }

    /// Columns of the MLP's middle before the activation: `I`, or `2I` where gated.
    pub fn mlp_width(&self) -> usize {
        if self.gated_mlp {
            2 * self.intermediate_size
        } else {
            self.intermediate_size
        }
    }
}

/// How the position of a token enters the computation.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Through `attention.alibi_slopes` only.
    Alibi,
    /// A learned table is added to the embedding (GPT-2's `wpe`).
    Learned {
        /// Rows of the table: longer input is refused.
        rows: usize,
    },
    /// Queries and keys turn by `position · inv_freq[i]`, pairs `(i, i + half)` of each head.
    Rope {
        /// `half` frequencies, after any scaling rule (default, linear, dynamic at its base, llama3, yarn).
        inv_freq: Vec<f64>,
        /// Multiplies cosines and sines (yarn's attention factor); 1 otherwise.
        attention_scaling: f64,
    },
}

/// Full dotted paths of modules, as `named_modules()` of the `…ForCausalLM` class gives them. Weights are
/// `<path>.weight` and `<path>.bias`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Token embedding.
    pub embedding: String,
    /// Learned positions.
    pub positions: Option<String>,
    /// Norm right after the embedding (BLOOM).
    pub embedding_norm: Option<String>,
    /// The list of blocks: block i is `<layers>.<i>`.
    pub layers: String,
    /// Path below a block: norm before attention.
    pub attention_norm: String,
    /// Paths below a block: the projections that fill the fused qkv row, in order of their columns.
    pub qkv: Vec<ProjectionName>,
    /// Path below a block: attention's output projection.
    pub attention_output: ProjectionName,
    /// Path below a block: norm before the MLP.
    pub mlp_norm: String,
    /// Paths below a block: projections into the MLP's middle (gate before up where gated).
    pub mlp_input: Vec<ProjectionName>,
    /// Path below a block: projection out of the MLP.
    pub mlp_output: ProjectionName,
    /// Norm after the last block.
    pub final_norm: String,
    /// The head.
    pub head: String,
}

/// One projection below a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectionName {
    /// Path below the block, as `self_attention.query_key_value`.
    pub path: String,
    /// D of `x·Wᵀ`.
    pub in_features: usize,
    /// O.
    pub out_features: usize,
    /// Has a bias.
    pub bias: bool,
}
