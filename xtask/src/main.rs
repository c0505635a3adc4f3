//! `cargo xtask …`: the developer's commands.

mod architecture;
mod bench;
mod ci;
mod demo;
mod faults;
mod intrinsics;
mod parity;
mod python;
mod run;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The developer's commands of lowrank.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that must hold before a change lands.
    Ci,
    /// The promises of docs/ARCHITECTURE.md that a program can check.
    Architecture,
    /// That no vector intrinsic of the kernels is left a call, in their release build.
    Intrinsics,
    /// The fault suites: storage, sudden death, damage; prints how many faults were injected.
    Faults(faults::FaultArgs),
    /// Races the rows of the performance table against the Python stack, and prints a table for each.
    Bench(Box<bench::BenchArgs>),
    /// Our training's side of the race alone.
    BenchOurs(bench::ours::OursArgs),
    /// Another side of ours alone.
    #[command(subcommand)]
    BenchSide(bench::Side),
    /// Makes the base model and the data of `lowrank demo` again: some minutes of training.
    DemoBase {
        /// Take the training of the last call.
        #[arg(long)]
        keep_trained: bool,
    },
    /// Lays the real run over PEFT's and the Trainer's, step by step.
    Parity(parity::overlay::ParityArgs),
    /// Measures our bf16 and torch's from the f64 truth on real rows.
    Truth(parity::truth::TruthArgs),
    /// Our folders opened by the Python stack, and its folders opened here.
    Roundtrip(parity::roundtrip::RoundtripArgs),
    /// Random models, data and settings through both sides, everything compared.
    RandomRuns(parity::random::RandomArgs),
    /// Adapters that strangers published: loaded whole, or refused with the reason.
    Strangers,
    /// Makes the golden files again with the Python stack, and shows what changed.
    Goldens,
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Ci => ci::ci(),
        Command::Architecture => architecture::check(),
        Command::Intrinsics => intrinsics::check(),
        Command::Faults(args) => faults::faults(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::BenchOurs(args) => bench::ours::run(&args),
        Command::BenchSide(side) => bench::side(&side),
        Command::DemoBase { keep_trained } => demo::demo_base(keep_trained),
        Command::Parity(args) => parity::overlay::parity(&args),
        Command::Truth(args) => parity::truth::truth(&args),
        Command::Roundtrip(args) => parity::roundtrip::roundtrip(&args),
        Command::RandomRuns(args) => parity::random::random_runs(&args),
        Command::Strangers => parity::strangers::strangers(),
        Command::Goldens => python::goldens(),
    }
}
