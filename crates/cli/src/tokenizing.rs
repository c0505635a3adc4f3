//! Tokenising with a bar, and what came of it in words.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowrank::{Dataset, Template, TokenizedDataset, Tokenizer};

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
        ProgressBar::with_draw_target(Some(dataset.len() as u64), ProgressDrawTarget::stderr_with_hz(4))
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("tokenising {bar:30} {pos}/{len} rows [{elapsed_precise}]") {
        bar.set_style(style);
    }
    let progress = |done: usize, _: usize| bar.set_position(done as u64);
    let tokenized = dataset.tokenize_cached(template, tokenizer, max_length, cache, &progress)?;
    bar.finish_and_clear();
    say(&format!("data: {}", tokenized.report()));
    Ok(tokenized)
}
