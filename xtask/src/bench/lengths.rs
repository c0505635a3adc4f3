//! Token counts of rows: `[prompt, all]`, from which both sides make the same number of tokens.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lowrank::{Dataset, Template, Tokenizer};

use super::ours::ROWS_PER_UPDATE;

/// `[prompt, all]` of rows.
pub(crate) type Lengths = Vec<[usize; 2]>;

/// The mission's `MAX_LENGTH`.
const MAX_LENGTH: usize = 256;

/// 64 rows between 20 and 200 tokens, mean 70, a quarter of each a prompt: the shape of Chinese Alpaca answers.
pub(crate) fn alpaca_like() -> Lengths {
    let all = |number: usize| {
        let share = (number * 37 % 64) as f64 / 63.0;
        (20.0 + 180.0 * share.powf(2.6)).round() as usize
    };
    (0..64)
        .map(|number| [all(number) / 4, all(number)])
        .collect()
}

/// One row of so many tokens, a quarter of them a prompt.
pub(crate) fn fixed(tokens: usize) -> Lengths {
    vec![[tokens / 4, tokens]]
}

/// Of a data set under a model's tokenizer, with the tutorial's template.
pub(crate) fn of_dataset(dataset: &Path, model: &Path) -> Result<Lengths> {
    let tokenizer = Tokenizer::from_pretrained(model)?;
    let rows = Dataset::open(dataset, None)?;
    let rows = rows.tokenize(&Template::alpaca(), &tokenizer, MAX_LENGTH)?;
    let of = |index: usize| {
        let labels = rows.get(index).labels;
        let prompt = labels.iter().take_while(|label| **label == -100).count();
        [prompt, labels.len()]
    };
    Ok((0..rows.len()).map(of).collect())
}

/// Behind a system prompt that is part of each row's prompt.
pub(crate) fn behind(system_prompt: usize, lengths: &Lengths) -> Lengths {
    let longer = |[prompt, all]: &[usize; 2]| [prompt + system_prompt, all + system_prompt];
    lengths.iter().map(longer).collect()
}

/// Tokens of the timed updates over those of them that are left when each update computes the first `opening` once.
pub(crate) fn saving(lengths: &Lengths, opening: usize, warmup: usize, updates: usize) -> f64 {
    let rows = timed(lengths, warmup, updates);
    tokens(&rows) as f64 / computed(&rows, opening) as f64
}

/// The rows of the timed updates.
pub(crate) fn timed(lengths: &Lengths, warmup: usize, updates: usize) -> Lengths {
    let rows = lengths.iter().cycle().skip(warmup * ROWS_PER_UPDATE);
    rows.take(updates * ROWS_PER_UPDATE).copied().collect()
}

pub(crate) fn tokens(rows: &[[usize; 2]]) -> usize {
    rows.iter().map(|[_, all]| all).sum()
}

/// Tokens, when each update computes the first `opening` once.
pub(crate) fn computed(rows: &[[usize; 2]], opening: usize) -> usize {
    let saved = |update: &[[usize; 2]]| {
        let shortest = update.iter().map(|[_, all]| *all).min().unwrap_or(0);
        opening.min(shortest) * (update.len() - 1)
    };
    tokens(rows) - rows.chunks(ROWS_PER_UPDATE).map(saved).sum::<usize>()
}

/// Writes them as JSON.
pub(crate) fn write(lengths: &Lengths, path: PathBuf) -> Result<PathBuf> {
    std::fs::write(&path, serde_json::to_vec(lengths)?)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_alpaca_like() {
        let lengths = alpaca_like();
        let total: usize = lengths.iter().map(|[_, all]| all).sum();
        assert!(lengths.iter().all(|[prompt, all]| prompt * 3 < *all));
        assert_eq!(total / lengths.len(), 70);
    }

    #[test]
    fn a_shared_prompt_is_counted_once_an_update() {
        // Eight rows of 10 + 90 tokens: 800, of which 7 · 90 need not be computed.
        let lengths = behind(90, &vec![[2, 10]]);
        assert_eq!(lengths, [[92, 100]]);
        assert_eq!(saving(&lengths, 90, 1, 3), 800.0 / 170.0);
        assert_eq!(saving(&lengths, 0, 0, 1), 1.0);
    }
}
