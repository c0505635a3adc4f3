//! `cargo xtask random-runs`: drawn models, data and settings, run by our binary and by PEFT and the Trainer.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::sides::{build, script};
use crate::run::{root, run};

/// Draws tiny models, data, LoraConfigs and TrainingArguments, runs both sides on each, and compares everything.
#[derive(Args)]
pub(crate) struct RandomArgs {
    /// How many cases.
    #[arg(long, default_value_t = 100)]
    cases: u64,
    /// Number of the first; a case is its number.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the folders of cases that differ are left [default: they are removed].
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Our binary [default: a release build, made now].
    #[arg(long)]
    ours: Option<PathBuf>,
}

/// Runs it; fails where a case differs.
pub(crate) fn random_runs(args: &RandomArgs) -> Result<()> {
    let mut command = script("random_runs")?;
    command.arg("--ours").arg(build(args.ours.as_ref())?);
    command.args(["--cases", &args.cases.to_string()]);
    command.args(["--seed", &args.seed.to_string()]);
    if let Some(keep) = &args.keep {
        command.arg("--keep").arg(std::path::absolute(keep)?);
    }
    run(command.current_dir(root()))
}
