//! Where a config asks Transformers for something that the decoder leaves out on purpose.

use super::ConfigError;
use super::keys::Keys;

/// Dropouts of the base itself, which a Trainer leaves on while it trains an adapter, and their defaults.
const DROPOUTS: [(&str, &[(&str, f64)]); 5] = [
    (
        "bloom",
        &[("hidden_dropout", 0.0), ("attention_dropout", 0.0)],
    ),
    (
        "gpt2",
        &[
            ("resid_pdrop", 0.1),
            ("embd_pdrop", 0.1),
            ("attn_pdrop", 0.1),
        ],
    ),
    ("llama", &[("attention_dropout", 0.0)]),
    ("mistral", &[("attention_dropout", 0.0)]),
    ("qwen2", &[("attention_dropout", 0.0)]),
];

/// One line each, for the user's eyes; empty where training is the Trainer's to the letter.
pub(super) fn notices(keys: Keys<'_>) -> Result<Vec<String>, ConfigError> {
    let mut notices = Vec::new();
    let family = keys.text(&["model_type"])?.unwrap_or_default();
    let known = DROPOUTS.iter().filter(|(name, _)| *name == family);
    for (key, default) in known.flat_map(|(_, dropouts)| *dropouts) {
        let probability = keys.probability(&[key])?.unwrap_or(*default);
        if probability > 0.0 {
            notices.push(format!(
                "`{key}` is {probability}: a Trainer drops values of the frozen base while it trains, here only \
                 lora_dropout applies"
            ));
        }
    }
    let scaling = match keys.below("rope_scaling")? {
        Some(old) => Some(old),
        None => keys.below("rope_parameters")?,
    };
    let kind = scaling.map(|scaling| scaling.text(&["rope_type", "type"]));
    if kind.transpose()?.flatten() == Some("dynamic") {
        notices.push(
            "rope_type is `dynamic`: sequences beyond max_position_embeddings keep the frequencies of shorter \
             ones"
                .into(),
        );
    }
    Ok(notices)
}
