//! Against `goldens/families/cases.json`, which Transformers wrote: rotary frequencies and `ALiBi` slopes.

use std::path::Path;

use lowrank_model::families::spec_from_map;
use lowrank_model::spec::Positions;
use serde_json::{Value, json};

fn cases(kind: &str) -> Vec<Value> {
    let all = testkit::read_json(&testkit::goldens().join("families/cases.json"));
    all[kind].as_array().unwrap().clone()
}

/// torch's vectorised `pow` may be an ulp off the correctly rounded power that we take.
const ULPS: u64 = 1;

fn assert_near(label: &str, got: &[f32], want: &Value) {
    let want: Vec<f32> = want
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32)
        .collect();
    assert_eq!(got.len(), want.len(), "{label}");
    for (index, (got, want)) in got.iter().zip(&want).enumerate() {
        let off = testkit::ulps(*got, *want);
        assert!(
            off <= ULPS,
            "{label}[{index}]: {got} is {off} ulps from {want}"
        );
    }
}

#[test]
fn rotary_frequencies_are_those_of_transformers() {
    for case in cases("ropes") {
        let label = case["config"].to_string();
        let map = case["config"].as_object().unwrap();
        let spec = spec_from_map(map, Path::new("config.json")).unwrap();
        let Positions::Rope {
            inv_freq,
            attention_scaling,
        } = spec.positions
        else {
            panic!("{label}: not rotary")
        };
        let inv_freq: Vec<f32> = inv_freq.iter().map(|freq| *freq as f32).collect();
        assert_near(&label, &inv_freq, &case["inv_freq"]);
        let want = case["attention_scaling"].as_f64().unwrap();
        assert!(
            (attention_scaling - want).abs() < 1e-12,
            "{label}: {attention_scaling} {want}"
        );
    }
}

#[test]
fn alibi_slopes_are_those_of_transformers() {
    for case in cases("alibi") {
        let heads = case["heads"].as_u64().unwrap();
        let config = json!({"model_type": "bloom", "vocab_size": 5, "hidden_size": heads * 2,
            "n_layer": 1, "n_head": heads});
        let spec = spec_from_map(config.as_object().unwrap(), Path::new("config.json")).unwrap();
        let slopes = spec.attention.alibi_slopes.unwrap();
        assert_near(&format!("{heads} heads"), &slopes, &case["slopes"]);
    }
}
