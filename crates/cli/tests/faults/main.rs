//! What can befall the command itself: kills, signals, limits, full disks, damage, changed inputs.
//!
//! The numbers in the module texts are those of the project's fault list. Each test prints its count, after its
//! row, as `faults: N injected, 0 lost, 0 different`. `LOWRANK_FAULTS` says how far they go: nothing is enough to
//! see that they work, `ci` is what `cargo xtask ci` has time for, `full` is the whole list.

#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test program with files and words of its own; the counts are what it is run for"
)]

mod death;
mod exact;
mod places;
mod proof;
mod rest;
mod run;
#[path = "../command/sandbox.rs"]
#[allow(dead_code, reason = "shared with the other test program")]
mod sandbox;
mod staging;
