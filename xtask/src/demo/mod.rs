//! `cargo xtask demo-base`: makes what `lowrank demo` carries, from the facts of this folder alone.
//!
//! A random BLOOM reads prose about a small world, trained by this project's own engine through the public library:
//! `modules_to_save` covers the whole model, but for one projection that keeps a low-rank delta, because a
//! `LoraConfig` must target something. Then it is merged to a plain bf16 folder. Takes some minutes.

mod facts;
mod random_base;
mod text;
mod tokenizer;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lowrank::{
    CausalLm, Compute, Dataset, Event, LoadOptions, LoraConfig, MAX_SHARD_BYTES, Template,
    Tokenizer, Trainer, TrainingArguments, get_peft_model, merge_folder,
};
use serde_json::json;

use crate::run::root;

const DOCUMENTS: usize = 25_600;
const SEED: u64 = 7;
/// What the repository gets of the merged folder.
const SHIPPED: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Makes them, in `target/demo-base` first, then in `crates/cli/demo`.
pub(crate) fn demo_base(keep_trained: bool) -> Result<()> {
    let work = root().join("target/demo-base");
    if work.exists() && !keep_trained {
        std::fs::remove_dir_all(&work)?;
    }
    let (random, prose, trained) = (
        work.join("random"),
        work.join("prose.jsonl"),
        work.join("trained"),
    );
    std::fs::create_dir_all(&random)?;
    let documents = text::prose(DOCUMENTS, SEED);
    let lines: Vec<String> = documents
        .iter()
        .map(|text| json!({ "text": text }).to_string())
        .collect();
    std::fs::write(&prose, lines.join("\n"))?;
    let (learnt, held_out) = text::questions();
    // The tokenizer has seen the questions that are trained, so that their words are tokens; the model has not.
    let asked = learnt
        .iter()
        .map(|row| format!("Human: {}\n\nAssistant: {}", row.instruction, row.output));
    tokenizer::write(documents.iter().cloned().chain(asked).collect(), &random)?;
    random_base::write(&random, SEED)?;
    if !keep_trained {
        train(&random, &prose, &trained)?;
    }
    let merged = work.join("merged");
    if merged.exists() {
        std::fs::remove_dir_all(&merged)?;
    }
    merge_folder(&random, &trained, &merged, MAX_SHARD_BYTES)?;
    check(&merged)?;
    let shipped = root().join("crates/cli/demo");
    std::fs::create_dir_all(&shipped)?;
    for name in SHIPPED {
        std::fs::copy(merged.join(name), shipped.join(name))
            .with_context(|| format!("copying {name}"))?;
    }
    std::fs::write(shipped.join("instructions.json"), rows(&learnt)?)?;
    std::fs::write(shipped.join("held_out.json"), rows(&held_out)?)?;
    println!(
        "{} rows to learn from, {} held out: {}",
        learnt.len(),
        held_out.len(),
        shipped.display()
    );
    Ok(())
}

/// One row a line, so that a change of the data shows as such.
fn rows(rows: &[text::Instruction]) -> Result<String> {
    let lines = rows
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[\n{}\n]\n", lines.join(",\n")))
}

fn train(base: &Path, prose: &Path, output: &Path) -> Result<()> {
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 32, "lora_alpha": 32,
        "target_modules": r"transformer\.h\.3\.self_attention\.dense",
        "modules_to_save": [
            "lm_head", "word_embeddings_layernorm", "ln_f", "input_layernorm", "post_attention_layernorm",
            "query_key_value", "dense_h_to_4h", "dense_4h_to_h",
            "h.0.self_attention.dense", "h.1.self_attention.dense", "h.2.self_attention.dense",
        ],
        "ensure_weight_tying": true,
    });
    let config = LoraConfig::parse(&serde_json::to_vec(&config)?, Path::new("lora"))?;
    let arguments = json!({
        "output_dir": output, "per_device_train_batch_size": 16, "num_train_epochs": 1, "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine", "warmup_steps": 60, "weight_decay": 0.01, "adam_beta2": 0.99,
        "logging_steps": 100, "save_strategy": "no", "seed": SEED,
    });
    let args: TrainingArguments = serde_json::from_value(arguments)?;
    let tokenizer = Tokenizer::from_pretrained(base)?;
    let template = Template::jinja("", "{{ text }}")?;
    let train_dataset = Dataset::open(prose, None)?.tokenize(&template, &tokenizer, 256)?;
    // The products of a random bf16 base that is replaced whole lose nothing that matters.
    let options = LoadOptions {
        compute_dtype: Compute::Bf16,
        ..LoadOptions::default()
    };
    let mut model = get_peft_model(CausalLm::load(base, options)?, &config, SEED)?;
    println!("{}", model.trainable_parameters_line());
    let mut trainer = Trainer {
        model: &mut model,
        args,
        train_dataset: &train_dataset,
        eval_dataset: None,
        processing_class: None,
    };
    trainer.train_observed(&mut Lines, lowrank::StopFlag::default())?;
    Ok(())
}

struct Lines;

impl lowrank::Observer for Lines {
    fn on(&mut self, event: Event<'_>) {
        if let Event::Log(entry) = event {
            let numbers: Vec<String> = entry
                .iter()
                .map(|(name, value)| format!("{name} {:.4e}", value.as_f64().unwrap_or(f64::NAN)))
                .collect();
            println!("{}", numbers.join("  "));
        }
    }
}

/// It has read the prose.
fn check(folder: &Path) -> Result<()> {
    let (model, tokenizer) = (
        CausalLm::from_pretrained(folder)?,
        Tokenizer::from_pretrained(folder)?,
    );
    let config = model.generation_config(&tokenizer);
    for (start, next) in [
        ("The capital of France is", " Paris."),
        ("The cow eats", " grass."),
        ("The opposite of hot is", " cold."),
    ] {
        let said = model.generate(&tokenizer, start, &config, |_| {})?.text;
        println!("{start}{said}");
        ensure!(
            said.starts_with(next),
            "the base has not learnt `{start}{next}`: {said}"
        );
    }
    Ok(())
}
