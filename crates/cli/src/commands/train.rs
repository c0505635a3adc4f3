//! `lowrank train`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use lowrank::{
    CausalLm, Compute, ComputeDtype, Dataset, Ending, LoadOptions, LoraConfig, PeftModel,
    ResumeCheck, StopFlag, TOKEN_CACHE, Template, TokenizedDataset, Tokenizer, Trainer,
    TrainingArguments, check_output, get_peft_model, verify_resume,
};

use super::{EngineFlags, above_0, tell_isa};
use crate::flags::{LoraFlags, TrainFlags};
use crate::misuse::Misuse;
use crate::output::say;
use crate::progress::{Progress, bytes};
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
    /// Rows to learn: a `save_to_disk` folder, .json, .jsonl, .ndjson, .csv or .arrow.
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
    #[arg(long, value_parser = above_0, allow_negative_numbers = true)]
    max_length: Option<usize>,
    /// Do not train: stop and resume a few updates of this run, and compare bytes with updates that were not stopped.
    #[arg(long)]
    verify_resume: bool,
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
    let folder = need(run.model.as_ref(), "model")?;
    need(run.dataset.as_ref(), "dataset")?;
    let compute = run.compute_dtype.as_deref();
    let compute = compute.map_or(Ok(Compute::Auto), compute_named)?;
    let start = Start {
        folder,
        adapter: run.adapter.as_deref(),
        options: args.engine.options(compute)?,
        config,
        seed: arguments.seed,
    };
    if args.verify_resume {
        return verify(&run, &arguments, &start, stop);
    }
    // The run would say so too, but after it has put the ids of its rows there.
    check_output(&arguments)?;
    let (mut model, tokenizer) = start.told()?;
    let cache = Path::new(&arguments.output_dir).join(TOKEN_CACHE);
    let rows = Rows {
        run: &run,
        tokenizer: &tokenizer,
        cache: Some(&cache),
    };
    let (train_dataset, eval_dataset) = rows.open_both()?;
    let output_dir = arguments.output_dir.clone();
    let mut trainer = Trainer {
        model: &mut model,
        args: arguments,
        train_dataset: &train_dataset,
        eval_dataset: eval_dataset.as_ref(),
        processing_class: Some(Arc::clone(&tokenizer)),
    };
    let output = trainer.train_observed(&mut Progress::new(), stop)?;
    tell_ending(&output.ending, &output_dir);
    Ok(output.ending)
}

/// What a run starts from.
struct Start<'a> {
    folder: &'a Path,
    adapter: Option<&'a Path>,
    options: LoadOptions,
    config: LoraConfig,
    seed: u64,
}

impl Start<'_> {
    /// The base under a fresh adapter, or under the one that was named, and the tokenizer; says what they are.
    fn told(&self) -> Result<(PeftModel, Arc<Tokenizer>)> {
        let note = |notice: &String| say(&format!("note: {notice}"));
        let base = self.base()?;
        base.notices().iter().for_each(note);
        say(&computing(&base));
        tell_isa(self.options, &base);
        let tokenizer = Arc::new(Tokenizer::from_pretrained(self.folder)?);
        let model = self.adapted(base)?;
        model.plan().notices.iter().for_each(note);
        say(&model.trainable_parameters_line());
        Ok((model, tokenizer))
    }

    fn base(&self) -> lowrank::Result<CausalLm> {
        CausalLm::load(self.folder, self.options)
    }

    fn adapted(&self, base: CausalLm) -> lowrank::Result<PeftModel> {
        match self.adapter {
            Some(adapter) => PeftModel::from_pretrained(base, adapter),
            None => get_peft_model(base, &self.config, self.seed),
        }
    }
}

fn tell_ending(ending: &Ending, output_dir: &str) {
    match ending {
        Ending::Complete | Ending::EarlyStop => {
            say(&format!("adapter and loss.svg are in `{output_dir}`"));
        }
        Ending::Interrupted { checkpoint, .. } => {
            let checkpoint = checkpoint.display();
            say(&format!("interrupted; everything is in `{checkpoint}`"));
            say(&format!(
                "continue with: --resume-from-checkpoint latest (which is `{checkpoint}`)"
            ));
        }
    }
}

/// `--verify-resume`
fn verify(
    run: &RunFile,
    arguments: &TrainingArguments,
    start: &Start<'_>,
    stop: StopFlag,
) -> Result<Ending> {
    if arguments.resume_from_checkpoint.is_some() {
        let text =
            "--verify-resume begins the run anew, so resume_from_checkpoint would have no effect";
        return Err(Misuse(text.into()).into());
    }
    let (first, tokenizer) = start.told()?;
    let mut first = Some(first);
    let mut model = || match first.take() {
        Some(model) => Ok(model),
        None => start.adapted(start.base()?),
    };
    let rows = Rows {
        run,
        tokenizer: &tokenizer,
        cache: None,
    };
    let dataset = need(run.dataset.as_ref(), "dataset")?;
    let train_dataset = rows.open(dataset, run.split.as_deref())?;
    let proof = verify_resume(ResumeCheck {
        model: &mut model,
        args: arguments,
        train_dataset: &train_dataset,
        processing_class: Some(Arc::clone(&tokenizer)),
        stop: stop.clone(),
        observer: &mut Progress::new(),
    })?;
    let Some(proof) = proof else {
        say("interrupted; nothing is kept of a verification");
        let (signal, checkpoint) = (stop.requested().unwrap_or_default(), PathBuf::new());
        return Ok(Ending::Interrupted { signal, checkpoint });
    };
    say(&format!(
        "verified: stopped after update {} and resumed, update {} left the same bytes as without the stop, in {} files, {}",
        proof.stopped_after,
        proof.compared_after,
        proof.files.len(),
        bytes(proof.size_bytes)
    ));
    Ok(Ending::Complete)
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
    run.train.extend(args.train.train.clone());
    run.lora.extend(args.lora.lora.clone());
    if let Some(adapter) = &run.adapter {
        run.refuse_other_config(adapter)?;
    }
    Ok(run)
}

/// How rows are read in this run.
struct Rows<'a> {
    run: &'a RunFile,
    tokenizer: &'a Tokenizer,
    /// Where their ids are kept for the next run.
    cache: Option<&'a Path>,
}

impl Rows<'_> {
    fn open_both(&self) -> Result<(TokenizedDataset, Option<TokenizedDataset>)> {
        let dataset = need(self.run.dataset.as_ref(), "dataset")?;
        let train = self.open(dataset, self.run.split.as_deref())?;
        let eval = self.run.eval_dataset.as_ref();
        let eval = eval.map(|path| self.open(path, self.run.eval_split.as_deref()));
        Ok((train, eval.transpose()?))
    }

    fn open(&self, path: &Path, split: Option<&str>) -> Result<TokenizedDataset> {
        let template = match &self.run.template {
            None => Template::alpaca(),
            Some(text) => Template::jinja(&text.prompt, &text.response)?,
        };
        let dataset = Dataset::open(path, split)?;
        let max_length = self.run.max_length.unwrap_or(DEFAULT_MAX_LENGTH);
        tokenize(&dataset, &template, self.tokenizer, max_length, self.cache)
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
