//! Data to stdout, talk to stderr.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// Says something to the person at the terminal.
pub(crate) fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(stderr, "{text}");
}

/// Writes a line of data.
///
/// # Errors
/// A closed or full stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(())
}

/// Writes a piece of text as it comes.
///
/// # Errors
/// A closed or full stdout.
pub(crate) fn stream(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Writes one JSON document, for programs.
///
/// # Errors
/// A closed or full stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}
