//! The fuzz target of configs as a plain function, for `cargo fuzz` and for the deterministic mutator of the tests.

use std::path::Path;

use engine::shapes::Norm;
use formats::hf_config::HfConfig;

use crate::families::{decoder_spec, module_tree, notices};
use crate::spec::{DecoderSpec, Positions, ProjectionName};

/// Bytes of the widest stored number.
const WIDEST: usize = 8;

/// A `config.json`. Accepted: every size that memory is reserved by is above zero and multiplies without overflow, every
/// number is finite, and the module tree can be made.
pub fn fuzz_config(bytes: &[u8]) {
    let Ok(config) = HfConfig::parse(bytes, Path::new("config.json")) else {
        return;
    };
    let Ok(spec) = decoder_spec(&config) else {
        return;
    };
    check_sizes(&spec);
    check_numbers(&spec);
    // A tree may be refused for what a spec does not look at, as dropout.
    let _ = (module_tree(&config), notices(&config));
}

fn check_sizes(spec: &DecoderSpec) {
    let product = |sizes: &[usize]| {
        let bytes = sizes
            .iter()
            .try_fold(WIDEST, |sum, size| sum.checked_mul(*size));
        assert!(
            bytes.is_some_and(|bytes| bytes > 0),
            "{sizes:?} in {}",
            spec.model_type
        );
    };
    let (width, layers) = (spec.hidden_size, spec.num_hidden_layers);
    product(&[spec.vocab_size, width]);
    product(&[layers, spec.qkv_width, width]);
    product(&[layers, spec.mlp_width(), width]);
    product(&[layers, spec.attention_width(), spec.cache_width()]);
    product(&[spec.max_positions.unwrap_or(1)]);
    let projections = spec.names.qkv.iter().chain(&spec.names.mlp_input);
    let last = [&spec.names.attention_output, &spec.names.mlp_output];
    for ProjectionName {
        in_features,
        out_features,
        ..
    } in projections.chain(last)
    {
        product(&[layers, *in_features, *out_features]);
    }
    let attention = &spec.attention;
    assert_eq!(
        attention.heads % attention.kv_heads,
        0,
        "heads share key heads evenly"
    );
    let rows: usize = spec.names.qkv.iter().map(|part| part.out_features).sum();
    assert_eq!(rows, spec.qkv_width, "the projections fill the fused row");
}

fn check_numbers(spec: &DecoderSpec) {
    let (Norm::Layer { eps } | Norm::Rms { eps }) = spec.norm;
    assert!(eps.is_finite() && eps > 0.0, "epsilon {eps}");
    assert!(
        spec.attention.scale.is_finite(),
        "scale {}",
        spec.attention.scale
    );
    let slopes = spec.attention.alibi_slopes.iter().flatten();
    assert!(slopes.copied().all(f32::is_finite), "slopes are finite");
    if let Positions::Rope {
        inv_freq,
        attention_scaling,
    } = &spec.positions
    {
        assert_eq!(
            inv_freq.len() * 2,
            spec.attention.head_dim,
            "half a head turns"
        );
        assert!(
            inv_freq.iter().all(|one| one.is_finite()),
            "frequencies are finite: {inv_freq:?}"
        );
        assert!(attention_scaling.is_finite(), "scaling {attention_scaling}");
    }
}
