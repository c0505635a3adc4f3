//! The `lowrank` command. Data goes to stdout, talk to stderr; it exits with 0 when done, 1 when something
//! failed, 2 when it was used wrongly, 129, 130 or 143 when it was interrupted with a checkpoint kept.

mod commands;
mod flags;
mod misuse;
mod output;
mod progress;
mod run_file;
mod signals;
mod tokenizing;
mod traps;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lowrank::Ending;

use crate::misuse::Misuse;
use crate::output::say;

/// LoRA fine-tuning of Hugging Face causal language models: one binary, no Python.
#[derive(Parser)]
#[command(name = "lowrank", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(commands::demo::DemoArgs),
    Train(Box<commands::train::TrainArgs>),
    Generate(commands::generate::GenerateArgs),
    Merge(commands::merge::MergeArgs),
    Eval(commands::eval::EvalArgs),
    Inspect(commands::inspect::InspectArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => tell(&error),
    }
}

fn run(command: Command) -> Result<ExitCode> {
    traps::set_from_environment()?;
    signals::survive_size_limit()?;
    match command {
        Command::Demo(args) => {
            let ending = commands::demo::run(&args, signals::stop_flag()?)?;
            return Ok(exit_code(&ending));
        }
        Command::Train(args) => {
            let ending = commands::train::run(&args, signals::stop_flag()?)?;
            return Ok(exit_code(&ending));
        }
        Command::Generate(args) => commands::generate::run(&args)?,
        Command::Merge(args) => commands::merge::run(&args)?,
        Command::Eval(args) => commands::eval::run(&args)?,
        Command::Inspect(args) => commands::inspect::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn exit_code(ending: &Ending) -> ExitCode {
    match ending {
        Ending::Interrupted { signal, .. } => ExitCode::from(128 + *signal as u8),
        Ending::Complete | Ending::EarlyStop => ExitCode::SUCCESS,
    }
}

/// What, where, how to mend.
fn tell(error: &anyhow::Error) -> ExitCode {
    let mut told = error.to_string();
    say(&format!("error: {told}"));
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some errors end with their cause's text: once is enough.
        if !told.ends_with(&cause) {
            say(&format!("  because: {cause}"));
            told = cause;
        }
    }
    if let Some(hint) = error.chain().find_map(lowrank::hint) {
        say(&format!("mend: {hint}"));
    }
    // As a context it is no link of the chain.
    let misused = error.is::<Misuse>() || error.chain().any(|cause| cause.is::<Misuse>());
    ExitCode::from(if misused { 2 } else { 1 })
}

/// The reader went away (`lowrank … | head`): nothing is wrong.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}
