//! The program of `docs/LIBRARY.md` on a tiny model: every step runs, and each agrees with the next.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "a test program with files of its own"
)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use lowrank::{
    CausalLm, Compute, Dataset, GenerationConfig, LoadOptions, LoraConfig, LowrankError, Number,
    OneOrMany, PeftError, PeftModel, Template, Tokenizer, Trainer, TrainingArguments,
    get_peft_model,
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const ROWS: &str = r#"{"instruction": "Name a colour.", "input": "", "output": "Red is a colour."}
{"instruction": "Add.", "input": "2 and 3", "output": "5"}
{"instruction": "Say hello.", "input": "", "output": "Hello there!"}
"#;
const PROMPT: &str = "Human: Say hello.\n\nAssistant: ";

fn open(folder: &Path) -> lowrank::Result<CausalLm> {
    let options = LoadOptions {
        compute_dtype: Compute::F32,
        threads: Some(2),
        isa: None,
    };
    CausalLm::load(folder, options)
}

/// Trains five updates on the tiny model and saves the adapter to `lora`.
fn train(root: &Path, config: &LoraConfig) -> lowrank::Result<Vec<f64>> {
    train_with(root, config, TrainingArguments::default())
}

/// The same, with arguments beside its own.
fn train_with(
    root: &Path,
    config: &LoraConfig,
    more: TrainingArguments,
) -> lowrank::Result<Vec<f64>> {
    let (model, output) = (root.join("model"), root.join("lora"));
    let tokenizer = Arc::new(Tokenizer::from_pretrained(&model)?);
    let rows = Dataset::open(root.join("rows.jsonl"), None)?;
    let train_dataset = rows.tokenize(&Template::alpaca(), &tokenizer, 64)?;
    let args = TrainingArguments {
        output_dir: output.to_string_lossy().into_owned(),
        per_device_train_batch_size: 1,
        gradient_accumulation_steps: 2,
        max_steps: 5,
        learning_rate: 0.05,
        logging_steps: 1.0,
        ..more
    };
    let mut model = get_peft_model(open(&model)?, config, args.seed)?;
    let trained = Trainer {
        model: &mut model,
        args,
        train_dataset: &train_dataset,
        eval_dataset: None,
        processing_class: Some(tokenizer),
    }
    .train()?;
    assert_eq!(trained.global_step, 5);
    let state = std::fs::read(output.join("checkpoint-5/trainer_state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let log = state["log_history"].as_array().unwrap();
    Ok(log
        .iter()
        .filter_map(|line| line["loss"].as_f64())
        .collect())
}

fn whole_run(family: &str, config: &LoraConfig) -> Outcome {
    let root = tempfile::tempdir()?;
    let folder = root.path().join("model");
    testkit::tiny_model(family, &folder);
    std::fs::write(root.path().join("rows.jsonl"), ROWS)?;
    let losses = train(root.path(), config)?;
    assert_eq!(losses.len(), 5);
    assert!(losses[4] < losses[0], "nothing was learnt: {losses:?}");

    let tokenizer = Tokenizer::from_pretrained(&folder)?;
    let greedy = GenerationConfig {
        max_new_tokens: Some(12),
        ..GenerationConfig::default()
    };
    let say = |model: &CausalLm| model.generate(&tokenizer, PROMPT, &greedy, |_| {});
    let base = open(&folder)?;
    let (base_says, base_digest) = (say(&base)?, base.fingerprint());
    let adapted = PeftModel::from_pretrained(base, root.path().join("lora"))?;
    let adapter_says = adapted.generate(&tokenizer, PROMPT, &greedy, |_| {})?;
    let ids = tokenizer.encode(PROMPT, true)?;
    let last = [ids.len() as u32 - 1];
    let adapter_logits = adapted.decoder().logits(&ids, &last)?;
    assert_ne!(
        base_says.new_ids, adapter_says.new_ids,
        "the adapter has no effect"
    );

    let merged = adapted.merge_and_unload()?;
    assert_ne!(merged.fingerprint(), base_digest);
    assert_eq!(say(&merged)?, adapter_says);
    let merged_logits = merged.decoder().logits(&ids, &last)?;
    assert_eq!(adapter_logits.len(), merged_logits.len());
    for (one, other) in adapter_logits.iter().zip(&merged_logits) {
        assert!((one - other).abs() < 1e-3, "{one} {other}");
    }

    let (saved, sharded) = (root.path().join("merged"), root.path().join("sharded"));
    assert_eq!(merged.save_pretrained(&saved)?.files, ["model.safetensors"]);
    assert!(merged.save_sharded(&sharded, 40_000)?.files.len() > 1);
    assert!(
        merged.save_pretrained(&saved).is_err(),
        "an existing folder was written over"
    );
    for folder in [&saved, &sharded] {
        let again = open(folder)?;
        assert_eq!(again.decoder().logits(&ids, &last)?, merged_logits);
        assert_eq!(say(&again)?, adapter_says);
        Tokenizer::from_pretrained(folder)?;
    }
    // The command's merge is the same folding.
    let by_command = root.path().join("by_command");
    lowrank::merge_folder(
        &folder,
        root.path().join("lora"),
        &by_command,
        lowrank::MAX_SHARD_BYTES,
    )?;
    for name in ["model.safetensors", "config.json"] {
        let (one, other) = (saved.join(name), by_command.join(name));
        assert_eq!(std::fs::read(one)?, std::fs::read(other)?, "{name}");
    }
    Ok(())
}

#[test]
fn adapter_merged_and_reopened_model_say_the_same_bloom() -> Outcome {
    whole_run(
        "bloom",
        &LoraConfig {
            task_type: Some("CAUSAL_LM".into()),
            r: 4,
            lora_alpha: Number::Int(6),
            target_modules: Some(OneOrMany::Many(vec!["query_key_value".into()])),
            ..LoraConfig::default()
        },
    )
}

#[test]
fn adapter_merged_and_reopened_model_say_the_same_gpt2() -> Outcome {
    whole_run(
        "gpt2",
        &LoraConfig {
            r: 4,
            lora_alpha: Number::Int(6),
            target_modules: Some(OneOrMany::Many(vec!["c_attn".into(), "c_fc".into()])),
            ..LoraConfig::default()
        },
    )
}

/// A delta on the tied head unties it, in memory as on disk.
#[test]
fn an_untied_pair_is_saved_and_reopened_as_two() -> Outcome {
    whole_run(
        "qwen2",
        &LoraConfig {
            r: 4,
            lora_alpha: Number::Int(6),
            target_modules: Some(OneOrMany::Many(vec!["q_proj".into(), "lm_head".into()])),
            ..LoraConfig::default()
        },
    )
}

/// The checkpoint has the first base's head beside the delta, which is not the changed base's.
#[test]
fn a_targeted_head_is_resumed_on_a_base_that_may_differ() -> Outcome {
    let root = tempfile::tempdir()?;
    let folder = root.path().join("model");
    testkit::tiny_model("llama", &folder);
    std::fs::write(root.path().join("rows.jsonl"), ROWS)?;
    let config = LoraConfig {
        r: 4,
        target_modules: Some(OneOrMany::Many(vec!["q_proj".into(), "lm_head".into()])),
        ..LoraConfig::default()
    };
    train(root.path(), &config)?;
    let path = folder.join("model.safetensors");
    let mut tensors = testkit::read_tensors(&path);
    tensors.get_mut("lm_head.weight").unwrap().values[7] += 0.25;
    testkit::write_tensors(&path, &tensors);

    let latest = TrainingArguments {
        resume_from_checkpoint: Some("latest".into()),
        ..TrainingArguments::default()
    };
    let refused = train_with(root.path(), &config, latest.clone()).unwrap_err();
    assert!(
        refused.to_string().contains("`base_model` was"),
        "{refused}"
    );
    let changed = serde_json::from_value(serde_json::json!({
        "resume_from_checkpoint": "latest", "resume_with_changed": "base_model"}))?;
    train_with(root.path(), &config, changed)?;
    Ok(())
}

/// The adapter is heard from its own folder and the merged model from its own: what differs on disk is found.
#[test]
fn a_merged_folder_that_says_something_else_is_not_proved_and_stays() -> Outcome {
    let root = tempfile::tempdir()?;
    let [base, adapter, merged] = ["model", "lora", "merged"].map(|name| root.path().join(name));
    testkit::tiny_model("bloom", &base);
    std::fs::write(root.path().join("rows.jsonl"), ROWS)?;
    train(root.path(), &LoraConfig::default())?;
    lowrank::merge_folder(&base, &adapter, &merged, lowrank::MAX_SHARD_BYTES)?;
    let prove = || {
        let options = LoadOptions::default();
        lowrank::prove_merge(&base, &adapter, &merged, &[PROMPT.to_owned()], options)
    };
    assert!(prove()?.largest_difference <= 1e-3);

    let path = merged.join("model.safetensors");
    let mut tensors = testkit::read_tensors(&path);
    let damages: [fn(f32) -> f32; 2] = [|value| value + 0.5, |_| f32::NAN];
    for tensor in ["ln_f.bias", "h.0.self_attention.query_key_value.weight"] {
        let good = tensors[&format!("transformer.{tensor}")].values.clone();
        for damage in damages {
            let values = good.iter().copied().map(damage).collect();
            tensors
                .get_mut(&format!("transformer.{tensor}"))
                .unwrap()
                .values = values;
            testkit::write_tensors(&path, &tensors);
            let damaged = std::fs::read(&path)?;
            let LowrankError::Peft(refused) = prove().unwrap_err() else {
                panic!("{tensor}: another error");
            };
            let PeftError::MergeDiffers { difference, bound } = *refused else {
                panic!("{tensor}: {refused}");
            };
            assert!(difference > bound || difference.is_nan(), "{tensor}");
            assert_eq!(bound, 1e-3);
            assert_eq!(std::fs::read(&path)?, damaged);
        }
        tensors
            .get_mut(&format!("transformer.{tensor}"))
            .unwrap()
            .values = good;
    }
    testkit::write_tensors(&path, &tensors);
    prove()?;
    Ok(())
}
