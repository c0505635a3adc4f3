//! The gate.

use anyhow::{Context, Result};

use crate::faults::FaultArgs;
use crate::run::{program, root, run};

pub(crate) fn ci() -> Result<()> {
    run(&mut program("cargo", &["fmt", "--all", "--check"]))?;
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    run(&mut program("cargo", &lints))?;
    let mut documentation = program("cargo", &["doc", "--workspace", "--no-deps"]);
    run(documentation.env("RUSTDOCFLAGS", "-D warnings"))?;
    crate::architecture::check()?;
    crate::intrinsics::check()?;
    for command in readme_test_commands()? {
        run(&mut program("bash", &["-c", &command]))?;
    }
    // Last, because its last line is the gate's: how many faults were injected, lost, different.
    crate::faults::faults(&FaultArgs::default())
}

/// The commands of the README's block that is marked `<!-- test -->`: what the README promises is what runs.
fn readme_test_commands() -> Result<Vec<String>> {
    let readme = std::fs::read_to_string(root().join("README.md")).context("README.md")?;
    let block = readme
        .split("<!-- test -->")
        .nth(1)
        .context("README.md has no `<!-- test -->` block")?;
    let code = block
        .split("```")
        .nth(1)
        .context("README.md has no code block behind `<!-- test -->`")?;
    Ok(code
        .lines()
        .skip(1)
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}
