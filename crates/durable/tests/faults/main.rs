//! What storage and sudden death can do to a run's checkpoints, injected one by one.
//!
//! The numbers in the module texts are those of the project's fault list. Each test prints its count as
//! `faults: N injected, 0 lost, 0 different`.

#![allow(
    clippy::print_stdout,
    reason = "the counts are what a suite is run for"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests arrange and damage files by hand"
)]

mod death;
mod outputs;
mod power;
mod rest;
mod storage;
mod world;
