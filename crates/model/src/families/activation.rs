//! Activations by the names that Transformers gives them (`ACT2FN`), and the classes torch prints.

use engine::shapes::Activation;

use super::error::ConfigError;
use super::keys::Keys;

/// Name in `config.json`, formula, class of the leaf module.
const TABLE: [(&str, Activation, &str); 10] = [
    ("gelu", Activation::Gelu, "GELUActivation"),
    ("gelu_python", Activation::Gelu, "GELUActivation"),
    ("gelu_new", Activation::GeluTanh, "NewGELUActivation"),
    ("gelu_fast", Activation::GeluTanh, "FastGELUActivation"),
    (
        "gelu_accurate",
        Activation::GeluTanh,
        "AccurateGELUActivation",
    ),
    ("gelu_pytorch_tanh", Activation::GeluTanh, "GELUTanh"),
    ("gelu_python_tanh", Activation::GeluTanh, "GELUTanh"),
    ("silu", Activation::Silu, "SiLUActivation"),
    ("swish", Activation::Silu, "SiLU"),
    ("relu", Activation::Relu, "ReLU"),
];

/// Formula and class of the activation that `key` names, or of `default`.
pub(super) fn activation(
    config: Keys<'_>,
    key: &'static str,
    default: &str,
) -> Result<(Activation, &'static str), ConfigError> {
    let name = config.text(&[key])?.unwrap_or(default);
    let row = TABLE.iter().find(|(known, ..)| *known == name);
    row.map(|(_, formula, class)| (*formula, *class))
        .ok_or_else(|| {
            let known: Vec<&str> = TABLE.iter().map(|(known, ..)| *known).collect();
            config.unsupported(key, name, &format!("use one of {}", known.join(", ")))
        })
}
