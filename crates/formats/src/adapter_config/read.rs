//! JSON to [`AdapterConfig`].

use std::path::Path;

use indexmap::IndexMap;

use super::{
    AdapterConfig, Bias, InitLoraWeights, MAX_RANK, OneOrMany, PASSED, PEFT_VERSION, TASK_TYPES,
};
use crate::error::FormatsError;
use crate::fields::{Fields, bad_key, list, string};
use crate::pyjson::Json;

pub(super) fn read(text: &[u8], path: &Path) -> Result<AdapterConfig, FormatsError> {
    let mut fields = Fields::parse(text, path)?;
    check_method(&mut fields)?;
    // PEFT drops it on reading: it belongs to the process, not to the adapter.
    fields.take("runtime_config");
    let default = AdapterConfig::default();
    let mut config = AdapterConfig {
        r: fields.read("r", RANK, rank)?.unwrap_or(default.r),
        lora_alpha: fields
            .read("lora_alpha", "a number", Json::as_number)?
            .unwrap_or(default.lora_alpha),
        lora_dropout: fields
            .read("lora_dropout", "a number", Json::as_number)?
            .unwrap_or(default.lora_dropout),
        bias: fields
            .read("bias", "`none`, `all` or `lora_only`", bias)?
            .unwrap_or(Bias::None),
        init_lora_weights: fields
            .read("init_lora_weights", "true, false or a name", init)?
            .unwrap_or(default.init_lora_weights),
        fan_in_fan_out: fields.flag("fan_in_fan_out", false)?,
        use_rslora: fields.flag("use_rslora", false)?,
        use_dora: fields.flag("use_dora", false)?,
        use_qalora: fields.flag("use_qalora", false)?,
        lora_bias: fields.flag("lora_bias", false)?,
        inference_mode: fields.flag("inference_mode", false)?,
        ensure_weight_tying: fields.flag("ensure_weight_tying", false)?,
        qalora_group_size: fields
            .read("qalora_group_size", "an integer", Json::as_i64)?
            .unwrap_or(default.qalora_group_size),
        ..AdapterConfig::default()
    };
    read_targets(&mut config, &mut fields)?;
    read_origin(&mut config, &mut fields)?;
    for (key, slot) in PASSED.iter().zip(&mut config.passed) {
        *slot = fields.take(key);
    }
    config.extra = fields.rest();
    Ok(config)
}

fn check_method(fields: &mut Fields) -> Result<(), FormatsError> {
    let path = fields.path().to_owned();
    match fields.text("peft_type")? {
        Some(found) if found == "LORA" => Ok(()),
        Some(found) => Err(FormatsError::NotLora { path, found }),
        None => Err(FormatsError::MissingKey {
            path,
            keys: vec!["peft_type".to_owned()],
        }),
    }
}

fn read_targets(config: &mut AdapterConfig, fields: &mut Fields) -> Result<(), FormatsError> {
    const NAMES: &str = "a string or a list of strings";
    const LIST: &str = "a list of strings";
    config.target_modules = fields
        .read("target_modules", NAMES, names)?
        .map(without_repeats);
    config.exclude_modules = fields
        .read("exclude_modules", NAMES, names)?
        .map(without_repeats);
    config.modules_to_save = fields.read("modules_to_save", LIST, |value| list(value, string))?;
    config.target_parameters =
        fields.read("target_parameters", LIST, |value| list(value, string))?;
    config.layers_to_transform = fields.read(
        "layers_to_transform",
        "a layer's number or a list of them",
        |value| one_or_many(value, layer),
    )?;
    config.layers_pattern = fields.read("layers_pattern", NAMES, names)?;
    config.layer_replication =
        fields.read("layer_replication", "a list of pairs of layers", |value| {
            list(value, pair)
        })?;
    let ranks = fields.read("rank_pattern", "an object of ranks", |value| {
        dict(value, rank)
    })?;
    config.rank_pattern = ranks.unwrap_or_default();
    let alphas = fields.read("alpha_pattern", "an object of numbers", |value| {
        dict(value, Json::as_number)
    })?;
    config.alpha_pattern = alphas.unwrap_or_default();
    config.trainable_token_indices = fields.take("trainable_token_indices");
    Ok(())
}

fn read_origin(config: &mut AdapterConfig, fields: &mut Fields) -> Result<(), FormatsError> {
    let task_types = format!("one of {}", TASK_TYPES.join(", "));
    config.task_type = fields.read("task_type", &task_types, |value| {
        string(value).filter(|name| TASK_TYPES.contains(&name.as_str()))
    })?;
    config.base_model_name_or_path = fields.text("base_model_name_or_path")?;
    config.revision = fields.text("revision")?;
    config.auto_mapping = fields.take("auto_mapping");
    let version = fields.text("peft_version")?;
    config.peft_version = version.or_else(|| Some(PEFT_VERSION.to_owned()));
    if let Some(core) = fields.text("megatron_core")? {
        config.megatron_core = Some(core);
    }
    let loftq = fields.read("loftq_config", "an object", |value| {
        dict(value, |v| Some(v.clone()))
    })?;
    // PEFT empties it, with a warning, unless the init is LoftQ.
    if config.init_lora_weights == InitLoraWeights::Named("loftq".to_owned()) {
        config.loftq_config = loftq.unwrap_or_default();
    }
    Ok(())
}

const RANK: &str = "an integer from 1 to 4096";

fn rank(value: &Json) -> Option<u32> {
    let rank = u32::try_from(value.as_i64()?).ok()?;
    (1..=MAX_RANK).contains(&rank).then_some(rank)
}

fn bias(value: &Json) -> Option<Bias> {
    let name = value.as_str()?;
    [Bias::None, Bias::All, Bias::LoraOnly]
        .into_iter()
        .find(|bias| bias.name() == name)
}

fn init(value: &Json) -> Option<InitLoraWeights> {
    match value {
        Json::Bool(flag) => Some(InitLoraWeights::Flag(*flag)),
        Json::String(name) => Some(InitLoraWeights::Named(name.clone())),
        _ => None,
    }
}

fn names(value: &Json) -> Option<OneOrMany<String>> {
    one_or_many(value, string)
}

fn layer(value: &Json) -> Option<u32> {
    u32::try_from(value.as_i64()?).ok()
}

fn pair(value: &Json) -> Option<(u32, u32)> {
    match list(value, layer)?.as_slice() {
        &[start, end] => Some((start, end)),
        _ => None,
    }
}

fn one_or_many<T>(value: &Json, item: impl Fn(&Json) -> Option<T>) -> Option<OneOrMany<T>> {
    match value {
        Json::Array(_) => list(value, item).map(OneOrMany::Many),
        _ => item(value).map(OneOrMany::One),
    }
}

/// PEFT makes a set of the list. Ours keeps the order of the file.
fn without_repeats(names: OneOrMany<String>) -> OneOrMany<String> {
    match names {
        OneOrMany::Many(names) => {
            let unique: indexmap::IndexSet<String> = names.into_iter().collect();
            OneOrMany::Many(unique.into_iter().collect())
        }
        one => one,
    }
}

fn dict<T>(value: &Json, item: impl Fn(&Json) -> Option<T>) -> Option<IndexMap<String, T>> {
    let Json::Object(entries) = value else {
        return None;
    };
    entries
        .iter()
        .map(|(key, value)| Some((key.clone(), item(value)?)))
        .collect()
}

pub(super) fn validate(config: &AdapterConfig, path: &Path) -> Result<(), FormatsError> {
    let conflict = |why: &str| FormatsError::Conflict {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    check_ranges(config, path)?;
    let regex = matches!(config.target_modules, Some(OneOrMany::One(_)));
    if regex && config.layers_to_transform.is_some() {
        return Err(conflict(
            "`layers_to_transform` cannot be used when `target_modules` is a string",
        ));
    }
    if regex && config.layers_pattern.is_some() {
        return Err(conflict(
            "`layers_pattern` cannot be used when `target_modules` is a string",
        ));
    }
    let pattern = config.layers_pattern.as_ref();
    let has_pattern = pattern.is_some_and(|pattern| match pattern {
        OneOrMany::One(text) => !text.is_empty(),
        OneOrMany::Many(texts) => !texts.is_empty(),
    });
    if has_pattern && config.layers_to_transform.is_none() {
        return Err(conflict("`layers_pattern` needs `layers_to_transform`"));
    }
    let named = |name: &str| config.init_lora_weights == InitLoraWeights::Named(name.to_owned());
    if named("loftq") && config.loftq_config.is_empty() {
        return Err(conflict(
            "`init_lora_weights` is `loftq`, which needs `loftq_config`",
        ));
    }
    if config.use_dora && config.passed("megatron_config").is_some() {
        return Err(conflict("`use_dora` cannot be used with `megatron_config`"));
    }
    if config.lora_bias && !matches!(config.init_lora_weights, InitLoraWeights::Flag(_)) {
        return Err(conflict(
            "`lora_bias` needs `init_lora_weights` true or false",
        ));
    }
    if config.lora_bias && config.use_dora {
        return Err(conflict("`lora_bias` cannot be used with `use_dora`"));
    }
    Ok(())
}

/// A config built by hand comes here without having been read.
fn check_ranges(config: &AdapterConfig, path: &Path) -> Result<(), FormatsError> {
    let ranks = config
        .rank_pattern
        .iter()
        .map(|(key, rank)| (format!("rank_pattern.{key}"), *rank));
    for (key, rank) in std::iter::once(("r".to_owned(), config.r)).chain(ranks) {
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(bad_key(path, &key, RANK, &rank.into()));
        }
    }
    let alphas = config.alpha_pattern.iter();
    let alphas = alphas.map(|(key, alpha)| (format!("alpha_pattern.{key}"), *alpha));
    for (key, alpha) in std::iter::once(("lora_alpha".to_owned(), config.lora_alpha)).chain(alphas)
    {
        if !alpha.get().is_finite() {
            return Err(bad_key(path, &key, "a finite number", &alpha.get().into()));
        }
    }
    let dropout = config.lora_dropout.get();
    if !(0.0..=1.0).contains(&dropout) {
        return Err(bad_key(
            path,
            "lora_dropout",
            "a number from 0 to 1",
            &dropout.into(),
        ));
    }
    Ok(())
}
