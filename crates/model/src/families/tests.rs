#![allow(clippy::disallowed_methods, clippy::print_stderr)] // tests read real files and say what they skip

use super::*;
use serde_json::json;

fn parse(config: Value) -> Result<DecoderSpec, ConfigError> {
    let Value::Object(map) = config else {
        panic!("a test's config is an object")
    };
    spec_from_map(&map, Path::new("config.json"))
}

fn llama() -> Value {
    json!({"model_type": "llama", "vocab_size": 100, "hidden_size": 48, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 64})
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

fn refused(config: Value) -> String {
    let error = parse(config).expect_err("must be refused");
    error.to_string()
}

#[test]
fn bloom_reads_old_and_new_spellings_alike() {
    let old = json!({"model_type": "bloom", "vocab_size": 50, "n_embed": 24, "n_layer": 3,
        "num_attention_heads": 4});
    let new = json!({"model_type": "bloom", "vocab_size": 50, "hidden_size": 24,
        "num_hidden_layers": 3, "n_head": 4});
    let spec = parse(old).unwrap();
    assert_eq!(spec, parse(new).unwrap());
    assert_eq!(spec.attention.key.offset, 6);
    assert_eq!(spec.attention.key.stride, 18);
    assert!(spec.tie_word_embeddings);
}

#[test]
fn grouped_heads_lie_behind_the_queries() {
    let spec = parse(llama()).unwrap();
    assert_eq!(spec.qkv_width, (6 + 4) * 8);
    assert_eq!(spec.attention.key.offset, 48);
    assert_eq!(spec.attention.value.offset, 64);
    assert!(!spec.tie_word_embeddings);
    assert_eq!(spec.names.qkv[1].out_features, 16);
}

#[test]
fn head_dim_need_not_be_hidden_over_heads() {
    let spec = parse(with(llama(), "head_dim", json!(10))).unwrap();
    assert_eq!(spec.names.qkv[0].out_features, 60);
    assert_eq!(spec.names.attention_output.in_features, 60);
}

#[test]
fn impossible_sizes_are_refused_with_file_and_key() {
    for value in [
        json!(0),
        json!(-1),
        json!(1_000_000_000_000_000_000u64),
        json!(1 << 25),
    ] {
        let text = refused(with(llama(), "hidden_size", value));
        assert!(text.contains("`hidden_size` in `config.json`"), "{text}");
    }
    let huge: Value = serde_json::from_str("100000000000000000000000").unwrap();
    assert!(refused(with(llama(), "vocab_size", huge)).contains("in 1..="));
    let text = refused(with(llama(), "hidden_size", json!(48.0)));
    assert_eq!(
        text,
        "key `hidden_size` in `config.json` must be a whole number: 48.0"
    );
    assert!(refused(with(llama(), "num_hidden_layers", json!(1025))).contains("1..=1024"));
    assert!(parse(with(llama(), "num_hidden_layers", json!(1024))).is_ok());
}

#[test]
fn heads_that_do_not_divide_are_refused() {
    let text = refused(with(llama(), "num_attention_heads", json!(5)));
    assert!(
        text.contains("`num_attention_heads`") && text.contains("divisor of 48"),
        "{text}"
    );
    let text = refused(with(llama(), "num_key_value_heads", json!(4)));
    assert!(text.contains("`num_key_value_heads`"), "{text}");
    let text = refused(with(llama(), "head_dim", json!(7)));
    assert!(text.contains("`head_dim`"), "{text}");
}

#[test]
fn missing_keys_are_named() {
    let mut config = llama();
    config.as_object_mut().unwrap().remove("vocab_size");
    assert_eq!(
        refused(config),
        "key `vocab_size` is missing in `config.json`"
    );
    assert_eq!(
        refused(json!({})),
        "key `model_type` is missing in `config.json`"
    );
}

#[test]
fn unknown_family_lists_the_known_and_the_near() {
    let error = parse(json!({"model_type": "blom"})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model_type of `config.json` is not supported: `blom`"
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("did you mean bloom?") && hint.contains("mistral"),
        "{hint}"
    );
}

#[test]
fn unknown_rope_kind_is_refused() {
    let scaling = json!({"rope_type": "longrope", "factor": 2.0});
    let text = refused(with(llama(), "rope_scaling", scaling));
    assert!(
        text.contains("`rope_type`") && text.contains("longrope"),
        "{text}"
    );
    let partial = json!({"rope_type": "default", "partial_rotary_factor": 0.5});
    assert!(refused(with(llama(), "rope_parameters", partial)).contains("partial_rotary_factor"));
}

#[test]
fn qwen2_window_counts_only_where_it_is_on() {
    let qwen = with(llama(), "model_type", json!("qwen2"));
    let qwen = with(qwen, "sliding_window", json!(16));
    assert_eq!(parse(qwen.clone()).unwrap().attention.sliding_window, None);
    let on = with(qwen, "use_sliding_window", json!(true));
    let all = with(on.clone(), "max_window_layers", json!(0));
    assert_eq!(parse(all).unwrap().attention.sliding_window, Some(16));
    let none = with(on.clone(), "max_window_layers", json!(2));
    assert_eq!(parse(none).unwrap().attention.sliding_window, None);
    let mixed = refused(with(on, "max_window_layers", json!(1)));
    assert!(mixed.contains("1 of 2 layers slide"), "{mixed}");
}

#[test]
fn mistral_slides_unless_the_file_says_null() {
    let mistral = with(llama(), "model_type", json!("mistral"));
    assert_eq!(
        parse(mistral.clone()).unwrap().attention.sliding_window,
        Some(4096)
    );
    let null = with(mistral, "sliding_window", Value::Null);
    assert_eq!(parse(null).unwrap().attention.sliding_window, None);
}

#[test]
fn gpt2_refuses_scales_by_layer_and_accepts_upcasting() {
    let gpt2 = json!({"model_type": "gpt2", "vocab_size": 50, "n_embd": 24, "n_layer": 3,
        "n_head": 4, "reorder_and_upcast_attn": true});
    let spec = parse(gpt2.clone()).unwrap();
    assert_eq!(spec.intermediate_size, 96);
    let by_layer = with(gpt2.clone(), "scale_attn_by_inverse_layer_idx", json!(true));
    assert!(refused(by_layer).contains("scale_attn_by_inverse_layer_idx"));
    let unscaled = with(gpt2, "scale_attn_weights", json!(false));
    assert_eq!(
        parse(unscaled).unwrap().attention.scale.to_bits(),
        1f32.to_bits()
    );
}

#[test]
fn published_configs_of_supported_families_parse() {
    let Some(inputs) = testkit::shared_inputs() else {
        eprintln!("skipped: no shared inputs");
        return;
    };
    let mut parsed = 0;
    for entry in std::fs::read_dir(inputs.join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let family = name.split("__").next().unwrap_or_default();
        let map: Map<String, Value> =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let spec = spec_from_map(&map, &path);
        if supported().contains(&family) {
            let tree = tree_from_map(&map, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!tree.to_string().is_empty() && spec.is_ok(), "{name}");
            parsed += 1;
        } else {
            let known = spec.is_ok() || spec.is_err_and(|error| error.hint().is_some());
            assert!(known, "{name}");
        }
    }
    assert!(parsed > 40, "{parsed}");
}
