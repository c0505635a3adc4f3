//! `lowrank eval`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use lowrank::{Compute, Dataset, Template, Tokenizer};

use super::{EngineFlags, Model, above_0};
use crate::output;
use crate::tokenizing::tokenize;

/// Loss and perplexity of a data set under a base, adapter or merged model.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// Adapter folder, ours or PEFT's.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Rows: a `save_to_disk` folder, .json, .jsonl, .ndjson, .csv or .arrow.
    #[arg(long)]
    dataset: PathBuf,
    /// Split, where the folder has several.
    #[arg(long)]
    split: Option<String>,
    /// Tokens of a row at most; the rest is cut.
    #[arg(long, default_value_t = 256, value_parser = above_0, allow_negative_numbers = true)]
    max_length: usize,
    /// Jinja of the prompt, instead of the Alpaca template.
    #[arg(long, requires = "template_response")]
    template_prompt: Option<String>,
    /// Jinja of the response.
    #[arg(long, requires = "template_prompt")]
    template_response: Option<String>,
    /// Print everything, row by row, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    let model = Model::open(
        &args.model,
        args.adapter.as_ref(),
        args.engine.options(Compute::Auto)?,
    )?;
    let tokenizer = Tokenizer::from_pretrained(&args.model)?;
    let template = match (&args.template_prompt, &args.template_response) {
        (Some(prompt), Some(response)) => Template::jinja(prompt, response)?,
        _ => Template::alpaca(),
    };
    let dataset = Dataset::open(&args.dataset, args.split.as_deref())?;
    let dataset = tokenize(&dataset, &template, &tokenizer, args.max_length, None)?;
    let result = match &model {
        Model::Base(base) => base.evaluate(&dataset, |_, _| {})?,
        Model::Adapted(adapted) => adapted.evaluate(&dataset, |_, _| {})?,
    };
    if args.json {
        return output::json(&result);
    }
    let (rows, tokens) = (result.rows.len(), result.tokens);
    output::print(&format!(
        "loss {:.6}  perplexity {:.4}  ({tokens} tokens of {rows} rows)",
        result.loss, result.perplexity
    ))
}
