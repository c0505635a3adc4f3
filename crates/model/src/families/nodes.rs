//! Pieces that several families' tables share.

use engine::shapes::{AttentionShape, HeadLayout, Norm, Orient};

use super::ConfigError;
use super::keys::Keys;
use crate::spec::{DecoderSpec, ProjectionName};
use crate::tree::Module;
use crate::tree::layers::{conv1d, dropout, embedding, layer_norm, linear};

/// Queries, then keys, then values, head after head in each.
pub(super) fn contiguous(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let part = |first_head: usize| HeadLayout {
        offset: first_head * head_dim,
        stride: head_dim,
    };
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: (head_dim as f64).powf(-0.5) as f32,
        query: part(0),
        key: part(heads),
        value: part(heads + kv_heads),
        alibi_slopes: None,
        sliding_window: None,
    }
}

/// Query, key and value of head 0, then of head 1, and so on.
pub(super) fn interleaved(heads: usize, head_dim: usize) -> AttentionShape {
    let part = |index: usize| HeadLayout {
        offset: index * head_dim,
        stride: 3 * head_dim,
    };
    AttentionShape {
        query: part(0),
        key: part(1),
        value: part(2),
        ..contiguous(heads, heads, head_dim)
    }
}

/// A row of a table.
pub(super) fn project(
    path: &str,
    in_features: usize,
    out_features: usize,
    bias: bool,
) -> ProjectionName {
    ProjectionName {
        path: path.into(),
        in_features,
        out_features,
        bias,
    }
}

/// The attention's projections under their last names, in order.
pub(super) fn attention(class: &str, spec: &DecoderSpec) -> Module {
    let names = spec.names.qkv.iter().chain([&spec.names.attention_output]);
    with_projections(class, spec, names)
}

/// The MLP's projections under their last names, in order.
pub(super) fn mlp(class: &str, spec: &DecoderSpec) -> Module {
    let names = spec.names.mlp_input.iter().chain([&spec.names.mlp_output]);
    with_projections(class, spec, names)
}

fn with_projections<'a>(
    class: &str,
    spec: &DecoderSpec,
    names: impl Iterator<Item = &'a ProjectionName>,
) -> Module {
    names.fold(Module::new(class), |module, name| {
        let last = name.path.rsplit('.').next().unwrap_or(&name.path);
        module.with(last, projection(spec, name))
    })
}

fn projection(spec: &DecoderSpec, name: &ProjectionName) -> Module {
    match spec.orient {
        Orient::OutIn => linear(name.in_features, name.out_features, name.bias),
        Orient::InOut => conv1d(name.in_features, name.out_features),
    }
}

/// The token embedding's module.
pub(super) fn token_embedding(spec: &DecoderSpec) -> Module {
    embedding(spec.vocab_size, spec.hidden_size, spec.padding_idx)
}

/// A LayerNorm over the hidden size.
pub(super) fn norm(spec: &DecoderSpec) -> Module {
    let (Norm::Layer { eps } | Norm::Rms { eps }) = spec.norm;
    layer_norm(spec.hidden_size, eps)
}

/// The head's module.
pub(super) fn head(spec: &DecoderSpec) -> Module {
    linear(spec.hidden_size, spec.vocab_size, false)
}

/// A dropout module with the config's probability.
pub(super) fn dropout_of(
    keys: Keys<'_>,
    key: &'static str,
    default: f64,
) -> Result<Module, ConfigError> {
    Ok(dropout(keys.probability(&[key])?.unwrap_or(default)))
}
