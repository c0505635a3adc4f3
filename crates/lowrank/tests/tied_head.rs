//! A config that ties the head, over files that hold one: transformers ties them where the values are the same, and
//! leaves both as they are stored where they are not.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "a test program with files of its own"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use lowrank::{CausalLm, LoraConfig, OneOrMany, get_peft_model};
use serde_json::Value;
use testkit::Tensor;

type Outcome = Result<(), Box<dyn Error>>;

const IDS: [u32; 5] = [5, 90, 17, 300, 41];

fn logits(model: &CausalLm) -> Result<Vec<f32>, Box<dyn Error>> {
    Ok(model.decoder().logits(&IDS, &[0, 4])?)
}

/// Writes the folder's weights again, changed.
fn change(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let path = folder.join("model.safetensors");
    let mut tensors = testkit::read_tensors(&path);
    change(&mut tensors);
    testkit::write_tensors(&path, &tensors);
}

fn untie(folder: &Path) -> Outcome {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["tie_word_embeddings"] = false.into();
    Ok(std::fs::write(path, config.to_string())?)
}

#[test]
fn a_stored_head_is_tied_where_it_is_the_embedding_and_used_where_it_is_not() -> Outcome {
    let root = tempfile::tempdir()?;
    let folder = root.path().join("model");
    let embedding = "transformer.word_embeddings.weight";
    testkit::tiny_model("bloom", &folder);
    let tied = logits(&CausalLm::from_pretrained(&folder)?)?;

    change(&folder, |tensors| {
        tensors.insert("lm_head.weight".into(), tensors[embedding].clone());
    });
    let model = CausalLm::from_pretrained(&folder)?;
    assert_eq!((logits(&model)?, model.notices().len()), (tied.clone(), 0));

    change(&folder, |tensors| {
        tensors.get_mut("lm_head.weight").unwrap().values.reverse();
    });
    let model = CausalLm::from_pretrained(&folder)?;
    let own = logits(&model)?;
    assert_ne!(own, tied);
    let [notice] = model.notices() else {
        panic!("{:?}", model.notices());
    };
    assert!(
        notice.contains("`lm_head.weight`") && notice.contains(embedding),
        "{notice}"
    );

    let (saved, adapter) = (root.path().join("saved"), root.path().join("adapter"));
    model.save_pretrained(&saved)?;
    let config = LoraConfig {
        target_modules: Some(OneOrMany::Many(vec!["query_key_value".into()])),
        ..LoraConfig::default()
    };
    get_peft_model(model, &config, 1)?.save_pretrained(&adapter)?;
    let merged = root.path().join("merged");
    let report = lowrank::merge_folder(&folder, &adapter, &merged, lowrank::MAX_SHARD_BYTES)?;
    assert_eq!(
        (report.notices, report.untied),
        (vec![notice_of(&folder)?], false)
    );
    untie(&folder)?;
    for folder in [&folder, &saved, &merged] {
        let model = CausalLm::from_pretrained(folder)?;
        assert_eq!(
            (logits(&model)?, model.notices().len()),
            (own.clone(), 0),
            "{}",
            folder.display()
        );
    }
    Ok(())
}

fn notice_of(folder: &Path) -> Result<String, Box<dyn Error>> {
    Ok(CausalLm::from_pretrained(folder)?.notices().concat())
}
