//! The command as a user has it: a process with arguments, output and an exit code.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test program with files and words of its own"
)]

mod bad_input;
mod generate;
mod isa;
mod outputs;
mod sandbox;
#[cfg(unix)]
mod signals;
mod verify;
