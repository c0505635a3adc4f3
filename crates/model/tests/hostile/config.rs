//! Row 48: `config.json` with sizes that no memory holds, or that do not fit each other.

use std::path::Path;

use formats::hf_config::HfConfig;
use lowrank_model::families::{decoder_spec, module_tree};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::Hostile;

use crate::told;

fn sound(family: &str) -> Value {
    testkit::read_json(&testkit::goldens().join(family).join("model/config.json"))
}

/// The sound config of a family with some keys replaced; null takes a key away.
fn with(family: &str, keys: Value) -> String {
    let mut config = sound(family);
    let map = config.as_object_mut().expect("an object");
    for (key, value) in keys.as_object().expect("an object") {
        match value {
            Value::Null => drop(map.remove(key)),
            _ => drop(map.insert(key.clone(), value.clone())),
        }
    }
    config.to_string()
}

/// A name, a family, the keys that are replaced.
type Case = (&'static str, &'static str, Value);

fn sizes() -> Vec<Case> {
    let huge = json!(1_000_000_000_000_000_000_u64);
    vec![
        ("no layers", "llama", json!({"num_hidden_layers": 0})),
        ("-1 layers", "llama", json!({"num_hidden_layers": -1})),
        ("10^18 layers", "llama", json!({"num_hidden_layers": huge})),
        ("1,025 layers", "bloom", json!({"n_layer": 1_025})),
        ("layers as a float", "gpt2", json!({"n_layer": 2.0})),
        ("layers as text", "qwen2", json!({"num_hidden_layers": "2"})),
        (
            "layers as a list",
            "mistral",
            json!({"num_hidden_layers": [2]}),
        ),
        (
            "no layers said",
            "llama",
            json!({"num_hidden_layers": null}),
        ),
        ("a width of 0", "bloom", json!({"hidden_size": 0})),
        ("a width of 10^18", "gpt2", json!({"n_embd": huge})),
        (
            "a width above 2^24",
            "llama",
            json!({"hidden_size": 16_777_217}),
        ),
        (
            "a width of 2^64",
            "llama",
            json!({"hidden_size": 1.8446744073709552e19}),
        ),
        ("a negative width", "qwen2", json!({"hidden_size": -40})),
        ("no vocabulary", "llama", json!({"vocab_size": 0})),
        (
            "a vocabulary above 2^24",
            "mistral",
            json!({"vocab_size": 16_777_217}),
        ),
        (
            "a vocabulary that is true",
            "bloom",
            json!({"vocab_size": true}),
        ),
        ("a middle of 0", "llama", json!({"intermediate_size": 0})),
        (
            "a middle of 10^18",
            "qwen2",
            json!({"intermediate_size": huge}),
        ),
        ("an inner width of -1", "gpt2", json!({"n_inner": -1})),
        ("no positions", "gpt2", json!({"n_positions": 0})),
        ("10^18 positions", "gpt2", json!({"n_positions": huge})),
    ]
}

fn heads() -> Vec<Case> {
    let huge = json!(1_000_000_000_000_000_000_u64);
    vec![
        ("no heads", "bloom", json!({"n_head": 0})),
        (
            "heads that do not divide the width",
            "gpt2",
            json!({"n_head": 7}),
        ),
        ("more heads than columns", "bloom", json!({"n_head": 4_096})),
        ("10^18 heads", "llama", json!({"num_attention_heads": huge})),
        (
            "heads as a float",
            "llama",
            json!({"num_attention_heads": 4.5}),
        ),
        (
            "key heads that do not divide the heads",
            "llama",
            json!({"num_key_value_heads": 3}),
        ),
        ("no key heads", "qwen2", json!({"num_key_value_heads": 0})),
        (
            "more key heads than heads",
            "mistral",
            json!({"num_key_value_heads": 64}),
        ),
        ("an odd head", "llama", json!({"head_dim": 7})),
        ("a head of 10^18", "llama", json!({"head_dim": huge})),
        (
            "a head whose heads come to more than 2^24",
            "mistral",
            json!({"head_dim": 16_777_216}),
        ),
    ]
}

fn rest() -> Vec<Case> {
    let rope = |rope: Value| json!({ "rope_parameters": rope });
    vec![
        (
            "an unknown rope",
            "llama",
            rope(json!({"rope_type": "spiral", "rope_theta": 10000.0})),
        ),
        ("a rope that is text", "llama", rope(json!("linear"))),
        (
            "a theta of 0",
            "qwen2",
            rope(json!({"rope_type": "default", "rope_theta": 0})),
        ),
        (
            "a negative theta",
            "qwen2",
            rope(json!({"rope_type": "default", "rope_theta": -1.0})),
        ),
        (
            "a factor of 0",
            "llama",
            rope(json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 0})),
        ),
        (
            "a factor that is missing",
            "llama",
            rope(json!({"rope_type": "linear", "rope_theta": 10000.0})),
        ),
        (
            "llama3 without its keys",
            "llama",
            rope(json!({"rope_type": "llama3", "rope_theta": 10000.0})),
        ),
        ("an epsilon of 0", "llama", json!({"rms_norm_eps": 0})),
        (
            "an epsilon above 1",
            "bloom",
            json!({"layer_norm_epsilon": 2.0}),
        ),
        (
            "an epsilon that is nothing in f32",
            "llama",
            json!({"rms_norm_eps": 1e-60}),
        ),
        (
            "an unknown activation",
            "llama",
            json!({"hidden_act": "exec"}),
        ),
        (
            "an activation that is a list",
            "gpt2",
            json!({"activation_function": ["gelu"]}),
        ),
        (
            "a flag that is text",
            "bloom",
            json!({"tie_word_embeddings": "yes"}),
        ),
        ("dropout of 2", "gpt2", json!({"attn_pdrop": 2.0})),
        (
            "cross attention",
            "gpt2",
            json!({"add_cross_attention": true}),
        ),
        (
            "an unknown family",
            "llama",
            json!({"model_type": "../../llama"}),
        ),
        (
            "a family that is a number",
            "llama",
            json!({"model_type": 7}),
        ),
        ("no family", "llama", json!({"model_type": null})),
    ]
}

fn texts() -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![
        ("a list", text("[]")),
        ("nothing", text("")),
        (
            "a file that breaks off",
            with("llama", json!({}))[..80].to_owned(),
        ),
        (
            "a depth of 100,000",
            format!(
                "{{\"model_type\": \"llama\", \"x\": {}",
                "[".repeat(100_000)
            ),
        ),
        (
            "an integer of 1,000 digits",
            format!(
                "{{\"model_type\": \"llama\", \"hidden_size\": {}}}",
                "9".repeat(1_000)
            ),
        ),
        (
            "NaN as a size",
            text(r#"{"model_type": "llama", "hidden_size": NaN, "num_attention_heads": 4}"#),
        ),
        (
            "text that is not utf-8",
            format!("{{\"model_type\": \"{}\"}}", "\u{fffd}"),
        ),
        (
            "3 MB of empty objects",
            format!(
                "{{\"model_type\": \"llama\", \"x\": [{{}}{}]}}",
                ",{\"\":0}".repeat(400_000)
            ),
        ),
    ]
}

fn read(folder: &Path) -> Result<(), String> {
    let config = HfConfig::open(folder).map_err(|e| told(&e, e.hint(), folder))?;
    let wrong = |e: lowrank_model::families::ConfigError| told(&e, e.hint(), folder);
    decoder_spec(&config).map_err(wrong)?;
    module_tree(&config).map(drop).map_err(wrong)
}

#[test]
fn row_48_a_config_of_impossible_sizes_is_refused_before_anything_is_allocated() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("config.json");
    let put = |text: &str| std::fs::write(&path, text).expect("a temporary folder can be written");
    for family in ["bloom", "gpt2", "llama", "mistral", "qwen2"] {
        put(&sound(family).to_string());
        read(folder.path()).expect("the configs that the others are made of are good");
    }
    let mut row = Hostile::new("row 48, configs");
    let changed = sizes().into_iter().chain(heads()).chain(rest());
    let changed = changed.map(|(name, family, keys)| (name, with(family, keys)));
    for (name, text) in changed.chain(texts()) {
        put(&text);
        row.refused(name, text.len(), || read(folder.path()));
    }
    let file = std::fs::File::create(&path).expect("a temporary folder can be written");
    file.set_len(100 << 20).expect("a hole of zeros");
    row.refused("a file of 100 MB", 0, || read(folder.path()));
    insta::assert_snapshot!(row.finish(30));
}

#[test]
fn sizes_are_taken_up_to_their_limit() {
    let folder = TempDir::new().expect("a temporary folder");
    let limits: [(&str, &str, u64); 6] = [
        ("bloom", "n_layer", 1 << 10),
        ("llama", "num_hidden_layers", 1 << 10),
        ("llama", "hidden_size", 1 << 24),
        ("gpt2", "vocab_size", 1 << 24),
        ("qwen2", "intermediate_size", 1 << 24),
        ("mistral", "max_position_embeddings", 1 << 40),
    ];
    let mut row = Hostile::new("limits, sizes of a model");
    for (family, key, limit) in limits {
        let put = |value: u64| {
            let text = with(family, json!({ key: value }));
            std::fs::write(folder.path().join("config.json"), text)
                .expect("a temporary folder can be written");
            read(folder.path())
        };
        row.harmless(&format!("{key}, below"), 64, || put(limit));
        row.refused(&format!("{key}, above"), 64, || put(limit + 1));
    }
    insta::assert_snapshot!(row.finish(12));
}

#[test]
fn mutated_configs_are_refused_or_have_finite_sizes() {
    let seeds: Vec<Vec<u8>> = ["bloom", "gpt2", "llama", "mistral", "qwen2"]
        .iter()
        .map(|family| sound(family).to_string().into_bytes())
        .chain([
            with("llama", json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})).into_bytes(),
            with("qwen2", json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                "original_max_position_embeddings": 32768}})).into_bytes(),
        ])
        .collect();
    let mutation = testkit::Mutation {
        name: "3, config.json to sizes",
        corpus: "config",
        seeds: &seeds,
        pieces: &[
            b"0",
            b"1",
            b"7",
            b"-1",
            b"16777216",
            b"16777217",
            b"1e308",
            b"1e-320",
            b"0.5",
            b"null",
            b"true",
            b"[]",
            b"{}",
            b"\"linear\"",
            b"\"yarn\"",
            b"\"llama3\"",
            b"\"dynamic\"",
            b"NaN",
            b"Infinity",
            b"\"head_dim\": 64,",
        ],
        rounds: 200_000,
        limit: std::time::Duration::from_secs(10),
    };
    mutation.run(lowrank_model::fuzzing::fuzz_config);
}
