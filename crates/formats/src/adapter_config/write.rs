//! [`AdapterConfig`] to JSON.

use super::{AdapterConfig, InitLoraWeights, OneOrMany, PASSED};
use crate::pyjson::{Json, Style, to_string};

pub(super) fn to_json(config: &AdapterConfig, style: Style) -> String {
    let entries = targets(config)
        .into_iter()
        .chain(settings(config))
        .chain(passed(config));
    to_string(&Json::object(entries), style)
}

fn targets(config: &AdapterConfig) -> Vec<(&'static str, Json)> {
    let replication = config.layer_replication.as_ref();
    let pairs = replication.map(|pairs| pairs.iter().map(|&(a, b)| vec![a, b]).collect::<Vec<_>>());
    vec![
        ("target_modules", config.target_modules.clone().into()),
        ("exclude_modules", config.exclude_modules.clone().into()),
        ("modules_to_save", config.modules_to_save.clone().into()),
        ("target_parameters", config.target_parameters.clone().into()),
        (
            "layers_to_transform",
            config.layers_to_transform.clone().into(),
        ),
        ("layers_pattern", config.layers_pattern.clone().into()),
        ("layer_replication", pairs.into()),
        (
            "trainable_token_indices",
            config.trainable_token_indices.clone().into(),
        ),
        ("rank_pattern", dict(&config.rank_pattern)),
        ("alpha_pattern", dict(&config.alpha_pattern)),
    ]
}

fn settings(config: &AdapterConfig) -> Vec<(&'static str, Json)> {
    vec![
        ("peft_type", "LORA".into()),
        ("peft_version", config.peft_version.clone().into()),
        ("task_type", config.task_type.clone().into()),
        (
            "base_model_name_or_path",
            config.base_model_name_or_path.clone().into(),
        ),
        ("revision", config.revision.clone().into()),
        ("inference_mode", config.inference_mode.into()),
        ("auto_mapping", config.auto_mapping.clone().into()),
        ("r", config.r.into()),
        ("lora_alpha", config.lora_alpha.into()),
        ("lora_dropout", config.lora_dropout.into()),
        ("fan_in_fan_out", config.fan_in_fan_out.into()),
        ("bias", config.bias.name().into()),
        ("use_rslora", config.use_rslora.into()),
        ("init_lora_weights", config.init_lora_weights.clone().into()),
        ("megatron_core", config.megatron_core.clone().into()),
        ("lora_bias", config.lora_bias.into()),
        ("use_dora", config.use_dora.into()),
        ("use_qalora", config.use_qalora.into()),
        ("qalora_group_size", config.qalora_group_size.into()),
        ("ensure_weight_tying", config.ensure_weight_tying.into()),
        ("loftq_config", dict(&config.loftq_config)),
    ]
}

fn passed(config: &AdapterConfig) -> Vec<(&'static str, Json)> {
    let values = config.passed.iter().map(|value| value.clone().into());
    PASSED.into_iter().zip(values).collect()
}

fn dict<T: Clone + Into<Json>>(entries: &indexmap::IndexMap<String, T>) -> Json {
    Json::object(
        entries
            .iter()
            .map(|(key, value)| (key.clone(), value.clone().into())),
    )
}

impl From<InitLoraWeights> for Json {
    fn from(init: InitLoraWeights) -> Self {
        match init {
            InitLoraWeights::Flag(flag) => flag.into(),
            InitLoraWeights::Named(name) => name.into(),
        }
    }
}

impl<T: Into<Json>> From<OneOrMany<T>> for Json {
    fn from(values: OneOrMany<T>) -> Self {
        match values {
            OneOrMany::One(value) => value.into(),
            OneOrMany::Many(values) => values.into(),
        }
    }
}
