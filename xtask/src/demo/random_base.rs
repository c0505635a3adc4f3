//! A BLOOM that knows nothing: the config, and random weights in its shapes.

use std::path::Path;

use anyhow::Result;
use durable::faults::Dice;
use lowrank::formats::Dtype;
use lowrank::formats::safetensors::{self, TensorToWrite};
use serde_json::json;

use super::tokenizer::VOCABULARY;

/// Writes `config.json`, `generation_config.json` and `model.safetensors` (bf16).
pub(super) fn write(folder: &Path, seed: u64) -> Result<()> {
    let config = json!({
        "architectures": ["BloomForCausalLM"], "model_type": "bloom", "vocab_size": VOCABULARY,
        "hidden_size": 128, "n_layer": 4, "n_head": 4, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
        "apply_residual_connection_post_layernorm": false, "tie_word_embeddings": true,
        "attention_dropout": 0.0, "hidden_dropout": 0.0, "use_cache": true, "torch_dtype": "bfloat16",
        "unk_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    });
    let generation = json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3 });
    std::fs::write(
        folder.join("config.json"),
        serde_json::to_string_pretty(&config)? + "\n",
    )?;
    std::fs::write(
        folder.join("generation_config.json"),
        serde_json::to_string_pretty(&generation)? + "\n",
    )?;
    let parameters = lowrank::inspect(folder, None, None)?.parameters;
    let mut dice = Dice::new(seed);
    let weights: Vec<_> = parameters
        .iter()
        .map(|parameter| bytes(&parameter.name, &parameter.shape, &mut dice))
        .collect();
    let tensors = parameters.iter().zip(&weights);
    let tensors =
        tensors.map(|(one, bytes)| TensorToWrite::bytes(&one.name, Dtype::BF16, &one.shape, bytes));
    let mut file = std::fs::File::create(folder.join("model.safetensors"))?;
    safetensors::write(&mut file, tensors.collect(), &[("format", "pt")])?;
    Ok(())
}

fn bytes(name: &str, shape: &[usize], dice: &mut Dice) -> Vec<u8> {
    let value = |dice: &mut Dice| match (name.ends_with(".bias"), shape.len()) {
        (true, _) => 0.0,
        (false, 1) => 1.0,
        (false, _) => 0.02 * normal(dice),
    };
    // bf16 by truncation: these values are random anyhow.
    let bf16 = |value: f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
    (0..shape.iter().product())
        .flat_map(|_| bf16(value(dice)))
        .collect()
}

/// About normal, with spread 1: the sum of twelve uniform draws less its mean.
fn normal(dice: &mut Dice) -> f32 {
    let uniform = |_| (dice.bits() >> 40) as f32 / (1 << 24) as f32;
    (0..12).map(uniform).sum::<f32>() - 6.0
}
