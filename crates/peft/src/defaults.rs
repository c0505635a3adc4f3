//! Target modules where the configuration names none.

use formats::adapter_config::OneOrMany;

/// PEFT 0.21.2's `TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING`, whole.
const PEFT: &[(&[&str], &[&str])] = &[
    (
        &[
            "bart",
            "opt",
            "gptj",
            "gpt_neo",
            "llama",
            "llama4",
            "mistral",
            "mixtral",
            "stablelm",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen2",
            "qwen3",
        ],
        &["q_proj", "v_proj"],
    ),
    (
        &[
            "bloom",
            "gpt_neox",
            "chatglm",
            "RefinedWebModel",
            "RefinedWeb",
            "falcon",
        ],
        &["query_key_value"],
    ),
    (&["gpt2", "gpt_bigcode"], &["c_attn"]),
    (&["btlm"], &["c_proj", "c_attn"]),
    (&["mpt"], &["Wqkv"]),
    (&["codegen"], &["qkv_proj"]),
    (&["phi"], &["q_proj", "v_proj", "fc1", "fc2"]),
    (&["nemotron_h"], &["q_proj", "k_proj", "v_proj", "o_proj"]),
    (&["rwkv"], &["key", "value", "receptance", "output"]),
    (
        &["rwkv7"],
        &["r_proj", "k_proj", "v_proj", "o_proj", "key", "value"],
    ),
    (&["t5", "mt5"], &["q", "v"]),
    (&["blip-2"], &["q", "v", "q_proj", "v_proj"]),
    (
        &["bert", "roberta", "xlm-roberta", "electra", "layoutlm"],
        &["query", "value"],
    ),
    (&["deberta-v2"], &["query_proj", "value_proj"]),
    (&["deberta"], &["in_proj"]),
];

/// The one default of PEFT's that is a pattern.
const GEMMA4: &str = r".*language_model\..*\.(q_proj|v_proj)";

/// The default targets of a family: PEFT's, or every linear layer where PEFT has none and would err.
/// The flag says that it is ours.
pub fn default_targets(model_type: &str) -> (OneOrMany<String>, bool) {
    if model_type == "gemma4" {
        return (OneOrMany::One(GEMMA4.to_owned()), false);
    }
    let row = PEFT
        .iter()
        .find(|(families, _)| families.contains(&model_type));
    match row {
        Some((_, targets)) => {
            let names = targets.iter().map(|&name| name.to_owned()).collect();
            (OneOrMany::Many(names), false)
        }
        None => (OneOrMany::One(crate::matching::ALL_LINEAR.to_owned()), true),
    }
}
