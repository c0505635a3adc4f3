//! `config.json` by key, and the published ones.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

use std::path::Path;

use lowrank_formats::FormatsError;
use lowrank_formats::hf_config::{GenerationConfig, HfConfig};

fn parse(text: &str) -> HfConfig {
    HfConfig::parse(text.as_bytes(), Path::new("m/config.json")).expect("json")
}

#[test]
fn generation_keys_are_read_and_null_is_absent() {
    let config = parse(
        r#"{"eos_token_id": [2, -1, 3], "do_sample": false, "temperature": 1, "top_k": null, "top_p": 1e-05}"#,
    );
    let found = GenerationConfig::of(&config).expect("values of the right kinds");
    let want = GenerationConfig {
        eos_token_ids: vec![2, 3],
        do_sample: Some(false),
        temperature: Some(1.0),
        top_p: Some(1e-5),
        raw: config.raw.clone(),
        ..GenerationConfig::default()
    };
    assert_eq!(found, want);
}

#[test]
fn a_generation_key_of_another_kind_is_refused_by_name() {
    for (key, value) in [
        ("eos_token_id", "16777216"),
        ("eos_token_id", "\"2\""),
        ("eos_token_id", "[2, 0.5]"),
        ("do_sample", "0"),
        ("temperature", "\"hot\""),
        ("top_k", "-1"),
        ("top_k", "50.0"),
    ] {
        let config = parse(&format!("{{\"{key}\": {value}}}"));
        let error = GenerationConfig::of(&config).expect_err("refused");
        assert!(
            matches!(&error, FormatsError::Key { key: found, .. } if found == key),
            "{value}"
        );
        let text = error.to_string();
        assert!(
            text.contains("m/config.json") && text.contains(value),
            "{text}"
        );
    }
}

#[test]
fn the_text_is_save_pretraineds() {
    let config = parse(r#"{"b": 1e-05, "a": [1.0, null], "s": {"y": "é", "x": Infinity}}"#);
    let want = "{\n  \"a\": [\n    1.0,\n    null\n  ],\n  \"b\": 1e-05,\n  \"s\": {\n    \"x\": {\n      \"__float__\": \"Infinity\"\n    },\n    \"y\": \"\\u00e9\"\n  }\n}\n";
    assert_eq!(config.to_json(), want);
}

#[test]
fn generation_defaults_come_from_the_model_where_the_file_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = parse(r#"{"eos_token_id": 2, "temperature": 0.5}"#);
    let config = GenerationConfig::open(folder.path(), &model).expect("made");
    assert_eq!((config.eos_token_ids, config.temperature), (vec![2], None));
    let text = br#"{"eos_token_id": [5, 6], "do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20}"#;
    std::fs::write(folder.path().join("generation_config.json"), text).expect("written");
    let config = GenerationConfig::open(folder.path(), &model).expect("read");
    assert_eq!(config.eos_token_ids, [5, 6]);
    assert_eq!(
        (config.do_sample, config.temperature, config.top_k),
        (Some(true), Some(0.6), Some(20))
    );
}

#[test]
fn published_configs_parse_and_rewrite_to_a_fixed_point() {
    let Some(inputs) = testkit::shared_inputs() else {
        println!("skipped: no shared inputs");
        return;
    };
    let mut seen = 0;
    for folder in ["configs", "generation_configs"] {
        for entry in std::fs::read_dir(inputs.join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let config =
                HfConfig::open_file(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            let text = config.to_json();
            let again = HfConfig::parse(text.as_bytes(), &path).expect("our own text");
            assert_eq!(again.to_json(), text);
            if folder == "generation_configs" {
                GenerationConfig::of(&config).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            }
            seen += 1;
        }
    }
    assert!(seen > 100);
}
