//! Rows to ids, against the tutorial's `datasets.map`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use lowrank::{Dataset, TOKEN_CACHE, Template, Tokenizer};
use serde_json::{Value, json};

use super::Race;
use super::measure::measure;
use super::ours::{since_launch, status_bytes};
use super::race::{PEAK_MEMORY, Pairs, Reach, less, more};

/// Times our tokenising and prints one line of JSON.
#[derive(Args)]
pub(crate) struct TokenizeArgs {
    /// Folder with a tokenizer.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Rows.
    #[arg(long)]
    dataset: PathBuf,
}

const ROWS: usize = 20_000;
/// The mission's.
const MAX_LENGTH: usize = 256;

/// Runs it: rows are opened, encoded and kept in a file, as `lowrank train` does.
pub(crate) fn run(args: &TokenizeArgs) -> Result<()> {
    let place = tempfile::tempdir()?;
    let start = Instant::now();
    let tokenizer = Tokenizer::from_pretrained(&args.tokenizer)?;
    let rows = Dataset::open(&args.dataset, None)?;
    let encode = Instant::now();
    let cache = place.path().join(TOKEN_CACHE);
    let encoded = rows.tokenize_cached(
        &Template::alpaca(),
        &tokenizer,
        MAX_LENGTH,
        Some(&cache),
        &|_, _| {},
    )?;
    let end = Instant::now();
    println!(
        "{}",
        json!({
            "rows": encoded.len(),
            "tokens": encoded.report().tokens,
            "seconds": (end - encode).as_secs_f64(),
            "rows_per_second": encoded.len() as f64 / (end - encode).as_secs_f64(),
            "whole_seconds": (end - start).as_secs_f64(),
            "launch_to_end_seconds": since_launch()?,
            "peak_rss_bytes": status_bytes("VmHWM:").ok(),
        })
    );
    Ok(())
}

/// Races.
pub(crate) fn race(race: &Race) -> Result<()> {
    race.machine()?;
    let (tokenizer, dataset) = race.text()?;
    let rows = if race.smoke { 200 } else { ROWS };
    let dataset = at_least(rows, &dataset, &race.scratch)?;
    let peer = || {
        let mut command = race.peer("bench_tokenize.py");
        command.arg("--tokenizer").arg(&tokenizer);
        measure(command.arg("--dataset").arg(&dataset).args(["--rows", "0"]))
    };
    let ours = || {
        let mut command = race.side("tokenize");
        command.arg("--tokenizer").arg(&tokenizer);
        measure(command.arg("--dataset").arg(&dataset))
    };
    let pairs = Pairs::run(race.runs, peer, ours)?;
    pairs.ensure_same("rows")?;
    pairs.ensure_same("tokens")?;
    let metrics = [
        (more("rows/s", "rows_per_second"), None),
        (
            less("open, encode, keep, s", "whole_seconds", 1.0),
            Some(Reach::Ratio(3.0)),
        ),
        (
            less("launch → end, imports too, s", "launch_to_end_seconds", 1.0),
            None,
        ),
        (PEAK_MEMORY, None),
    ];
    pairs.print(["ours", "datasets.map"], &metrics);
    println!(
        "\n{} rows, {} tokens on both sides",
        pairs.ours[0]["rows"], pairs.ours[0]["tokens"]
    );
    Ok(())
}

/// The data set itself where it has so many rows, else its rows again and again.
fn at_least(count: usize, dataset: &Path, scratch: &Path) -> Result<PathBuf> {
    let rows = Dataset::open(dataset, None)?;
    if rows.len() >= count {
        return Ok(dataset.to_path_buf());
    }
    let mut text = String::new();
    for number in 0..count {
        writeln!(text, "{}", Value::Object(rows.row(number % rows.len())?))?;
    }
    let path = scratch.join("rows.jsonl");
    std::fs::write(&path, text)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_set_is_repeated() {
        let place = tempfile::tempdir().expect("a folder");
        let short = place.path().join("short.json");
        std::fs::write(&short, r#"[{"instruction": "a"}, {"instruction": "b"}]"#).expect("written");
        let path = at_least(5, &short, place.path()).expect("rows");
        let rows = Dataset::open(path, None).expect("a set");
        assert_eq!(rows.len(), 5);
        assert_eq!(rows.row(4).expect("a row")["instruction"], "a");
        assert_eq!(at_least(2, &short, place.path()).expect("rows"), short);
    }
}
