//! Running other programs from the repository's root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A program that will run in the root.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root());
    command
}

/// Runs a program, its output shown, and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    println!("\n$ {shown}");
    let status = command
        .status()
        .with_context(|| format!("cannot start: {shown}"))?;
    if !status.success() {
        bail!("failed ({status}): {shown}");
    }
    Ok(())
}

/// What a program prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .with_context(|| format!("cannot start: {shown}"))?;
    if !output.status.success() {
        bail!(
            "failed ({}): {shown}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Builds something, its warnings shown, and gives what cargo tells of it; `flags` go to the compiler or the tests.
pub(crate) fn built(arguments: &[&str], flags: &[&str]) -> Result<Vec<Value>> {
    let mut command = program("cargo", arguments);
    command.args(["--message-format", "json-render-diagnostics", "--"]);
    command.args(flags);
    let shown = format!("{command:?}").replace('"', "");
    println!("\n$ {shown}");
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start: {shown}"))?;
    ensure!(output.status.success(), "failed: {shown}");
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

/// Builds a package's program; its path is cargo's own word, since the folder of what is built can be set in many ways.
pub(crate) fn executable(package: &str, profile: &[&str]) -> Result<PathBuf> {
    let messages = built(&[&["build", "--package", package], profile].concat(), &[])?;
    program_of(&messages).with_context(|| format!("cargo names no program of {package}"))
}

fn program_of(messages: &[Value]) -> Option<PathBuf> {
    let is_program = |message: &&Value| message["target"]["kind"] == json!(["bin"]);
    let mut paths = messages
        .iter()
        .filter(is_program)
        .filter_map(|message| message["executable"].as_str());
    paths.next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_where_cargo_says() {
        let artifact = |kind: &str, executable: Value| json!({"target": {"kind": [kind]}, "executable": executable});
        let messages = [
            artifact("lib", Value::Null),
            artifact("custom-build", json!("/elsewhere/build-script")),
            artifact("bin", json!("/elsewhere/debug/lowrank")),
            json!({"reason": "build-finished", "success": true}),
        ];
        let found = program_of(&messages);
        assert_eq!(found, Some("/elsewhere/debug/lowrank".into()));
        assert_eq!(program_of(&messages[..2]), None);
    }
}
