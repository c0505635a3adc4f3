//! One row as ids and labels.

use crate::{DataError, Template, Tokenizer};
use formats::rows::Row;

/// The label of a position that is not learned, as in PyTorch's `cross_entropy`.
pub const IGNORE_INDEX: i32 = -100;

/// One row as the model sees it; both have the same length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Prompt, then response, cut at `max_length` from the right.
    pub input_ids: Vec<u32>,
    /// [`IGNORE_INDEX`] on the prompt, the id itself on the response. Not shifted: the loss shifts.
    pub labels: Vec<i32>,
}

impl Example {
    /// An example of `input_ids` whose first `masked` positions are not learned.
    pub fn new(input_ids: Vec<u32>, masked: usize) -> Self {
        let labels = input_ids.iter().enumerate();
        let labels = labels
            .map(|(at, &id)| if at < masked { IGNORE_INDEX } else { id as i32 })
            .collect();
        Self { input_ids, labels }
    }
}

/// A row encoded and cut, with what was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    /// How many of `ids` are the prompt's.
    pub(crate) masked: u32,
    /// How many ids there were before the cut.
    pub(crate) full: u32,
    /// Whether the response ended with the end-of-sequence id and the cut took it.
    pub(crate) eos_cut: bool,
}

/// `tokenizer(prompt) + tokenizer(response)`, each with its special tokens, cut at `max_length` from the right.
pub(crate) fn encode_row(
    row: &Row,
    template: &Template,
    tokenizer: &Tokenizer,
    max_length: usize,
) -> Result<Encoded, DataError> {
    let (prompt, response) = template.render(row, tokenizer.special_tokens())?;
    let mut ids = tokenizer.encode(&prompt, true)?;
    let prompt_len = ids.len();
    ids.extend(tokenizer.encode(&response, true)?);
    let full = ids.len();
    let ends = tokenizer
        .eos_token_id()
        .is_some_and(|eos| full > prompt_len && ids.last() == Some(&eos));
    ids.truncate(max_length);
    // Rows hold at most 16 MiB and templates 8 MiB, so that lengths fit by far.
    let (masked, full_len) = (prompt_len.min(ids.len()) as u32, full as u32);
    Ok(Encoded {
        ids,
        masked,
        full: full_len,
        eos_cut: ends && full > max_length,
    })
}
