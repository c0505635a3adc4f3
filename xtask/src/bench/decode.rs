//! Greedy decoding, one row, against `generate` of transformers.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use formats::weights::WeightStore;
use lowrank::{CausalLm, GenerationConfig, LoadOptions};
use model::spec::DecoderSpec;
use serde_json::json;

use super::Race;
use super::dtype::Dtype;
use super::measure::measure;
use super::ours::{since_launch, status_bytes};
use super::race::{OWN_MEMORY, PEAK_MEMORY, Pairs, Reach, less, median, more, said};

/// Of the bandwidth, what decoding reads of weights.
const SHARE: &str = "share_of_bandwidth";

/// Times our greedy decoding and prints one line of JSON.
#[derive(Args)]
pub(crate) struct DecodeArgs {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// Random ids that the text begins with.
    #[arg(long, default_value_t = 32)]
    prompt_tokens: usize,
    /// Tokens of one text.
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
    /// Texts.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Worker threads.
    #[arg(long)]
    threads: Option<usize>,
    /// What is computed in.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
}

/// Runs it.
pub(crate) fn run(args: &DecodeArgs) -> Result<()> {
    let options = LoadOptions {
        compute_dtype: args.dtype.for_api(),
        threads: args.threads,
        ..LoadOptions::default()
    };
    let model = CausalLm::load(&args.model, options)?;
    let vocab_size = model.decoder().spec().vocab_size;
    let id = |at: usize| 4 + (at * 104_729 % (vocab_size - 4)) as u32;
    let prompt: Vec<u32> = (0..args.prompt_tokens).map(id).collect();
    once(&model, &prompt, 2)?;
    let first = since_launch()?;
    let runs = (0..args.repeats).map(|_| once(&model, &prompt, args.new_tokens));
    let runs = runs.collect::<Result<Vec<_>>>()?;
    let [prefill, rates] = [0, 1].map(|part| runs.iter().map(|run| run[part]).collect::<Vec<_>>());
    let bytes = bytes_a_token(model.decoder().spec(), &WeightStore::open(&args.model)?);
    let rate = median(&rates);
    println!(
        "{}",
        json!({
            "prefill_seconds": median(&prefill),
            "decode_tokens_per_second": rate,
            "weight_gbytes_per_s": rate * bytes as f64 * 1e-9,
            "first_token_seconds": first,
            "peak_rss_bytes": status_bytes("VmHWM:").ok(),
        })
    );
    Ok(())
}

/// Seconds to the first token, and tokens a second behind it.
fn once(model: &CausalLm, prompt: &[u32], new_tokens: usize) -> Result<[f64; 2]> {
    let config = GenerationConfig {
        max_new_tokens: Some(new_tokens),
        ..GenerationConfig::default()
    };
    let (start, mut times) = (Instant::now(), Vec::new());
    model.decoder().generate(prompt, &config, |_| {
        times.push(start.elapsed().as_secs_f64());
        ControlFlow::Continue(())
    })?;
    let (first, last) = (times.first(), times.last());
    let (first, last) = first.zip(last).context("no token came")?;
    Ok([*first, (times.len() - 1) as f64 / (last - first)])
}

/// Weights that one token reads: all but tables of which it takes a row.
fn bytes_a_token(spec: &DecoderSpec, weights: &WeightStore) -> usize {
    let embedding = (!spec.tie_word_embeddings).then_some(&spec.names.embedding);
    let tables: Vec<&String> = embedding.into_iter().chain(&spec.names.positions).collect();
    // Checkpoints may leave out the first part of a path.
    let is_table = |name: &str| {
        let path = name.strip_suffix(".weight").unwrap_or(name);
        tables.iter().any(|table| table.ends_with(path))
    };
    weights
        .iter()
        .filter(|tensor| !spec.is_unread(&tensor.name) && !is_table(&tensor.name))
        .map(|tensor| tensor.bytes.len())
        .sum()
}

/// Races.
pub(crate) fn race(race: &Race) -> Result<()> {
    race.machine()?;
    let [dtype, peer_dtype] = race.dtypes([Dtype::Bf16; 2]);
    let tokens = if race.smoke { "8" } else { "64" };
    let model = race.model()?;
    let peer = || {
        let mut command = race.peer("bench_decode.py");
        measure(command.arg("--model").arg(&model).args([
            "--new-tokens",
            tokens,
            "--dtype",
            peer_dtype.name(),
        ]))
    };
    let ours = || {
        let mut command = race.side("decode");
        command.arg("--model").arg(&model);
        command.args(["--new-tokens", tokens, "--dtype", dtype.name()]);
        // Beside every run: it changes within minutes where cores move from one die to two.
        let before = bandwidth(race)?;
        let mut run = measure(&mut command)?;
        let read = run["weight_gbytes_per_s"].as_f64().context("no rate")?;
        run[SHARE] = json!(2.0 * read / (before + bandwidth(race)?));
        Ok(run)
    };
    let pairs = Pairs::run(race.runs, peer, ours)?;
    let metrics = [
        (
            more("tokens/s", "decode_tokens_per_second"),
            Some(Reach::Ratio(1.5)),
        ),
        (less("prompt of 32, s", "prefill_seconds", 1.0), None),
        (
            less("launch → first token, s", "first_token_seconds", 1.0),
            None,
        ),
        (PEAK_MEMORY, None),
        (OWN_MEMORY, None),
    ];
    let names = [
        format!("ours, {}", dtype.short()),
        format!("transformers, {}", peer_dtype.short()),
    ];
    pairs.print(names.each_ref().map(String::as_str), &metrics);
    let of = |key: &str| -> Vec<f64> {
        let runs = pairs.ours.iter();
        runs.filter_map(|run| run[key].as_f64()).collect()
    };
    let shares = of(SHARE);
    println!(
        "\nours reads {:.1} GB of weights a second, {:.0} % ({:.0} to {:.0}) of the bandwidth found before and after each run (≥ 80 %: {})",
        median(&of("weight_gbytes_per_s")),
        100.0 * median(&shares),
        100.0 * shares.iter().copied().fold(f64::INFINITY, f64::min),
        100.0 * shares.iter().copied().fold(0.0, f64::max),
        said(median(&shares) >= 0.8)
    );
    Ok(())
}

fn bandwidth(race: &Race) -> Result<f64> {
    let found = measure(&mut race.side("machine"))?;
    found["read_gbytes_per_s"].as_f64().context("no bandwidth")
}
