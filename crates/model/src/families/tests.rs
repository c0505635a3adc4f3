#![allow(clippy::disallowed_methods, clippy::print_stderr)] // tests read real files and say what they skip

use super::*;
use crate::spec::Positions;
use formats::hf_config::HfConfig;
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
fn a_negative_padding_index_counts_from_the_end() {
    for (given, want) in [
        (json!(-1), Some(99)),
        (json!(7), Some(7)),
        (json!(null), None),
        (json!(100), None),
    ] {
        let spec = parse(with(llama(), "pad_token_id", given)).unwrap();
        assert_eq!(spec.padding_idx, want);
    }
    let bloom = parse(with(bloom(), "pad_token_id", json!(3))).unwrap();
    assert_eq!(bloom.padding_idx, None, "its embedding has none");
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
fn bloom_refuses_products_of_slices_where_there_would_be_several() {
    let config = |tp| {
        let bloom = with(bloom(), "slow_but_exact", json!(true));
        with(bloom, "pretraining_tp", json!(tp))
    };
    let text = refused(config(2));
    assert!(
        text.contains("slow_but_exact") && text.contains("pretraining_tp"),
        "{text}"
    );
    parse(config(1)).unwrap();
    parse(with(bloom(), "pretraining_tp", json!(4))).unwrap();
}

#[test]
fn yarns_scales_of_zero_count_as_not_given() {
    let yarn = |more: Value| {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
            "original_max_position_embeddings": 64});
        let more = more.as_object().unwrap().clone();
        scaling.as_object_mut().unwrap().extend(more);
        parse(with(llama(), "rope_parameters", scaling))
    };
    let plain = yarn(json!({})).unwrap();
    let zeros = yarn(json!({"mscale": 0, "mscale_all_dim": 0.0})).unwrap();
    let scaled = yarn(json!({"mscale": 0.5, "mscale_all_dim": 1.0})).unwrap();
    assert_eq!(plain.positions, zeros.positions);
    assert_ne!(plain.positions, scaled.positions);
    assert!(yarn(json!({"mscale": -1})).is_err());
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
fn dropouts_of_the_base_are_said() {
    let config =
        |value: Value| HfConfig::from_map(value.as_object().unwrap().clone(), "config.json");
    let gpt2 = config(json!({"model_type": "gpt2", "attn_pdrop": 0.0, "embd_pdrop": 0.25}));
    let lines = notices(&gpt2).unwrap();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].contains("`embd_pdrop` is 0.25"));
    assert!(notices(&config(llama())).unwrap().is_empty());
    let dynamic = with(
        llama(),
        "rope_scaling",
        json!({"type": "dynamic", "factor": 2.0}),
    );
    assert_eq!(notices(&config(dynamic)).unwrap().len(), 1);
}

/// Every key of every family's config replaced by every awkward value: refused, or within bounds.
#[test]
fn no_config_gives_sizes_that_overflow() {
    let big: Value = serde_json::from_str("1e308").unwrap();
    let awkward = [
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(1024),
        json!(1u64 << 24),
        json!(u64::MAX),
        json!(1.5),
        json!(1e-300),
        big,
        json!("x"),
        json!(""),
        json!([]),
        json!({}),
        json!(null),
        json!(true),
        json!(false),
        json!({"rope_type": "yarn", "factor": 1e-9, "original_max_position_embeddings": 1}),
        json!({"rope_type": "llama3", "factor": 1e300, "low_freq_factor": 1e-9, "high_freq_factor": 2}),
    ];
    let extra = [
        "head_dim",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "sliding_window",
        "use_sliding_window",
        "layer_types",
        "pad_token_id",
        "n_inner",
        "n_positions",
        "rms_norm_eps",
    ];
    let mut accepted = 0;
    for base in [
        bloom(),
        gpt2(),
        llama(),
        with(llama(), "model_type", json!("qwen2")),
    ] {
        let keys = base
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>();
        for key in keys.iter().map(String::as_str).chain(extra) {
            for value in &awkward {
                let Value::Object(map) = with(base.clone(), key, value.clone()) else {
                    continue;
                };
                let Ok(spec) = spec_from_map(&map, Path::new("config.json")) else {
                    continue;
                };
                check_bounds(&spec);
                accepted += 1;
            }
        }
    }
    assert!(accepted > 100, "{accepted}");
}

fn check_bounds(spec: &DecoderSpec) {
    let sides = [
        spec.vocab_size,
        spec.hidden_size,
        spec.qkv_width,
        spec.intermediate_size,
    ];
    let widest = sides.into_iter().max().unwrap();
    assert!(sides.iter().all(|side| *side > 0));
    let matrix = (widest as u64)
        .checked_mul(widest as u64)
        .and_then(|n| n.checked_mul(4));
    assert!(
        matrix
            .and_then(|n| n.checked_mul(spec.num_hidden_layers as u64 * 8))
            .is_some()
    );
    let attention = &spec.attention;
    assert_eq!(
        spec.qkv_width,
        (attention.heads + 2 * attention.kv_heads) * attention.head_dim
    );
    assert!(attention.heads.is_multiple_of(attention.kv_heads));
    assert!(attention.scale.is_finite() && attention.scale > 0.0);
    if let Positions::Rope { inv_freq, .. } = &spec.positions {
        assert_eq!(inv_freq.len() * 2, attention.head_dim);
        assert!(inv_freq.iter().all(|freq| freq.is_finite()));
    }
}

fn bloom() -> Value {
    json!({"model_type": "bloom", "vocab_size": 50, "hidden_size": 24, "n_layer": 3, "n_head": 4,
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true})
}

fn gpt2() -> Value {
    json!({"model_type": "gpt2", "vocab_size": 50, "n_embd": 24, "n_layer": 3, "n_head": 4,
        "activation_function": "gelu_new", "resid_pdrop": 0.1})
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
        let config = HfConfig::open_file(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let spec = decoder_spec(&config);
        if supported().contains(&family) {
            let tree = module_tree(&config).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!tree.to_string().is_empty() && spec.is_ok(), "{name}");
            parsed += 1;
        } else {
            let known = spec.is_ok() || spec.is_err_and(|error| error.hint().is_some());
            assert!(known, "{name}");
        }
    }
    assert!(parsed > 40, "{parsed}");
}
