//! How fast an update could be at most: its frozen products alone, at the rate that the cores sustain.
//!
//! Every frozen matrix is multiplied twice, on the way up and on the way down. Attention, norms, activations and LoRA's
//! own products come on top of that, so nothing that computes these numbers is faster.

use std::path::Path;

use anyhow::Result;
use formats::hf_config::HfConfig;
use model::families;
use model::spec::DecoderSpec;

use super::lengths::{self, Lengths};

/// GFLOP of the frozen products of some rows' updates, over the rows' tokens.
pub(crate) fn gflop_per_token(model: &Path, rows: &Lengths, opening: usize) -> Result<f64> {
    let spec = families::decoder_spec(&HfConfig::open(model)?)?;
    let labels = rows
        .iter()
        .map(|[prompt, all]| all.saturating_sub(*prompt.max(&1)))
        .sum();
    let multiply_adds = multiply_adds(&spec, lengths::computed(rows, opening), labels);
    Ok(2e-9 * multiply_adds as f64 / lengths::tokens(rows) as f64)
}

/// Of `tokens` of which `labels` are learnt, where LoRA is on the queries, keys or values.
fn multiply_adds(spec: &DecoderSpec, tokens: usize, labels: usize) -> usize {
    let hidden_size = spec.hidden_size;
    let qkv = hidden_size * spec.qkv_width;
    let mlp = hidden_size * (spec.mlp_width() + spec.intermediate_size);
    let behind_qkv = hidden_size * spec.attention_width() + mlp;
    // What the last block does behind its attention, and the head, serves labels alone.
    let up = tokens * spec.num_hidden_layers * qkv
        + tokens * (spec.num_hidden_layers - 1) * behind_qkv
        + labels * (behind_qkv + hidden_size * spec.vocab_size);
    // Below the first block's adapters nothing is learnt.
    2 * up - tokens * qkv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_multiplied_twice_but_for_what_nothing_learns_from() {
        let demo = crate::run::root().join("crates/cli/demo");
        let config = HfConfig::open(&demo).expect("the demo's config");
        let mut spec = families::decoder_spec(&config).expect("a known family");
        (spec.num_hidden_layers, spec.vocab_size) = (2, 100);
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        let (qkv, out) = (hidden * spec.qkv_width, hidden * spec.attention_width());
        let mlp = 2 * hidden * inner;
        let every = qkv + (qkv + out + mlp) * 2;
        let labelled = (out + mlp + hidden * 100) * 2;
        assert_eq!(multiply_adds(&spec, 7, 3), 7 * every + 3 * labelled);
    }
}
