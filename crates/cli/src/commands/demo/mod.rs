//! `lowrank demo`

mod exam;
mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use lowrank::{
    CausalLm, Dataset, Ending, IGNORE_INDEX, LoadOptions, LoraConfig, LowrankError,
    MAX_SHARD_BYTES, PeftModel, StopFlag, Template, TokenizedDataset, Tokenizer, Trainer,
    TrainingArguments, get_peft_model, merge_folder, prove_merge,
};
use serde_json::json;

use super::merge;
use crate::output::{print, say};
use crate::progress::{Progress, bytes};
use exam::{Candidate, Question, questions, right};
use files::{Folders, size_bytes};

/// Fine-tunes the small model that this program carries: load, train, compare, merge, prove; no network.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder for model, data and results; results of earlier demos in it stay.
    #[arg(long, default_value = "lowrank-demo")]
    output_dir: PathBuf,
    /// Worker threads; the results do not depend on it [default: all cores].
    #[arg(long)]
    threads: Option<usize>,
    /// Updates instead of epochs, for a quick look.
    #[arg(long, hide = true)]
    max_steps: Option<u64>,
    /// Held-out questions to put, instead of all.
    #[arg(long, hide = true, default_value_t = usize::MAX)]
    questions: usize,
}

/// An answer is a sentence.
const NEW_TOKENS: usize = 32;
const MAX_LENGTH: usize = 128;
/// Questions that are shown with their answers.
const SHOWN: usize = 6;
const SEED: u64 = 42;

pub(crate) fn run(args: &DemoArgs, stop: StopFlag) -> Result<Ending> {
    let folders = Folders::unpack(&args.output_dir)?;
    say(&format!(
        "everything is in `{}`: the base model and its data came out of this program",
        args.output_dir.display()
    ));
    let demo = Demo {
        tokenizer: Arc::new(Tokenizer::from_pretrained(&folders.base).map_err(LowrankError::from)?),
        options: LoadOptions {
            threads: args.threads,
            ..LoadOptions::default()
        },
        folders,
    };
    let rows = demo.data()?;
    let held_out = Dataset::open(&demo.folders.held_out, None)?;
    let held_out = questions(&held_out, &demo.tokenizer, args.questions)?;
    let before = demo.base_answers(&held_out)?;
    let mut model = demo.adapter()?;
    let ending = demo.train(&mut model, &rows, args.max_steps, stop)?;
    drop(model);
    if matches!(ending, Ending::Interrupted { .. }) {
        return Ok(ending);
    }
    demo.sizes()?;
    demo.answers_now(&held_out, before)?;
    demo.merge(&held_out)?;
    demo.next_steps()?;
    Ok(ending)
}

/// One run of the demo.
struct Demo {
    folders: Folders,
    tokenizer: Arc<Tokenizer>,
    options: LoadOptions,
}

impl Demo {
    fn data(&self) -> Result<TokenizedDataset> {
        heading("1. data and tokenizer")?;
        let rows = Dataset::open(&self.folders.instructions, None)?;
        print(&format!(
            "{} rows, columns {}",
            rows.len(),
            rows.column_names().join(", ")
        ))?;
        let row = rows.row(0)?;
        print(&format!("row 0: {}", serde_json::to_string(&row)?))?;
        let tokenized = rows.tokenize(&Template::alpaca(), &self.tokenizer, MAX_LENGTH)?;
        let example = tokenized.get(0);
        let prompt = example
            .labels
            .iter()
            .take_while(|label| **label == IGNORE_INDEX)
            .count();
        print(&format!("input_ids: {:?}", example.input_ids))?;
        print(&format!("labels:    {:?}", example.labels))?;
        let (masked, learnt) = example.input_ids.split_at(prompt);
        let text = |ids: &[u32]| -> Result<String> {
            Ok(self
                .tokenizer
                .decode(ids, false)
                .map_err(LowrankError::from)?)
        };
        print(&format!(
            "the prompt is masked ({prompt} ids): {:?}",
            text(masked)?
        ))?;
        print(&format!("the response is learnt: {:?}", text(learnt)?))?;
        Ok(tokenized)
    }

    /// What the base says to the held-out questions.
    fn base_answers(&self, held_out: &[Question]) -> Result<usize> {
        heading("2. what the base says")?;
        let base = self.base()?;
        let config = lowrank::GenerationConfig {
            max_new_tokens: Some(12),
            ..base.generation_config(&self.tokenizer)
        };
        let start = "The capital of France is";
        let said = base.generate(&self.tokenizer, start, &config, |_| {})?;
        print(&format!(
            "it has read prose about a small world: {start}{}",
            said.text
        ))?;
        print("it has never seen a question:")?;
        let answers = Candidate::Plain(&base).answers(&self.tokenizer, held_out)?;
        show(held_out, &answers)?;
        Ok(right(held_out, &answers))
    }

    fn adapter(&self) -> Result<PeftModel> {
        heading("3. LoraConfig")?;
        let config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05,
            "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
        });
        print(&format!("{config:#}"))?;
        let config = LoraConfig::parse(&serde_json::to_vec(&config)?, Path::new("lora"))
            .map_err(LowrankError::from)?;
        let model = get_peft_model(self.base()?, &config, SEED)?;
        print(&model.trainable_parameters_line())?;
        let named = model.named_parameters();
        for (name, shape, trained) in named.iter().filter(|(name, ..)| name.contains(".h.0.")) {
            let trained = if *trained { "  trained" } else { "" };
            print(&format!("{name} {shape:?}{trained}"))?;
        }
        print(&format!("… {} named parameters in all", named.len()))?;
        print(&model.to_string())?;
        Ok(model)
    }

    fn train(
        &self,
        model: &mut PeftModel,
        rows: &TokenizedDataset,
        max_steps: Option<u64>,
        stop: StopFlag,
    ) -> Result<Ending> {
        heading("4. training")?;
        let lora = &self.folders.lora;
        let mut arguments = json!({
            "output_dir": lora, "per_device_train_batch_size": 8, "learning_rate": 2e-3,
            "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "logging_steps": 50, "logging_first_step": true,
            "save_steps": 0.5, "save_total_limit": 1, "seed": SEED,
        });
        match max_steps {
            Some(steps) => {
                arguments["max_steps"] = json!(steps);
                arguments["logging_steps"] = json!(1);
            }
            None => arguments["num_train_epochs"] = json!(12),
        }
        let args: TrainingArguments = serde_json::from_value(arguments)?;
        let mut trainer = Trainer {
            model,
            args,
            train_dataset: rows,
            eval_dataset: None,
            processing_class: Some(Arc::clone(&self.tokenizer)),
        };
        let output = trainer.train_observed(&mut Progress::new(), stop)?;
        if let Ending::Interrupted { checkpoint, .. } = &output.ending {
            let checkpoint = checkpoint.display();
            say(&format!(
                "interrupted; the adapter so far is in `{checkpoint}`"
            ));
            return Ok(output.ending);
        }
        print(&format!(
            "{} updates, mean loss {:.4}; the course of the loss: {}",
            output.global_step,
            output.training_loss,
            lora.join("loss.svg").display()
        ))?;
        Ok(output.ending)
    }

    fn sizes(&self) -> Result<()> {
        heading("5. adapter and model")?;
        let adapter = size_bytes(self.folders.lora.join("adapter_model.safetensors"))?;
        let base = size_bytes(self.folders.base.join("model.safetensors"))?;
        print(&format!(
            "adapter {} beside a base of {}: {:.1} % (the share falls as models grow)",
            bytes(adapter),
            bytes(base),
            100.0 * adapter as f64 / base as f64
        ))
    }

    fn answers_now(&self, held_out: &[Question], before: usize) -> Result<()> {
        heading("6. what base and adapter say now")?;
        let adapted = PeftModel::from_pretrained(self.base()?, &self.folders.lora)?;
        let answers = Candidate::Adapted(&adapted).answers(&self.tokenizer, held_out)?;
        show(held_out, &answers)?;
        let (after, all) = (right(held_out, &answers), held_out.len());
        print(&format!(
            "questions about facts that no learnt row asks for, right to the letter: {before} of {all} before, {after} of {all} after"
        ))
    }

    fn merge(&self, held_out: &[Question]) -> Result<()> {
        heading("7. merge")?;
        let folders = &self.folders;
        let report = merge_folder(
            &folders.base,
            &folders.lora,
            &folders.merged,
            MAX_SHARD_BYTES,
        )?;
        print(&format!(
            "wrote `{}`: {} tensors, {} of them changed, {}",
            folders.merged.display(),
            report.tensors,
            report.changed.len(),
            bytes(report.size_bytes)
        ))?;
        let shown = spread(held_out).map(|question| question.prompt.clone());
        let prompts: Vec<String> = shown.collect();
        let proof = prove_merge(
            &folders.base,
            &folders.lora,
            &folders.merged,
            &prompts,
            self.options,
        )?;
        merge::tell(&proof);
        let same = proof.prompts.iter();
        let same = same
            .filter(|prompt| prompt.first_difference.is_none())
            .count();
        print(&format!(
            "merged and adapter agree: the same greedy tokens on {same} of {} prompts, logits within {:.1e} of the largest (at most {:.0e} is allowed)",
            prompts.len(),
            proof.largest_difference,
            proof.bound
        ))
    }

    fn next_steps(&self) -> Result<()> {
        heading("8. your own")?;
        let (base, folders) = (self.folders.base.display(), &self.folders);
        print(&format!(
            "lowrank generate --model {base} --adapter {} --prompt 'Human: What does the cow eat?\\n\\nAssistant: '",
            folders.lora.display()
        ))?;
        print(&format!("lowrank inspect --model {base} --tree"))?;
        print(
            "lowrank train --model YOUR_MODEL --dataset YOUR_ROWS.json --output-dir ./lora --lora-alpha 16 --learning-rate 2e-4",
        )?;
        print("lowrank merge --model YOUR_MODEL --adapter ./lora --output ./merged")
    }

    fn base(&self) -> Result<CausalLm> {
        CausalLm::load(&self.folders.base, self.options).context("the demo's own base model")
    }
}

fn heading(text: &str) -> Result<()> {
    print(&format!("\n== {text}"))
}

/// Some of them, from all over the list.
fn spread<T>(items: &[T]) -> impl Iterator<Item = &T> {
    items.iter().step_by(items.len().div_ceil(SHOWN).max(1))
}

fn show(questions: &[Question], answers: &[String]) -> Result<()> {
    let pairs: Vec<_> = questions.iter().zip(answers).collect();
    for (question, answer) in spread(&pairs) {
        print(&format!(
            "  {}  ->  {:?}",
            question.instruction,
            answer.trim()
        ))?;
    }
    Ok(())
}
