//! Rows 51 to 53 of the bar list: hostile tokenizers, templates and ids. The snapshots hold what is said of each.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "tests make their own files"
)]

use lowrank_data as data;

mod limits;
mod template;
mod tokenizer;

/// Counts what each case allocates.
#[global_allocator]
static ALLOCATED: testkit::PeakAlloc = testkit::PeakAlloc;

/// What is wrong, and how to mend it.
fn told(error: &data::DataError) -> String {
    let mend = error.hint();
    let mend = mend.map_or(String::new(), |hint| format!("\n    mend: {hint}"));
    format!("{error}{mend}")
}
