//! Against `goldens/peft/matching.json`: what PEFT adapts, saves, trains and refuses on the five tiny models.

use std::path::Path;

use formats::hf_config::HfConfig;
use lowrank_peft::{AdapterPlan, LoraConfig, PeftError};
use model::families::{decoder_spec, module_tree};
use model::tree::{Layer, ModuleTree};
use serde_json::{Value, json};

/// What the list has: fewer would be a list that was not read.
const ENTRIES: usize = 285;

fn tree_and_plan(entry: &Value) -> (ModuleTree, Result<AdapterPlan, PeftError>) {
    let family = entry["family"].as_str().unwrap();
    let config = HfConfig::open(&testkit::goldens().join(family).join("model")).unwrap();
    let (spec, tree) = (
        decoder_spec(&config).unwrap(),
        module_tree(&config).unwrap(),
    );
    let mut arguments = entry["lora_config"].as_object().cloned().unwrap();
    arguments.insert("peft_type".into(), "LORA".into());
    let text = Value::Object(arguments).to_string();
    let plan = LoraConfig::parse(text.as_bytes(), Path::new("adapter_config.json"))
        .map_err(PeftError::from)
        .and_then(|config| AdapterPlan::new(&config, &spec, &tree));
    (tree, plan)
}

#[test]
fn matching_is_pefts_on_its_own_list() {
    let list = testkit::read_json(&testkit::goldens().join("peft/matching.json"));
    let (mut adapted, mut refused, mut embeddings) = (0, 0, 0);
    for entry in list.as_array().unwrap() {
        let (tree, plan) = tree_and_plan(entry);
        match plan {
            Ok(plan) => {
                compare(entry, &plan);
                adapted += 1;
            }
            Err(error) if entry.get("error").is_some() => {
                assert!(is_same_refusal(entry, &error), "{entry}: {error:?}");
                refused += 1;
            }
            // The decoder has no slot for a delta on the embedding.
            Err(PeftError::Unsupported { .. }) if reaches_embedding(entry, &tree) => {
                embeddings += 1;
            }
            Err(error) => panic!("{entry}: {error}"),
        }
    }
    assert!(adapted + refused + embeddings >= ENTRIES);
    assert!(
        embeddings <= 5,
        "one list of targets for each family: {embeddings}"
    );
}

fn compare(entry: &Value, plan: &AdapterPlan) {
    let adapted = entry["adapted"]
        .as_object()
        .unwrap_or_else(|| panic!("{entry}: PEFT refuses"));
    let got: Vec<&String> = plan.targets.iter().map(|target| &target.path).collect();
    assert_eq!(got, adapted.keys().collect::<Vec<_>>(), "{entry}");
    for target in &plan.targets {
        let want = &adapted[&target.path];
        assert_eq!(want["r"], target.rank, "{entry}");
        let scaling = want["scaling"].as_f64().unwrap();
        assert!((scaling - target.scaling).abs() < 1e-12, "{entry}");
    }
    assert_eq!(entry["saved"], json!(plan.saved_modules), "{entry}");
    if let Some(trainable) = entry.get("trainable") {
        let names: Vec<&str> = plan.parameters.iter().map(|p| &*p.peft_name).collect();
        assert_eq!(*trainable, json!(names), "{entry}");
    }
    assert_eq!(entry["report"], plan.trainable_line(), "{entry}");
    let counted = plan.tree.num_parameters_without_embeddings();
    assert_eq!(
        entry["num_parameters_without_embeddings"], counted,
        "{entry}"
    );
}

/// Whether PEFT adapts an embedding there.
fn reaches_embedding(entry: &Value, tree: &ModuleTree) -> bool {
    let adapted = entry["adapted"].as_object().into_iter().flatten();
    adapted.into_iter().any(|(path, _)| {
        let module = tree.find(path);
        module.is_some_and(|module| matches!(module.layer, Layer::Embedding { .. }))
    })
}

/// Whether our error is of PEFT's kind, where its text tells one.
fn is_same_refusal(entry: &Value, error: &PeftError) -> bool {
    let message = entry["message"].as_str().unwrap();
    if message.starts_with("No modules were targeted") {
        matches!(error, PeftError::AllExcluded { .. })
    } else if entry["error"] == "NoMatchingPeftModuleError" {
        matches!(error, PeftError::NoTarget { .. })
    } else if message.starts_with("Target module ") {
        matches!(error, PeftError::NotLinear { .. })
    } else if entry["error"] == "error" {
        // Python's `re` has no better name for its own.
        matches!(error, PeftError::Pattern { .. })
    } else {
        // Of a value of the configuration: the text names it.
        let text = error.to_string();
        let config = entry["lora_config"].as_object().unwrap();
        config.keys().any(|key| text.contains(&format!("`{key}`")))
    }
}
