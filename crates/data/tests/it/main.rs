//! Tests of the `data` crate from outside, in one binary.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests read and make their own files and say why they skip"
)]

use lowrank_data as data;

mod common;
mod encoded;
mod order;
mod template;
mod tokenizer;
