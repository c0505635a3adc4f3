//! Tokenising with a bar, and what came of it in words.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowrank::{CacheUse, Dataset, Report, Template, TokenizedDataset, Tokenizer};

use crate::output::say;

/// Tokenises `dataset`, kept in `cache`, and says what was cut.
pub(crate) fn tokenize(
    dataset: &Dataset,
    template: &Template,
    tokenizer: &Tokenizer,
    max_length: usize,
    cache: Option<&Path>,
) -> Result<TokenizedDataset> {
    let drawn = std::io::stderr().is_terminal();
    let bar = if drawn {
        ProgressBar::with_draw_target(
            Some(dataset.len() as u64),
            ProgressDrawTarget::stderr_with_hz(4),
        )
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) =
        ProgressStyle::with_template("tokenising {bar:30} {pos}/{len} rows [{elapsed_precise}]")
    {
        bar.set_style(style);
    }
    let progress = |done: usize, _: usize| bar.set_position(done as u64);
    let tokenized = dataset.tokenize_cached(template, tokenizer, max_length, cache, &progress)?;
    bar.finish_and_clear();
    tell(tokenized.report(), max_length);
    Ok(tokenized)
}

fn tell(report: &Report, max_length: usize) {
    let [shortest, median, most, longest] = report.full_lengths;
    say(&format!(
        "data: {} rows, {} tokens ({} to learn), lengths {shortest} to {longest}, median {median}, 90 % up to {most}",
        report.rows, report.tokens, report.label_tokens
    ));
    if report.truncated > 0 {
        say(&format!(
            "note: {} rows are cut at max_length {max_length}; {} of them lose their end-of-text token",
            report.truncated, report.eos_cut
        ));
    }
    if report.all_masked > 0 {
        say(&format!(
            "note: {} rows have nothing to learn: the prompt fills max_length",
            report.all_masked
        ));
    }
    match &report.cache {
        CacheUse::Read => say("data: ids read from the cache, nothing had changed"),
        CacheUse::Rebuilt(reason) => say(&format!(
            "note: the cache of ids was damaged and is made anew: {reason}"
        )),
        CacheUse::NotWritten(reason) => {
            say(&format!(
                "note: the ids could not be kept for the next run: {reason}"
            ));
        }
        CacheUse::Off | CacheUse::Written => {}
    }
}
