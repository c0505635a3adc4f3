//! A switch for the project's own crash tests: what is to befall this process inside a save.
//!
//! `LOWRANK_TRAP="abort Renamed 2"` aborts when the third folder has got its name; `panic` panics there, and
//! `stop` stops the process (SIGSTOP) until it is told to go on. `panic operation 57` panics at the 58th thing that the
//! process does to files, wherever it is then. Nobody else has a reason to set it.

use anyhow::Result;
use durable::Point;
use durable::faults::{trap_at, trap_at_operation};

use crate::misuse::Misuse;

const VARIABLE: &str = "LOWRANK_TRAP";

/// Sets the trap that the environment asks for.
///
/// # Errors
/// A text that names no action, no point, or no number.
pub(crate) fn set_from_environment() -> Result<()> {
    let Some(text) = std::env::var_os(VARIABLE) else {
        return Ok(());
    };
    let text = text.to_string_lossy();
    let words: Vec<&str> = text.split(' ').collect();
    let [action, point, nth] = words[..] else {
        return Err(unknown(&text));
    };
    if let (["panic", "operation"], Ok(nth)) = ([action, point], nth.parse()) {
        trap_at_operation(nth, || panic!("a trap at operation"));
        return Ok(());
    }
    let action = match action {
        "abort" => |_| std::process::abort(),
        "panic" => |point| panic!("a trap at {point:?}"),
        "stop" => stop,
        _ => return Err(unknown(&text)),
    };
    match (point.parse::<Point>(), nth.parse()) {
        (Ok(point), Ok(nth)) => trap_at(point, nth, action),
        _ => return Err(unknown(&text)),
    }
    Ok(())
}

fn unknown(text: &str) -> anyhow::Error {
    let wanted = "wants `abort`, `panic` or `stop`, a point of a save, and a number";
    Misuse(format!("{VARIABLE} {wanted}: {text}")).into()
}

/// The line tells the test that from here on it may do what it likes.
#[cfg(unix)]
fn stop(point: Point) {
    crate::output::say(&format!("stopped at {point:?}"));
    let _ = signal_hook::low_level::raise(signal_hook::consts::SIGSTOP);
}

#[cfg(not(unix))]
fn stop(_: Point) {}
