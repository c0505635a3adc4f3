//! The race against PEFT: both sides in turn on one machine, in one run.

pub(crate) mod ours;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::python::interpreter;
use crate::run::{output, program, root, run};

/// Races our training loop against PEFT and the Trainer, and prints a table.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Model folder [default: random bf16 weights in bloom-1b4-zh's shapes, made under .bench].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Token counts of rows, `[[prompt, all], …]` [default: a fixed list with the mean of Chinese Alpaca, 70].
    #[arg(long)]
    lengths: Option<PathBuf>,
    /// bfloat16, float32: what both sides compute in.
    #[arg(long, default_value = "bfloat16")]
    dtype: String,
    /// What the peer computes in, where it differs.
    #[arg(long)]
    peer_dtype: Option<String>,
    /// Pairs of runs.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Updates timed in each.
    #[arg(long, default_value_t = 4)]
    updates: usize,
}

/// Races.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let python = interpreter()?;
    let place = root().join(".bench");
    std::fs::create_dir_all(&place)?;
    let model = args
        .model
        .clone()
        .map_or_else(|| bloom_shapes(&python, &place), Ok)?;
    let lengths = args
        .lengths
        .clone()
        .map_or_else(|| fixed_lengths(&place), Ok)?;
    run(&mut program(
        "cargo",
        &["build", "--release", "--package", "xtask"],
    ))?;
    let common = |dtype: &str| {
        let [model, lengths] = [&model, &lengths].map(|path| path.to_string_lossy().into_owned());
        let updates = args.updates.to_string();
        [
            "--model",
            &model,
            "--lengths",
            &lengths,
            "--updates",
            &updates,
            "--dtype",
            dtype,
        ]
        .map(str::to_owned)
    };
    let peer_dtype = args.peer_dtype.as_ref().unwrap_or(&args.dtype);
    let mut pairs = Vec::new();
    for number in 0..args.runs {
        eprintln!("pair {} of {}: the peer", number + 1, args.runs);
        let peer = measure(
            Command::new(&python)
                .arg("tools/python/bench_peft.py")
                .args(common(peer_dtype)),
        )?;
        eprintln!("pair {} of {}: ours", number + 1, args.runs);
        let ours = measure(
            Command::new("target/release/xtask")
                .arg("bench-ours")
                .args(common(&args.dtype)),
        )?;
        pairs.push((ours, peer));
    }
    println!(
        "\nours in {}, PEFT in {peer_dtype}; {} pairs; {}",
        args.dtype,
        pairs.len(),
        machine()
    );
    println!(
        "\n| | ours: median (min–max) | PEFT: median (min–max) | ratio, pair by pair |\n|---|---|---|---|"
    );
    row(&pairs, "tokens/s", "tokens_per_second", 1.0, false);
    row(
        &pairs,
        "launch → first update, s",
        "first_update_seconds",
        1.0,
        true,
    );
    row(&pairs, "peak memory, GB", "peak_rss_bytes", 1e-9, true);
    Ok(())
}

fn measure(command: &mut Command) -> Result<Value> {
    let text = output(command.current_dir(root()))?;
    let line = text
        .lines()
        .rev()
        .find(|line| line.starts_with('{'))
        .context("no JSON was printed")?;
    Ok(serde_json::from_str(line)?)
}

fn row(pairs: &[(Value, Value)], name: &str, key: &str, scale: f64, smaller_is_better: bool) {
    let of = |value: &Value| value[key].as_f64().unwrap_or(f64::NAN) * scale;
    let ours: Vec<f64> = pairs.iter().map(|(ours, _)| of(ours)).collect();
    let peer: Vec<f64> = pairs.iter().map(|(_, peer)| of(peer)).collect();
    let ratio = |(ours, peer): (&f64, &f64)| {
        if smaller_is_better {
            peer / ours
        } else {
            ours / peer
        }
    };
    let ratios: Vec<f64> = ours.iter().zip(&peer).map(ratio).collect();
    println!(
        "| {name} | {} | {} | {}× |",
        spread(ours),
        spread(peer),
        spread(ratios)
    );
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{:.2} ({least:.2}–{most:.2})", values[values.len() / 2])
}

fn bloom_shapes(python: &Path, place: &Path) -> Result<PathBuf> {
    let model = place.join("bloom-1b4-bf16");
    if !model.join("model.safetensors").is_file() {
        run(Command::new(python)
            .arg("tools/python/make_bloom_shapes.py")
            .arg(&model)
            .current_dir(root()))?;
    }
    Ok(model)
}

/// 64 rows between 20 and 200 tokens, mean 70, a quarter of each a prompt: the shape of Chinese Alpaca answers.
fn fixed_lengths(place: &Path) -> Result<PathBuf> {
    let path = place.join("lengths.json");
    let all = |number: usize| {
        let share = (number * 37 % 64) as f64 / 63.0;
        (20.0 + 180.0 * share.powf(2.6)).round() as usize
    };
    let lengths: Vec<[usize; 2]> = (0..64)
        .map(|number| [all(number) / 4, all(number)])
        .collect();
    std::fs::write(&path, serde_json::to_vec(&lengths)?)?;
    Ok(path)
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{cores} cores of{}",
        model.trim_start_matches([' ', '\t']).replacen(':', "", 1)
    )
}
