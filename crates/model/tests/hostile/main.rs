//! Rows 47 and 48 of the bar list: configs of impossible sizes, and weights that are not the config's. The snapshots
//! hold what is said of each.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "tests make their own files"
)]

mod config;
mod weights;

/// Counts what each case allocates.
#[global_allocator]
static ALLOCATED: testkit::PeakAlloc = testkit::PeakAlloc;

/// What is wrong, and how to mend it, without the folder's own path.
fn told(error: impl std::fmt::Display, hint: Option<String>, folder: &std::path::Path) -> String {
    let mend = hint.map_or(String::new(), |hint| format!("\n    mend: {hint}"));
    format!("{error}{mend}").replace(&format!("{}/", folder.display()), "")
}
