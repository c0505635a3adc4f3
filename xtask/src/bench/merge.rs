//! Folding an adapter into its base and saving, against `merge_and_unload` and `save_pretrained`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use lowrank::{
    CausalLm, InitLoraWeights, LoraConfig, MAX_SHARD_BYTES, get_peft_model, merge_folder,
};
use serde_json::{Value, json};

use super::Race;
use super::measure::measure;
use super::ours::{since_launch, status_bytes};
use super::race::{OWN_MEMORY, PEAK_MEMORY, Pairs, Reach, less};

/// Times our merge and prints one line of JSON.
#[derive(Args)]
pub(crate) struct MergeArgs {
    /// Base model folder.
    #[arg(long)]
    model: PathBuf,
    /// Adapter folder.
    #[arg(long)]
    adapter: PathBuf,
    /// Folder to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
}

/// Runs it.
pub(crate) fn run(args: &MergeArgs) -> Result<()> {
    let start = Instant::now();
    merge_folder(&args.model, &args.adapter, &args.out, MAX_SHARD_BYTES)?;
    println!(
        "{}",
        json!({
            "total_seconds": start.elapsed().as_secs_f64(),
            "launch_to_end_seconds": since_launch()?,
            "peak_rss_bytes": status_bytes("VmHWM:").ok(),
        })
    );
    Ok(())
}

/// An adapter with random A and B, as PEFT's default targets have it.
fn adapter(model: &Path, folder: PathBuf) -> Result<PathBuf> {
    let config = LoraConfig {
        init_lora_weights: InitLoraWeights::Flag(false),
        ..LoraConfig::default()
    };
    get_peft_model(CausalLm::from_pretrained(model)?, &config, 42)?.save_pretrained(&folder)?;
    Ok(folder)
}

/// Races.
pub(crate) fn race(race: &Race) -> Result<()> {
    race.machine()?;
    let model = race.model()?;
    let adapter = adapter(&model, race.scratch.join("adapter"))?;
    let out = race.scratch.join("merged");
    let once = |mut command: Command| -> Result<Value> {
        remove(&out)?;
        let found = measure(
            command
                .arg("--model")
                .arg(&model)
                .arg("--adapter")
                .arg(&adapter)
                .arg("--out")
                .arg(&out),
        );
        remove(&out)?;
        found
    };
    let pairs = Pairs::run(
        race.runs,
        || once(race.peer("bench_merge.py")),
        || once(race.side("merge")),
    )?;
    let metrics = [
        (
            less("open, merge, save, s", "total_seconds", 1.0),
            Some(Reach::Ratio(3.0)),
        ),
        (less("launch → end, s", "launch_to_end_seconds", 1.0), None),
        (PEAK_MEMORY, None),
        (OWN_MEMORY, None),
    ];
    pairs.print(["ours", "PEFT, bf16"], &metrics);
    println!(
        "\nours ends when the disk has every byte (fsync); PEFT ends when the page cache has them"
    );
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}
