//! When two `LoraConfig`s ask for the same.

use serde_json::Value;

/// Fields on which nothing that is computed hangs.
const WITHOUT_EFFECT: [&str; 8] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
];
/// Lists that PEFT asks only whether something is in them.
const SETS: [&str; 4] = [
    "exclude_modules",
    "layers_to_transform",
    "modules_to_save",
    "target_modules",
];
/// Beyond it not every whole number is an `f64`.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// The fields of an `adapter_config.json` that decide what is computed, each value spelled in one way: two that ask
/// for the same have the same text. `None` where the text is no JSON object.
///
/// The order of `rank_pattern` and `alpha_pattern` is kept, because the first pattern that matches wins:
/// [`crate::planned_config`] gives them sorted where it does not count.
pub fn comparable_fields(config_json: &str) -> Option<Vec<(String, String)>> {
    let Ok(Value::Object(fields)) = serde_json::from_str(config_json) else {
        return None;
    };
    let compared = fields
        .into_iter()
        .filter(|(name, _)| !WITHOUT_EFFECT.contains(&name.as_str()));
    let spelled = compared.map(|(name, mut value)| {
        level(&mut value);
        if let (Value::Array(values), true) = (&mut value, SETS.contains(&name.as_str())) {
            values.sort_by_key(|value| (value.as_u64(), value.to_string()));
            values.dedup();
        }
        (name, value.to_string())
    });
    Some(spelled.collect())
}

/// Writes `8.0` as 8.
fn level(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = |number: &f64| number.fract() == 0.0 && number.abs() < MAX_WHOLE;
            if let Some(whole) = number.as_f64().filter(whole) {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(level),
        Value::Object(fields) => fields.values_mut().for_each(level),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::comparable_fields;

    #[test]
    fn spelling_without_an_effect_is_no_difference() {
        let pairs = [
            (r#"{"r": 8}"#, r#"{"r": 8.0}"#),
            (r#"{"lora_alpha": 8e0}"#, r#"{"lora_alpha": 8}"#),
            (
                r#"{"target_modules": ["q", "v"]}"#,
                r#"{"target_modules": ["v", "q", "q"]}"#,
            ),
            (
                r#"{"layers_to_transform": [2, 10]}"#,
                r#"{"layers_to_transform": [10, 2]}"#,
            ),
            (
                r#"{"base_model_name_or_path": "M", "peft_version": "0.21.2"}"#,
                r#"{"base_model_name_or_path": "/moved/M/", "peft_version": "0.22.0"}"#,
            ),
        ];
        for (one, other) in pairs {
            let (one, other) = (comparable_fields(one), comparable_fields(other));
            assert!(one.is_some() && one == other, "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_asks_for_something_else_differs() {
        let pairs = [
            (r#"{"lora_alpha": 1e300}"#, r#"{"lora_alpha": 1e200}"#),
            (
                r#"{"target_modules": "q|v"}"#,
                r#"{"target_modules": ["q|v"]}"#,
            ),
            (
                r#"{"rank_pattern": {".*q": 2, "q": 4}}"#,
                r#"{"rank_pattern": {"q": 4, ".*q": 2}}"#,
            ),
            (
                r#"{"layer_replication": [[0, 2], [1, 3]]}"#,
                r#"{"layer_replication": [[1, 3], [0, 2]]}"#,
            ),
        ];
        for (one, other) in pairs {
            assert_ne!(comparable_fields(one), comparable_fields(other));
        }
        assert_eq!(comparable_fields("[]"), None);
    }
}
