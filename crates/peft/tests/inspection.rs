//! What `inspect` says of the goldens' models and adapters, against what PEFT trained.

#![allow(clippy::disallowed_methods, reason = "tests make files")]

use std::path::Path;

use formats::adapter_config::OneOrMany;
use lowrank_peft::{Inspection, LoraConfig, inspect};
use testkit::{Golden, golden};

const FAMILIES: [&str; 5] = ["bloom", "gpt2", "llama", "mistral", "qwen2"];

fn of(case: &Golden, adapter: Option<&Path>, config: Option<&LoraConfig>) -> Inspection {
    inspect(&case.path("model"), adapter, config).expect("configs that fit")
}

#[test]
fn parameters_that_pefts_run_trained_are_marked_in_its_order() {
    for family in FAMILIES {
        let case = golden(&format!("{family}/all_linear"));
        let found = of(&case, Some(&case.path("adapter")), None);
        let trained = found.parameters.iter().filter(|one| one.trained);
        let trained: Vec<_> = trained
            .map(|one| {
                let plain = one.name.replace(".default.", ".");
                let plain = plain.strip_prefix("base_model.model.");
                (plain.expect("PEFT's prefix").to_owned(), one.shape.clone())
            })
            .collect();
        let want = case.trainable().into_iter();
        let want: Vec<_> = want.map(|one| (one.name, one.shape)).collect();
        assert_eq!(trained, want, "{family}");
        let elements = |shape: &Vec<usize>| shape.iter().product::<usize>() as u64;
        let count = want.iter().map(|(_, shape)| elements(shape)).sum();
        let start = format!(
            "trainable params: {} ||",
            lowrank_peft::report::grouped(count)
        );
        assert!(
            found.summary.starts_with(&start),
            "{family}: {}",
            found.summary
        );
        assert!(found.tree.starts_with("PeftModelForCausalLM("), "{family}");
    }
}

#[test]
fn a_base_trains_nothing() {
    for family in FAMILIES {
        let case = golden(&format!("{family}/all_linear"));
        let found = of(&case, None, None);
        assert!(!found.parameters.is_empty(), "{family}");
        assert!(found.parameters.iter().all(|one| !one.trained), "{family}");
        assert!(found.coverage.is_empty(), "{family}");
        assert!(found.summary.starts_with("all params: "), "{family}");
    }
}

#[test]
fn an_adapter_folder_wins_over_a_config() {
    let case = golden("llama/all_linear");
    let config = LoraConfig {
        target_modules: Some(OneOrMany::Many(vec!["q_proj".into()])),
        ..LoraConfig::default()
    };
    let adapter = case.path("adapter");
    let alone = of(&case, None, Some(&config));
    let [entry] = &alone.coverage[..] else {
        panic!("{:?}", alone.coverage)
    };
    assert_eq!(entry.entry, "q_proj");
    assert!(entry.modules > 0);
    let both = of(&case, Some(&adapter), Some(&config));
    assert_eq!(both, of(&case, Some(&adapter), None));
    assert_ne!(both, alone);
}

#[test]
fn keys_that_peft_does_not_know_are_told() {
    let case = golden("llama/all_linear");
    let mut config = testkit::read_json(&case.path("adapter").join("adapter_config.json"));
    config["lora_alhpa"] = 4.into();
    let folder = tempfile::tempdir().expect("tests may make folders");
    let path = folder.path().join("adapter_config.json");
    std::fs::write(path, config.to_string()).expect("tests may write their folder");
    let found = of(&case, Some(folder.path()), None);
    let want = "unknown key `lora_alhpa` is ignored";
    assert!(
        found.notices.iter().any(|notice| notice == want),
        "{:?}",
        found.notices
    );
}
