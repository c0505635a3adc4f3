//! `config.json` by key, and the published ones.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

use std::path::Path;

use lowrank_formats::hf_config::{GenerationConfig, HfConfig};
use lowrank_formats::{Dtype, FormatsError};

fn parse(text: &str) -> HfConfig {
    HfConfig::parse(text.as_bytes(), Path::new("m/config.json")).expect("json")
}

#[test]
fn the_first_spelling_that_is_there_wins_and_null_is_absent() {
    let config = parse(
        r#"{"model_type": "bloom", "hidden_size": null, "n_embed": 64, "n_layer": 3, "torch_dtype": "float16",
            "layer_norm_epsilon": 1e-05, "eps2": 1, "tie": false, "eos_token_id": [2, -1, 3]}"#,
    );
    assert_eq!(config.model_type().expect("there"), "bloom");
    assert_eq!(config.size(&["hidden_size", "n_embed"]).expect("there"), 64);
    assert_eq!(
        config
            .layers(&["num_hidden_layers", "n_layer"])
            .expect("there"),
        3
    );
    assert_eq!(config.dtype().expect("known"), Some(Dtype::F16));
    assert_eq!(
        config.float(&["layer_norm_epsilon"]).expect("a number"),
        Some(1e-5)
    );
    assert_eq!(config.float(&["eps2"]).expect("a number"), Some(1.0));
    assert_eq!(config.flag(&["tie"]).expect("a flag"), Some(false));
    assert_eq!(config.token_ids(&["eos_token_id"]).expect("ids"), [2, 3]);
    assert_eq!(config.integer(&["absent"]).expect("absent"), None);
}

#[test]
fn a_size_that_memory_would_be_reserved_by_is_bounded() {
    for value in [
        "0",
        "-1",
        "1000000000000000000",
        "16777217",
        "64.0",
        "\"64\"",
        "[64]",
        "true",
    ] {
        let config = parse(&format!("{{\"hidden_size\": {value}}}"));
        let error = config.size(&["hidden_size"]).expect_err("refused");
        assert!(
            matches!(&error, FormatsError::Key { key, .. } if key == "hidden_size"),
            "{value}"
        );
        let text = error.to_string();
        assert!(
            text.contains("m/config.json") && text.contains(value),
            "{text}"
        );
    }
    let config = parse(r#"{"hidden_size": 16777216, "num_hidden_layers": 1025}"#);
    assert_eq!(
        config.size(&["hidden_size"]).expect("as large as allowed"),
        1 << 24
    );
    assert!(config.layers(&["num_hidden_layers"]).is_err());
    let missing = config.size(&["n_embd", "n_embed"]).expect_err("missing");
    assert!(
        missing
            .to_string()
            .ends_with("has no `n_embd` or `n_embed`"),
        "{missing}"
    );
    assert!(matches!(
        config.model_type(),
        Err(FormatsError::MissingKey { .. })
    ));
}

#[test]
fn the_text_is_save_pretraineds() {
    let config = parse(r#"{"b": 1e-05, "a": [1.0, null], "s": {"y": "é", "x": Infinity}}"#);
    let want = "{\n  \"a\": [\n    1.0,\n    null\n  ],\n  \"b\": 1e-05,\n  \"s\": {\n    \"x\": {\n      \"__float__\": \"Infinity\"\n    },\n    \"y\": \"\\u00e9\"\n  }\n}\n";
    assert_eq!(config.to_json(), want);
    assert_eq!(
        config
            .section(&["s"])
            .expect("an object")
            .expect("there")
            .text(&["y"])
            .expect("text"),
        Some("é")
    );
    assert!(config.section(&["a"]).is_err());
}

#[test]
fn generation_defaults_come_from_the_model_where_the_file_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = parse(r#"{"eos_token_id": 2, "bos_token_id": 1, "temperature": 0.5}"#);
    let config = GenerationConfig::open(folder.path(), &model).expect("made");
    assert_eq!(
        (
            config.eos_token_ids,
            config.bos_token_id,
            config.temperature
        ),
        (vec![2], Some(1), None)
    );
    let text = br#"{"eos_token_id": [5, 6], "do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20}"#;
    std::fs::write(folder.path().join("generation_config.json"), text).expect("written");
    let config = GenerationConfig::open(folder.path(), &model).expect("read");
    assert_eq!(
        (config.eos_token_ids, config.bos_token_id),
        (vec![5, 6], None)
    );
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
                GenerationConfig::of(config).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            }
            seen += 1;
        }
    }
    assert!(seen > 100);
}
