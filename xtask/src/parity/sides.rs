//! Starting the two sides: our binary and the scripts of `tools/python`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::python::interpreter;
use crate::run::{executable, root};

/// Our binary: the one named, or a release build of this tree.
pub(crate) fn build(named: Option<&PathBuf>) -> Result<PathBuf> {
    if let Some(named) = named {
        return std::path::absolute(named).context("the path of our binary");
    }
    executable("lowrank-cli", &["--release", "--quiet"])
}

/// Runs a program to its end, what it prints in `log`.
pub(crate) fn quietly(command: &mut Command, log: &Path) -> Result<()> {
    let status = start(command, log)?;
    if !status.success() {
        bail!("failed ({status}), see `{}`: {command:?}", log.display());
    }
    Ok(())
}

fn start(command: &mut Command, log: &Path) -> Result<std::process::ExitStatus> {
    let file = File::create(log).with_context(|| format!("`{}`", log.display()))?;
    let command = command.current_dir(root()).stderr(file);
    command
        .status()
        .with_context(|| format!("cannot start: {command:?}"))
}

/// A script of `tools/python`.
pub(crate) fn script(name: &str) -> Result<Command> {
    let mut command = Command::new(interpreter()?);
    command.arg(format!("tools/python/{name}.py"));
    Ok(command)
}

/// A start adapter as PEFT saves it; with `noise`, its B are not zero.
pub(crate) fn start_adapter(model: &Path, out: &Path, noise: Option<&str>) -> Result<()> {
    let mut command = script("make_start_adapter")?;
    command.arg("--model").arg(model).arg("--out").arg(out);
    command.args(["--lora", "r=8", "--lora", "lora_alpha=16"]);
    if let Some(noise) = noise {
        command.args(["--random-b", noise]);
    }
    command.stdout(File::create(out.with_extension("json"))?);
    quietly(&mut command, &out.with_extension("log"))
}

/// Greedy tokens by our binary in f32, written to `out` as `roundtrip.py` reads them.
pub(crate) fn say(
    ours: &Path,
    model: &Path,
    adapter: Option<&Path>,
    prompts: &[String],
    new: usize,
    out: &Path,
) -> Result<Value> {
    let mut command = Command::new(ours);
    command.arg("generate").arg("--model").arg(model);
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
    let new = new.to_string();
    command.args(["--json", "--compute-dtype", "f32", "--max-new-tokens", &new]);
    for prompt in prompts {
        command.arg("--prompt").arg(prompt);
    }
    command.stdout(File::create(out)?);
    quietly(&mut command, &out.with_extension("log"))?;
    let outputs = json!({ "outputs": read_json(out)? });
    std::fs::write(out, serde_json::to_vec_pretty(&outputs)?)?;
    Ok(outputs)
}

/// What the Python stack says to the prompts of `ours` with the same folders, and whether it used every tensor.
pub(crate) fn answer(
    model: &Path,
    adapter: Option<&Path>,
    ours: &Path,
    out: &Path,
) -> Result<Value> {
    let mut command = script("roundtrip")?;
    command
        .arg("--model")
        .arg(model)
        .arg("--ours")
        .arg(ours)
        .arg("--out")
        .arg(out);
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
    if out.exists() {
        std::fs::remove_file(out)?;
    }
    let log = out.with_extension("log");
    // Exit 1 says that something differs, which the report tells in more words; without one it is a failure.
    start(&mut command, &log)?;
    read_json(out).with_context(|| format!("no report, see `{}`", log.display()))
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).with_context(|| format!("`{}`", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("`{}`", path.display()))
}

/// Removes a folder of an earlier run.
pub(crate) fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("`{}`", folder.display()))?;
    }
    Ok(())
}

/// Versions of the Python stack, in one line.
pub(crate) fn versions(report: &Value) -> String {
    let Some(map) = report["versions"].as_object() else {
        return String::new();
    };
    let parts = map
        .iter()
        .map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?")));
    parts.collect::<Vec<_>>().join(", ")
}
