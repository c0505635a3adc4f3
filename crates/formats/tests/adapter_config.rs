//! `adapter_config.json` against what PEFT wrote and refuses.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

use std::path::Path;

use lowrank_formats::FormatsError;
use lowrank_formats::adapter_config::{AdapterConfig, Bias, InitLoraWeights, Number, OneOrMany};

fn parse(text: &str) -> Result<AdapterConfig, FormatsError> {
    AdapterConfig::parse(text.as_bytes(), Path::new("adapter_config.json"))
}

fn with(entries: &str) -> Result<AdapterConfig, FormatsError> {
    parse(&format!("{{\"peft_type\": \"LORA\", {entries}}}"))
}

#[test]
fn the_default_config_is_pefts_text() {
    let want = include_str!("fixtures/adapter_config/default.json");
    assert_eq!(AdapterConfig::default().to_json(), want);
    assert_eq!(parse(want).expect("read"), AdapterConfig::default());
}

#[test]
fn a_config_with_every_key_set_is_pefts_text() {
    let want = include_str!("fixtures/adapter_config/full.json");
    let config = parse(want).expect("read");
    assert_eq!(config.to_json(), want);
    assert_eq!(config.lora_alpha, Number::Float(12.5));
    assert_eq!(config.bias, Bias::LoraOnly);
    assert_eq!(config.rank_pattern.get("^layers.0.q_proj"), Some(&4));
    assert_eq!(
        config.layers_to_transform,
        Some(OneOrMany::Many(vec![1, 3]))
    );
    assert_eq!(
        config.init_lora_weights,
        InitLoraWeights::Named("gaussian".into())
    );
    assert_eq!(config.extra.len(), 0);
}

#[test]
fn an_old_config_gets_the_defaults_and_keeps_unknown_keys() {
    let config = with(
        r#""r": 16, "lora_alpha": 32, "enable_lora": [true, false], "merge_weights": false,
           "target_modules": ["a", "b", "a"], "modules_to_save": null, "runtime_config": {}"#,
    )
    .expect("read");
    assert_eq!(config.r, 16);
    assert_eq!(
        config.target_modules,
        Some(OneOrMany::Many(vec!["a".into(), "b".into()]))
    );
    assert_eq!(config.peft_version.as_deref(), Some("0.21.2"));
    assert_eq!(
        config.extra.keys().collect::<Vec<_>>(),
        ["enable_lora", "merge_weights"]
    );
    assert_eq!(config.warnings().len(), 2);
    let again = parse(&config.to_json()).expect("read");
    assert_eq!(again.to_json(), config.to_json());
}

#[test]
fn a_value_of_the_wrong_kind_or_range_names_its_key() {
    let cases = [
        (r#""r": 0"#, "r"),
        (r#""r": 4097"#, "r"),
        (r#""r": 8.0"#, "r"),
        (r#""r": "8""#, "r"),
        (r#""lora_alpha": NaN"#, "lora_alpha"),
        (r#""lora_alpha": "16""#, "lora_alpha"),
        (r#""lora_dropout": 1.5"#, "lora_dropout"),
        (r#""lora_dropout": -0.1"#, "lora_dropout"),
        (r#""bias": "some""#, "bias"),
        (r#""task_type": "CAUSAL""#, "task_type"),
        (r#""target_modules": [1]"#, "target_modules"),
        (r#""target_modules": {"a": 1}"#, "target_modules"),
        (r#""target_parameters": "a""#, "target_parameters"),
        (r#""modules_to_save": "head""#, "modules_to_save"),
        (r#""layers_to_transform": [-1]"#, "layers_to_transform"),
        (r#""rank_pattern": {"q": 0}"#, "rank_pattern"),
        (r#""alpha_pattern": {"q": Infinity}"#, "alpha_pattern"),
        (r#""use_rslora": 1"#, "use_rslora"),
        (r#""layer_replication": [[1]]"#, "layer_replication"),
        (r#""init_lora_weights": 3"#, "init_lora_weights"),
    ];
    for (entries, want) in cases {
        match with(entries) {
            Err(FormatsError::Key { key, .. }) => assert_eq!(key, want, "{entries}"),
            other => panic!("{entries}: {other:?}"),
        }
    }
}

#[test]
fn keys_that_exclude_each_other_are_refused_as_in_peft() {
    let cases = [
        r#""target_modules": ".*", "layers_to_transform": 1"#,
        r#""target_modules": ".*", "layers_pattern": "h""#,
        r#""target_modules": ["a"], "layers_pattern": "h""#,
        r#""init_lora_weights": "loftq""#,
        r#""use_dora": true, "megatron_config": {"a": 1}"#,
        r#""lora_bias": true, "init_lora_weights": "gaussian""#,
        r#""lora_bias": true, "use_dora": true"#,
    ];
    for entries in cases {
        let found = with(entries);
        assert!(
            matches!(found, Err(FormatsError::Conflict { .. })),
            "{entries}: {found:?}"
        );
    }
    assert!(
        with(r#""target_modules": ["a"], "layers_pattern": "h", "layers_to_transform": 0"#).is_ok()
    );
    assert!(with(r#""target_modules": ["a"], "layers_pattern": []"#).is_ok());
}

#[test]
fn another_method_and_a_missing_method_are_refused_by_name() {
    let other = parse(r#"{"peft_type": "LOHA"}"#).expect_err("refused");
    assert!(matches!(&other, FormatsError::NotLora { found, .. } if found == "LOHA"));
    assert!(other.hint().is_some());
    assert!(matches!(parse("{}"), Err(FormatsError::MissingKey { .. })));
    assert!(matches!(parse("[]"), Err(FormatsError::NotAnObject { .. })));
    assert!(matches!(parse("{"), Err(FormatsError::Json { .. })));
}

#[test]
fn strangers_configs_parse_and_rewrite_to_a_fixed_point() {
    let Some(inputs) = testkit::shared_inputs() else {
        println!("skipped: no shared inputs");
        return;
    };
    let mut seen = 0;
    for folder in std::fs::read_dir(inputs.join("adapters")).expect("a folder") {
        let folder = folder.expect("an entry").path();
        let config =
            AdapterConfig::open(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let text = config.to_json();
        let again = AdapterConfig::parse(text.as_bytes(), &folder).expect("our own text");
        assert_eq!(again.to_json(), text);
        seen += 1;
    }
    assert!(seen >= 8);
}
