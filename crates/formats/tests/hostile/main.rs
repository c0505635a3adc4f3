//! Rows 44 to 55 of the bar list, as far as this crate parses them: hostile files, each refused by name. The
//! snapshots hold what is said of each.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests make their own files and say why they skip"
)]

mod arrow;
mod cut;
mod index;
mod json_rows;
mod limits;
mod safetensors;
mod torch_bin;

#[path = "../support/arrow_messages.rs"]
mod arrow_messages;
#[path = "../support/torch_zip.rs"]
mod torch_zip;

/// Counts what each case allocates.
#[global_allocator]
static ALLOCATED: testkit::PeakAlloc = testkit::PeakAlloc;

use lowrank_formats::{FormatsError, RowsError};

/// What is wrong, where, and how to mend it: the folder's own path is left out.
fn told(error: impl std::fmt::Display, hint: Option<String>, folder: &std::path::Path) -> String {
    let mend = hint.map_or(String::new(), |hint| format!("\n    mend: {hint}"));
    format!("{error}{mend}").replace(&format!("{}/", folder.display()), "")
}

fn told_of(error: &FormatsError, folder: &std::path::Path) -> String {
    told(error, error.hint(), folder)
}

fn told_of_rows(error: &RowsError, folder: &std::path::Path) -> String {
    told(error, error.hint(), folder)
}

/// A file for messages and a snapshot: long ones are cut in the middle.
fn shortened(text: &str) -> String {
    let short = |line: &str| match line.chars().count() {
        0..=400 => line.to_owned(),
        count => {
            let head: String = line.chars().take(300).collect();
            format!("{head} … ({count} characters)")
        }
    };
    text.lines().map(|line| short(line) + "\n").collect()
}
