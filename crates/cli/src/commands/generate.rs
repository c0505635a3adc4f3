//! `lowrank generate`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use lowrank::{Compute, GenerationConfig, Tokenizer};

use super::{EngineFlags, Model, above_0, unescaped};
use crate::misuse::Misuse;
use crate::output::{self, say};

/// Continues a prompt: greedy, unless a sampling flag is given.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Base model folder.
    #[arg(long)]
    model: PathBuf,
    /// Adapter folder, ours or PEFT's.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Text to continue; `\n` stands for a new line, `\\` for one backslash. Repeat for several.
    #[arg(long, required_unless_present = "prompt_file")]
    prompt: Vec<String>,
    /// File with a text to continue, taken as it is; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Prompt and new tokens together [default: 64].
    #[arg(long, value_parser = above_0, allow_negative_numbers = true)]
    max_length: Option<usize>,
    /// New tokens; wins over --max-length.
    #[arg(long, value_parser = above_0, allow_negative_numbers = true)]
    max_new_tokens: Option<usize>,
    /// Draw tokens instead of taking the likeliest.
    #[arg(long)]
    do_sample: bool,
    /// Divides the logits; implies --do-sample.
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Draw among the k likeliest; implies --do-sample.
    #[arg(long, allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Draw among the likeliest that together have this probability; implies --do-sample.
    #[arg(long, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Above 1: makes tokens that are there already less likely [default: of generation_config.json, else 1].
    #[arg(long, allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Of the draws.
    #[arg(long, default_value_t = 42, allow_negative_numbers = true)]
    seed: u64,
    /// Print prompt ids, new ids and text as JSON, all at the end.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    check(args)?;
    let prompts = prompts(args)?;
    let model = Model::open(
        &args.model,
        args.adapter.as_ref(),
        args.engine.options(Compute::Auto)?,
    )?;
    let tokenizer = Tokenizer::from_pretrained(&args.model)?;
    let config = config(args, &model, &tokenizer);
    if let Some(notice) = model.base().generation_notice(&config) {
        say(&format!("note: {notice}"));
    }
    let mut results = Vec::new();
    for prompt in &prompts {
        let mut shown = Ok(());
        // The prompt is shown with the first piece: what refuses it is told before.
        let mut before = prompt.as_str();
        let on_text = |piece: &str| {
            if !args.json && shown.is_ok() {
                shown = output::stream(&format!("{}{piece}", std::mem::take(&mut before)));
            }
        };
        let generated = match &model {
            Model::Base(base) => base.generate(&tokenizer, prompt, &config, on_text)?,
            Model::Adapted(adapted) => adapted.generate(&tokenizer, prompt, &config, on_text)?,
        };
        shown?;
        if !args.json {
            // Where no text came, it was not shown yet.
            output::stream(before)?;
            output::stream("\n")?;
        }
        results.push(generated);
    }
    if args.json {
        output::json(&results)
    } else {
        Ok(())
    }
}

fn prompts(args: &GenerateArgs) -> Result<Vec<String>> {
    let mut prompts: Vec<String> = args.prompt.iter().map(|text| unescaped(text)).collect();
    match &args.prompt_file {
        Some(path) if path.as_os_str() == "-" => {
            let text = std::io::read_to_string(std::io::stdin());
            prompts.push(text.context("cannot read the prompt from stdin")?);
        }
        Some(path) => prompts.push(lowrank::read_text(path)?),
        None => {}
    }
    Ok(prompts)
}

/// Settings that no prompt could make right are misuse, and told before anything is loaded.
fn check(args: &GenerateArgs) -> Result<(), Misuse> {
    let settings = GenerationConfig {
        max_new_tokens: args.max_new_tokens.or(Some(1)),
        temperature: args.temperature.unwrap_or(1.0),
        top_p: args.top_p.unwrap_or(1.0),
        repetition_penalty: args.repetition_penalty.unwrap_or(1.0),
        ..GenerationConfig::default()
    };
    let length = settings.total_length(1);
    length.map(drop).map_err(|error| Misuse(error.to_string()))
}

fn config(args: &GenerateArgs, model: &Model, tokenizer: &Tokenizer) -> GenerationConfig {
    let defaults = model.base().generation_config(tokenizer);
    let sampled = args.do_sample
        || args.temperature.is_some()
        || args.top_k.is_some()
        || args.top_p.is_some();
    GenerationConfig {
        max_length: args.max_length.unwrap_or(64),
        max_new_tokens: args.max_new_tokens,
        do_sample: sampled,
        temperature: args.temperature.unwrap_or(defaults.temperature),
        top_k: args.top_k.unwrap_or(defaults.top_k),
        top_p: args.top_p.unwrap_or(defaults.top_p),
        repetition_penalty: args
            .repetition_penalty
            .unwrap_or(defaults.repetition_penalty),
        seed: args.seed,
        eos_token_ids: defaults.eos_token_ids,
    }
}
