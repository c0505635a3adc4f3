//! Against `goldens/peft_rules/cases.json`, which PEFT wrote: targets, counts, names, printed trees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use formats::hf_config::HfConfig;
use lowrank_peft::{AdapterPlan, LoraConfig, PeftError};
use model::families::{decoder_spec, module_tree};
use model::spec::DecoderSpec;
use model::tree::ModuleTree;
use serde_json::{Map, Value, json};

fn cases() -> Value {
    testkit::read_json(&testkit::goldens().join("peft_rules/cases.json"))
}

fn model(cases: &Value, name: &str) -> (DecoderSpec, ModuleTree) {
    let Value::Object(config) = cases["models"][name]["config"].clone() else {
        panic!("no model {name}")
    };
    let config = HfConfig::from_map(config, "config.json");
    (
        decoder_spec(&config).unwrap(),
        module_tree(&config).unwrap(),
    )
}

fn lora(arguments: &Value) -> LoraConfig {
    let mut object = arguments.as_object().cloned().unwrap_or_else(Map::new);
    object.insert("peft_type".into(), json!("LORA"));
    let text = Value::Object(object).to_string();
    LoraConfig::parse(text.as_bytes(), Path::new("adapter_config.json")).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"));
    list.iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

fn shapes(value: &Value) -> BTreeMap<String, Vec<usize>> {
    let sizes = |shape: &Value| {
        let sides = shape.as_array().unwrap().iter();
        sides.map(|side| side.as_u64().unwrap() as usize).collect()
    };
    let entries = value.as_object().unwrap().iter();
    entries
        .map(|(name, shape)| (name.clone(), sizes(shape)))
        .collect()
}

#[test]
fn plain_trees_print_as_torch_prints_them() {
    let cases = cases();
    for (name, want) in cases["models"].as_object().unwrap() {
        let (_, tree) = model(&cases, name);
        assert_eq!(tree.to_string(), want["tree"].as_str().unwrap(), "{name}");
        let modules: Vec<String> = tree
            .named_modules()
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert_eq!(modules, texts(&want["modules"]), "{name}");
        let named = tree.named_parameters();
        let got: Vec<Value> = named
            .iter()
            .map(|(path, p)| json!([path, p.shape]))
            .collect();
        assert_eq!(Value::from(got), want["parameters"], "{name}");
    }
}

#[test]
fn plans_are_what_peft_builds() {
    let cases = cases();
    for case in cases["cases"].as_array().unwrap() {
        let label = format!("{} {}", case["model"], case["lora"]);
        let (spec, tree) = model(&cases, case["model"].as_str().unwrap());
        let plan = AdapterPlan::new(&lora(&case["lora"]), &spec, &tree);
        if case.get("error").is_some() {
            assert!(plan.is_err(), "{label}: PEFT refuses it");
        } else if is_embedding(case) {
            let refused = matches!(plan, Err(PeftError::Unsupported { .. }));
            assert!(refused, "{label}: deltas on embeddings are not supported");
        } else {
            check(
                &label,
                case,
                &plan.unwrap_or_else(|error| panic!("{label}: {error}")),
            );
        }
    }
}

fn is_embedding(case: &Value) -> bool {
    case["lora"]["target_modules"] == json!(["word_embeddings"])
}

fn check(label: &str, case: &Value, plan: &AdapterPlan) {
    assert_eq!(
        plan.trainable_line(),
        case["line"].as_str().unwrap(),
        "{label}"
    );
    let got: Vec<Value> = plan
        .targets
        .iter()
        .map(|t| json!([t.path, t.rank, t.scaling]))
        .collect();
    assert_eq!(
        Value::from(got).to_string(),
        case["targeted"].to_string(),
        "{label}"
    );
    let got: Vec<String> = plan
        .parameters
        .iter()
        .map(|p| p.peft_name.clone())
        .collect();
    assert_eq!(got, texts(&case["trainable"]), "{label}");
    assert_eq!(
        plan.tree.to_string(),
        case["tree"].as_str().unwrap(),
        "{label}"
    );
    assert_eq!(
        plan.config.fan_in_fan_out, case["fan_in_fan_out"],
        "{label}"
    );
    check_names_on_disk(label, case, plan);
    check_config(label, case, plan);
}

fn check_names_on_disk(label: &str, case: &Value, plan: &AdapterPlan) {
    let mut want = shapes(&case["saved"]);
    // With `bias: all` PEFT also writes the wrapper's insides (frozen, or a second time); with a targeted head
    // it copies the base's own matrix, which comes from the model and not from the plan.
    want.retain(|name, _| {
        !name.contains(".original_module.") && !name.contains(".modules_to_save.")
    });
    want.remove("base_model.model.lm_head.base_layer.weight");
    let all = plan.parameters.iter();
    let got: BTreeMap<String, Vec<usize>> = all
        .flat_map(|p| p.on_disk.iter().map(|name| (name.clone(), p.shape.clone())))
        .collect();
    assert_eq!(got, want, "{label}");
}

fn check_config(label: &str, case: &Value, plan: &AdapterPlan) {
    let targets = plan.config.target_modules.as_ref().unwrap();
    let got: BTreeSet<&String> = targets.as_slice().iter().collect();
    let want = match &case["target_modules"] {
        Value::String(pattern) => vec![pattern.clone()],
        list => texts(list),
    };
    assert_eq!(got, want.iter().collect(), "{label}");
    let saved = plan.config.modules_to_save.clone();
    assert_eq!(json!(saved), case["modules_to_save"], "{label}");
}

#[test]
fn facts_of_bloom_1b4_come_out() {
    let cases = cases();
    let (spec, tree) = model(&cases, "bloom-1b4");
    let base: u64 = tree.named_parameters().iter().map(|(_, p)| p.count()).sum();
    assert_eq!(base, 1_303_111_680);
    let config = lora(&json!({"target_modules": ["query_key_value"]}));
    let plan = AdapterPlan::new(&config, &spec, &tree).unwrap();
    let want = "trainable params: 1,572,864 || all params: 1,304,684,544 || trainable%: 0.1206";
    assert_eq!(plan.trainable_line(), want);
    assert_eq!(plan.coverage[0].modules.len(), 24);
}

fn bloom_error(arguments: &Value) -> (String, String) {
    let cases = cases();
    let (spec, tree) = model(&cases, "bloom");
    let error = AdapterPlan::new(&lora(arguments), &spec, &tree).unwrap_err();
    (error.to_string(), error.hint().unwrap_or_default())
}

#[test]
fn no_match_names_what_was_meant() {
    let (text, hint) = bloom_error(&json!({"target_modules": ["query_key_values"]}));
    assert_eq!(
        text,
        "no module of `bloom` matches target_modules: [\"query_key_values\"]"
    );
    assert_eq!(hint, "did you mean query_key_value?");
    let (_, hint) = bloom_error(&json!({"target_modules": [".*\\.1.*query_key_value"]}));
    assert!(hint.contains("as a single string"), "{hint}");
    let (_, hint) = bloom_error(&json!({"target_modules": "query_key_value"}));
    assert!(
        hint.contains(r#"give ["query_key_value"], or ".*query_key_value""#),
        "{hint}"
    );
    let (_, hint) =
        bloom_error(&json!({"target_modules": ["query_key_value"], "layers_to_transform": [40]}));
    assert_eq!(
        hint,
        "only these layers were looked at: [40], the model has 0 to 11"
    );
    let two = json!({"target_modules": ["dense", "query_key_value"], "layers_to_transform": [40]});
    assert!(!bloom_error(&two).1.contains("did you mean"));
}

#[test]
fn an_entry_that_matches_nothing_beside_others_is_a_notice() {
    let cases = cases();
    let (spec, tree) = model(&cases, "bloom");
    let config = lora(&json!({"target_modules": ["query_key_value", "dens"]}));
    let plan = AdapterPlan::new(&config, &spec, &tree).unwrap();
    assert_eq!(plan.notices.len(), 1, "{:?}", plan.notices);
    assert!(plan.notices[0].contains("`dens`") && plan.notices[0].contains("dense"));
}

#[test]
fn an_entry_near_to_no_name_is_not_given_all_names() {
    let cases = cases();
    let (spec, tree) = model(&cases, "bloom");
    let config = lora(&json!({"target_modules": ["query_key_value", "nope"]}));
    let plan = AdapterPlan::new(&config, &spec, &tree).unwrap();
    let notice = "entry `nope` of target_modules matches no module, the others do";
    assert_eq!(plan.notices, [notice]);
}

#[test]
fn an_entry_of_excluded_modules_is_told_as_that() {
    let cases = cases();
    let (spec, tree) = model(&cases, "bloom");
    let config =
        lora(&json!({"target_modules": "all-linear", "exclude_modules": ["query_key_value"]}));
    let plan = AdapterPlan::new(&config, &spec, &tree).unwrap();
    assert_eq!(
        plan.notices,
        ["entry `query_key_value` of target_modules matches only what is excluded or saved whole"]
    );
}

#[test]
fn variants_are_refused_by_name() {
    for (key, value) in [
        ("use_dora", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("trainable_token_indices", json!([1])),
        ("layer_replication", json!([[0, 2]])),
    ] {
        let (text, hint) = bloom_error(&json!({ key: value }));
        assert!(text.contains(key), "{text}");
        assert!(hint.starts_with("leave it out"), "{hint}");
    }
}

#[test]
fn a_delta_inside_a_saved_module_is_refused() {
    // PEFT's two rules differ: `attention` ends `self_attention` but is no dotted part of it.
    let (text, _) = bloom_error(&json!({"modules_to_save": ["attention"]}));
    assert!(
        text.contains("self_attention") && text.contains("query_key_value"),
        "{text}"
    );
}

#[test]
fn hostile_configs_are_answered_in_seconds() {
    let started = std::time::Instant::now();
    let names: Vec<String> = (0..16_384).map(|i| format!("no_such_module_{i}")).collect();
    bloom_error(&json!({ "target_modules": names }));
    let names: Vec<String> = (0..16_385).map(|i| format!("m{i}")).collect();
    let (text, _) = bloom_error(&json!({ "target_modules": names }));
    assert!(text.contains("16384"), "{text}");
    let patterns: Map<String, Value> = (0..4_096)
        .map(|i| (format!("(a{{90}}){{40}}{i}"), json!(2)))
        .collect();
    let cases = cases();
    let (spec, tree) = model(&cases, "bloom");
    let config = lora(&json!({ "rank_pattern": patterns }));
    let planned = AdapterPlan::new(&config, &spec, &tree);
    assert!(planned.is_err_and(|error| error.to_string().contains("rank_pattern")));
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}
