//! The race against the Python stack: both sides in turn on one machine, in one run.

mod ceiling;
mod decode;
mod dtype;
mod gemm;
mod isa;
mod kernels;
mod lengths;
mod lines;
mod machine;
mod measure;
mod merge;
pub(crate) mod ours;
mod race;
mod rows;
mod tokenize;
mod training;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::Value;

use self::dtype::Dtype;
use self::rows::{Kind, ROWS, Row};
use crate::python::interpreter;
use crate::run::{executable, root, run};

/// Races the rows of the performance table against the Python stack, and prints a table for each.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Row of the table; repeat for several [default: mission].
    #[arg(long = "row", value_parser = PossibleValuesParser::new(rows::names()))]
    rows: Vec<String>,
    /// All rows.
    #[arg(long, conflicts_with = "rows")]
    all: bool,
    /// Model folder [default: random bf16 weights in bloom-1b4-zh's shapes, made under .bench].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of SmolLM2-135M, for its row.
    #[arg(long)]
    smollm2: Option<PathBuf>,
    /// Token counts of rows, `[[prompt, all], …]` [default: a fixed list with the mean of Chinese Alpaca, 70].
    #[arg(long)]
    lengths: Option<PathBuf>,
    /// Rows of text, for tokenising and for SmolLM2's lengths [default: those of `lowrank demo`].
    #[arg(long)]
    dataset: Option<PathBuf>,
    /// Folder with a tokenizer, for tokenising [default: that of `lowrank demo`].
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// So many tokens at the beginning are the same in all rows. The Alpaca template's `Human:` is three tokens
    /// under bloom-1b4-zh's tokenizer.
    #[arg(long, default_value_t = 3)]
    opening: usize,
    /// Tokens before every row's prompt, the same for all, in the rows that train.
    #[arg(long, default_value_t = 0)]
    system_prompt: usize,
    /// What ours computes in instead of the row's own, in the rows that train, in `gemm` and in `decode`.
    #[arg(long)]
    dtype: Option<Dtype>,
    /// The same of the peer.
    #[arg(long)]
    peer_dtype: Option<Dtype>,
    /// Pairs of runs.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Updates timed in each.
    #[arg(long, default_value_t = 4)]
    updates: usize,
    /// Folder for what is made and removed again, as the merged model [default: a new one under .bench].
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// The demo's tiny model, one pair, one update: shows that every side runs, and nothing else.
    #[arg(long)]
    smoke: bool,
}

/// One side of ours, alone in its process.
#[derive(Subcommand)]
pub(crate) enum Side {
    /// Peak of the cores, bandwidth of the memory.
    Machine,
    /// Greedy decoding.
    Decode(decode::DecodeArgs),
    /// Merge and save.
    Merge(merge::MergeArgs),
    /// Rows to ids.
    Tokenize(tokenize::TokenizeArgs),
    /// Frozen products.
    Gemm(gemm::GemmArgs),
    /// Attention, norm, activation, loss.
    Kernels(kernels::KernelsArgs),
    /// All instruction sets.
    Isa(isa::IsaArgs),
}

/// Runs it.
pub(crate) fn side(side: &Side) -> Result<()> {
    match side {
        Side::Machine => machine::print(),
        Side::Decode(args) => decode::run(args)?,
        Side::Merge(args) => merge::run(args)?,
        Side::Tokenize(args) => tokenize::run(args)?,
        Side::Gemm(args) => gemm::run(args),
        Side::Kernels(args) => kernels::run(args),
        Side::Isa(args) => isa::run(args),
    }
    Ok(())
}

/// What all rows of one call share.
pub(crate) struct Race {
    python: PathBuf,
    xtask: PathBuf,
    named_model: Option<PathBuf>,
    smollm2: Option<PathBuf>,
    lengths: Option<PathBuf>,
    dataset: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
    opening: usize,
    system_prompt: usize,
    dtype: Option<Dtype>,
    peer_dtype: Option<Dtype>,
    runs: usize,
    updates: usize,
    scratch: PathBuf,
    smoke: bool,
}

/// Races.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let place = root().join(".bench");
    std::fs::create_dir_all(&place)?;
    let parent = args.scratch.as_ref().unwrap_or(&place);
    let scratch = tempfile::tempdir_in(parent).with_context(|| parent.display().to_string())?;
    let race = Race::new(args, scratch.path())?;
    let mission = ["mission".to_owned()];
    let asked = if args.rows.is_empty() {
        &mission[..]
    } else {
        &args.rows
    };
    let mut mission = None;
    for row in &ROWS {
        if args.all || asked.iter().any(|name| name == row.name) {
            println!("\n## {}: {}", row.name, row.what);
            let ratio = race.run(row, mission)?;
            mission = mission.or(ratio.filter(|_| row.name == "mission"));
        }
    }
    Ok(())
}

impl Race {
    fn new(args: &BenchArgs, scratch: &Path) -> Result<Self> {
        let demo = || args.smoke.then(|| root().join("crates/cli/demo"));
        Ok(Self {
            python: interpreter()?,
            xtask: release()?,
            named_model: args.model.clone().or_else(demo),
            smollm2: args.smollm2.clone().or_else(demo),
            lengths: args.lengths.clone(),
            dataset: args.dataset.clone(),
            tokenizer: args.tokenizer.clone(),
            opening: args.opening,
            system_prompt: args.system_prompt,
            dtype: args.dtype,
            peer_dtype: args.peer_dtype,
            runs: if args.smoke { 1 } else { args.runs.max(1) },
            updates: if args.smoke { 1 } else { args.updates.max(1) },
            scratch: scratch.canonicalize()?,
            smoke: args.smoke,
        })
    }

    /// One row; where it trains, the ratio of the tokens a second. `mission`: that of the mission's row before.
    fn run(&self, row: &Row, mission: Option<f64>) -> Result<Option<f64>> {
        match &row.kind {
            Kind::Train(training) => return training::race(self, training, mission),
            Kind::Threads => training::threads(self)?,
            Kind::Flat => training::flat(self)?,
            Kind::Decode => decode::race(self)?,
            Kind::Merge => merge::race(self)?,
            Kind::Tokenize => tokenize::race(self)?,
            Kind::Gemm => gemm::race(self)?,
            Kind::Kernels => kernels::race(self)?,
            Kind::Isa => isa::race(self)?,
        }
        Ok(None)
    }

    /// What both sides compute in, ours first, where the row itself says `own` of each.
    fn dtypes(&self, own: [Dtype; 2]) -> [Dtype; 2] {
        [
            self.dtype.unwrap_or(own[0]),
            self.peer_dtype.unwrap_or(own[1]),
        ]
    }

    /// A script of the peer's.
    fn peer(&self, script: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(format!("tools/python/{script}"));
        command
    }

    /// Our training.
    fn ours(&self) -> Command {
        let mut command = Command::new(&self.xtask);
        command.arg("bench-ours");
        command
    }

    /// Another side of ours.
    fn side(&self, name: &str) -> Command {
        let mut command = Command::new(&self.xtask);
        command.args(["bench-side", name]);
        command
    }

    /// What this machine can do, said before a row.
    fn machine(&self) -> Result<Value> {
        machine::measure_and_say(self.side("machine"))
    }

    /// The mission's model.
    fn model(&self) -> Result<PathBuf> {
        self.named_model
            .clone()
            .map_or_else(|| bloom_shapes(&self.python), Ok)
    }

    /// A tokenizer and rows of text.
    fn text(&self) -> Result<(PathBuf, PathBuf)> {
        let demo = root().join("crates/cli/demo").canonicalize()?;
        let tokenizer = self.tokenizer.clone().unwrap_or_else(|| demo.clone());
        let rows = || demo.join("instructions.json");
        Ok((tokenizer, self.dataset.clone().unwrap_or_else(rows)))
    }
}

/// This program, built for speed.
fn release() -> Result<PathBuf> {
    if !cfg!(debug_assertions) {
        return Ok(std::env::current_exe()?);
    }
    executable("xtask", &["--release"])
}

fn bloom_shapes(python: &Path) -> Result<PathBuf> {
    let model = root().join(".bench/bloom-1b4-bf16");
    if !model.join("model.safetensors").is_file() {
        run(Command::new(python)
            .arg("tools/python/make_bloom_shapes.py")
            .arg(&model)
            .current_dir(root()))?;
    }
    Ok(model)
}
