//! `lowrank train`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use lowrank::{
    CausalLm, Compute, ComputeDtype, Dataset, Ending, PeftModel, StopFlag, TOKEN_CACHE, Template,
    TokenizedDataset, Tokenizer, Trainer, TrainingArguments, get_peft_model,
};

use super::EngineFlags;
use crate::flags::{LoraFlags, TrainFlags};
use crate::misuse::Misuse;
use crate::output::say;
use crate::progress::Progress;
use crate::run_file::RunFile;
use crate::tokenizing::tokenize;

/// Trains an adapter, as PEFT and the Trainer would.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Run file (YAML); flags win over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Base model folder.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Start from this adapter's weights (ours or PEFT's) instead of fresh ones.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Rows to learn: a `save_to_disk` folder, .json, .jsonl or .csv.
    #[arg(long)]
    dataset: Option<PathBuf>,
    /// Split, where the folder has several.
    #[arg(long)]
    split: Option<String>,
    /// Rows to evaluate on.
    #[arg(long)]
    eval_dataset: Option<PathBuf>,
    /// Split of those.
    #[arg(long)]
    eval_split: Option<String>,
    /// Tokens of a row at most; the rest is cut [default: 256].
    #[arg(long)]
    max_length: Option<usize>,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    train: TrainFlags,
    #[command(flatten)]
    lora: LoraFlags,
}

/// The mission's `MAX_LENGTH`.
const DEFAULT_MAX_LENGTH: usize = 256;

pub(crate) fn run(args: &TrainArgs, stop: StopFlag) -> Result<Ending> {
    let run = settle(args)?;
    let (arguments, config) = (run.training_arguments()?, run.lora_config()?);
    let model = need(run.model.as_ref(), "model")?;
    let dataset = need(run.dataset.as_ref(), "dataset")?;
    let compute = run
        .compute_dtype
        .as_deref()
        .map_or(Ok(Compute::Auto), compute_named)?;
    let base = CausalLm::load(model, args.engine.options(compute)?)?;
    base.notices()
        .iter()
        .for_each(|notice| say(&format!("note: {notice}")));
    say(&computing(&base));
    let tokenizer = Arc::new(Tokenizer::from_pretrained(model)?);
    let mut model = match &run.adapter {
        Some(adapter) => PeftModel::from_pretrained(base, adapter)?,
        None => get_peft_model(base, &config, arguments.seed)?,
    };
    model
        .plan()
        .notices
        .iter()
        .for_each(|notice| say(&format!("note: {notice}")));
    say(&model.trainable_parameters_line());
    let rows = Rows {
        run: &run,
        tokenizer: &tokenizer,
        arguments: &arguments,
    };
    let train_dataset = rows.open(dataset, run.split.as_deref())?;
    let eval_dataset = run
        .eval_dataset
        .as_ref()
        .map(|path| rows.open(path, run.eval_split.as_deref()));
    let eval_dataset = eval_dataset.transpose()?;
    let output_dir = arguments.output_dir.clone();
    let mut trainer = Trainer {
        model: &mut model,
        args: arguments,
        train_dataset: &train_dataset,
        eval_dataset: eval_dataset.as_ref(),
        processing_class: Some(Arc::clone(&tokenizer)),
    };
    let output = trainer.train_observed(&mut Progress::new(), stop)?;
    match &output.ending {
        Ending::Complete | Ending::EarlyStop => {
            say(&format!("adapter and loss.svg are in `{output_dir}`"));
        }
        Ending::Interrupted { checkpoint, .. } => {
            say(&format!(
                "interrupted; everything is in `{}`",
                checkpoint.display()
            ));
            say("continue with: --resume-from-checkpoint latest");
        }
    }
    Ok(output.ending)
}

/// `compute_dtype` in effect.
fn computing(base: &CausalLm) -> String {
    let name = match base.compute_dtype() {
        ComputeDtype::F32 => "f32",
        ComputeDtype::Bf16 => "bf16",
    };
    format!("compute_dtype: {name}")
}

/// Run file and flags together.
fn settle(args: &TrainArgs) -> Result<RunFile> {
    let mut run = args
        .config
        .as_ref()
        .map_or_else(|| Ok(RunFile::default()), |path| RunFile::open(path))?;
    let over = |flag: &Option<PathBuf>, own: &mut Option<PathBuf>| {
        *own = flag.clone().or_else(|| own.take())
    };
    over(&args.model, &mut run.model);
    over(&args.adapter, &mut run.adapter);
    over(&args.dataset, &mut run.dataset);
    over(&args.eval_dataset, &mut run.eval_dataset);
    run.split = args.split.clone().or(run.split);
    run.eval_split = args.eval_split.clone().or(run.eval_split);
    run.max_length = args.max_length.or(run.max_length);
    if run.max_length == Some(0) {
        return Err(Misuse("`max_length` must be a whole number above 0: 0".into()).into());
    }
    run.train.extend(args.train.train.clone());
    run.lora.extend(args.lora.lora.clone());
    if run.adapter.is_some() && !run.lora.is_empty() {
        let names: Vec<_> = run.lora.keys().cloned().collect();
        let text = format!(
            "an adapter brings its own LoraConfig, so {} would have no effect",
            names.join(", ")
        );
        return Err(Misuse(text).into());
    }
    Ok(run)
}

/// How rows are read in this run.
struct Rows<'a> {
    run: &'a RunFile,
    tokenizer: &'a Tokenizer,
    arguments: &'a TrainingArguments,
}

impl Rows<'_> {
    fn open(&self, path: &Path, split: Option<&str>) -> Result<TokenizedDataset> {
        let template = match &self.run.template {
            None => Template::alpaca(),
            Some(text) => Template::jinja(&text.prompt, &text.response)?,
        };
        let dataset = Dataset::open(path, split)?;
        let max_length = self.run.max_length.unwrap_or(DEFAULT_MAX_LENGTH);
        let cache = Path::new(&self.arguments.output_dir).join(TOKEN_CACHE);
        tokenize(
            &dataset,
            &template,
            self.tokenizer,
            max_length,
            Some(&cache),
        )
        .with_context(|| format!("in the data set `{}`", path.display()))
    }
}

fn need<'a>(path: Option<&'a PathBuf>, name: &str) -> Result<&'a PathBuf> {
    let text = || {
        Misuse(format!(
            "no {name}: give --{name}, or `{name}:` in the run file"
        ))
    };
    Ok(path.ok_or_else(text)?)
}

fn compute_named(name: &str) -> Result<Compute> {
    match name {
        "auto" => Ok(Compute::Auto),
        "f32" => Ok(Compute::F32),
        "bf16" => Ok(Compute::Bf16),
        other => Err(Misuse(format!(
            "`compute_dtype` must be auto, f32 or bf16: {other}"
        ))
        .into()),
    }
}
