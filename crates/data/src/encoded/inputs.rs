//! What ids depend on: rows, template, tokenizer and `max_length`.

use formats::Rows;
use sha2::{Digest, Sha256};

use crate::{Template, Tokenizer};

/// Names the ids that [`EncodedDataset::build`](super::EncodedDataset::build) makes of the same arguments, part by part,
/// so that a checkpoint can tell whether its data are still what they were.
pub fn fingerprint(
    rows: &Rows,
    template: &Template,
    tokenizer: &Tokenizer,
    max_length: usize,
) -> String {
    let parts = fingerprints(rows, template, tokenizer);
    format!("{} max_length {max_length}", parts.join(" "))
}

/// Names the cache file of the ids.
pub(super) fn key(
    rows: &Rows,
    template: &Template,
    tokenizer: &Tokenizer,
    max_length: usize,
) -> String {
    let mut hash = Sha256::new_with_prefix(b"lowrank encoded rows 1\n");
    let max_length = max_length.to_string();
    let parts = fingerprints(rows, template, tokenizer);
    for part in parts.into_iter().chain([&*max_length]) {
        hash.update(part);
        hash.update(b"\n");
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn fingerprints<'a>(
    rows: &'a Rows,
    template: &'a Template,
    tokenizer: &'a Tokenizer,
) -> [&'a str; 3] {
    [
        rows.fingerprint(),
        template.fingerprint(),
        tokenizer.fingerprint(),
    ]
}
