//! Rows 80 and 84 to 86 of the bar list: closed pipes, misused flags, merges into what is there, no network.

#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test program with files and words of its own; the counts are what it is run for"
)]

mod flags;
mod merge;
mod offline;
mod pipes;
#[path = "../command/sandbox.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod sandbox;

use durable::faults::Tally;

/// Prints the count of a row.
fn finish(row: u8, what: &str, tally: &Tally, least: u64) {
    println!("{}", tally.line(row, what));
    assert!(tally.is_clean(), "{:?}", tally.first());
    assert!(tally.injected >= least, "row {row}: {}", tally.injected);
}
