//! `lowrank merge`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use lowrank::{LoadOptions, MergeProof, MergeReport, merge_folder, prove_merge};
use serde::Serialize;

use super::{above_0, unescaped};
use crate::output::{self, say};
use crate::progress::bytes;

/// Folds an adapter into its base, writes a plain model folder, and proves that it says the same.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Base model folder.
    #[arg(long)]
    model: PathBuf,
    /// Adapter folder, ours or PEFT's.
    #[arg(long)]
    adapter: PathBuf,
    /// New folder to write; it must not exist.
    #[arg(long)]
    output: PathBuf,
    /// Bytes of one weights file at most, also as 5GB or 500MB.
    #[arg(long, default_value_t = lowrank::MAX_SHARD_BYTES, value_parser = size_bytes, allow_negative_numbers = true)]
    max_shard_bytes: u64,
    /// Prompts that the proof compares; `\n` stands for a new line, `\\` for one backslash.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    prompt: Vec<String>,
    /// Write without comparing.
    #[arg(long)]
    no_proof: bool,
    /// Worker threads [default: all cores].
    #[arg(long, value_parser = above_0, allow_negative_numbers = true)]
    threads: Option<usize>,
    /// Print report and proof as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Merged {
    report: MergeReport,
    proof: Option<MergeProof>,
}

/// What is compared when the user names no prompts: two languages, an instruction, and plain text.
pub(crate) const PROMPTS: [&str; 4] = [
    "Human: 数据分析师面试怎么准备？\n\nAssistant: ",
    "Human: Give three tips for staying healthy.\n\nAssistant: ",
    "Once upon a time",
    "The capital of France is",
];

pub(crate) fn run(args: &MergeArgs) -> Result<()> {
    let report = merge_folder(
        &args.model,
        &args.adapter,
        &args.output,
        args.max_shard_bytes,
    )?;
    report
        .notices
        .iter()
        .for_each(|notice| say(&format!("note: {notice}")));
    let output = args.output.display();
    say(&format!(
        "wrote `{output}`: {} tensors, {} of them changed, {}",
        report.tensors,
        report.changed.len(),
        bytes(report.size_bytes)
    ));
    let proof = if args.no_proof {
        None
    } else {
        // A second merge to the same place would be refused, so it must be said that the folder is there.
        let unproved = || format!("`{output}` is written, but not proved to say the same");
        Some(prove(args).with_context(unproved)?)
    };
    if args.json {
        output::json(&Merged { report, proof })
    } else {
        Ok(())
    }
}

fn prove(args: &MergeArgs) -> Result<MergeProof> {
    let prompts: Vec<String> = if args.prompt.is_empty() {
        PROMPTS.iter().map(|prompt| (*prompt).to_owned()).collect()
    } else {
        args.prompt.iter().map(|text| unescaped(text)).collect()
    };
    let options = LoadOptions {
        threads: args.threads,
        ..LoadOptions::default()
    };
    let proof = prove_merge(&args.model, &args.adapter, &args.output, &prompts, options)?;
    tell(&proof);
    Ok(proof)
}

/// The proof in words.
pub(crate) fn tell(proof: &MergeProof) {
    for prompt in &proof.prompts {
        let tokens = prompt.adapter_ids.len();
        let verdict = match prompt.first_difference {
            None => format!("the same {tokens} greedy tokens"),
            Some(index) => format!(
                "greedy tokens differ from number {} of {tokens} on",
                index + 1
            ),
        };
        say(&format!(
            "proof: {:?}: {verdict}, largest logit difference {:.2e} of {:.1}",
            prompt.prompt, prompt.max_logit_difference, prompt.max_logit
        ));
    }
    say(&format!(
        "proof: adapter and merged model agree: {:.2e} of the largest logit, at most {:.0e} is allowed",
        proof.largest_difference, proof.bound
    ));
}

/// As transformers' `max_shard_size`: GB is 10^9, GiB is 2^30.
fn size_bytes(text: &str) -> Result<u64, &'static str> {
    const WANTS: &str = "must be a size above 0, as 5GB, 500MB, 2GiB, or a number of bytes";
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..].to_ascii_uppercase()[..] {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return Err(WANTS),
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or(WANTS)
}

#[cfg(test)]
mod tests {
    use super::size_bytes;

    #[test]
    fn a_size_has_the_units_of_transformers() {
        assert_eq!(size_bytes("5GB"), Ok(5_000_000_000));
        assert_eq!(size_bytes("2GiB"), Ok(2 << 30));
        assert_eq!(size_bytes("500mb"), Ok(500_000_000));
        assert_eq!(size_bytes("12"), Ok(12));
        for wrong in ["0", "", "GB", "-1", "1TB", "1.5GB", "99999999999GB"] {
            assert!(size_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
