//! The gate.

use anyhow::{Context, Result, ensure};
use kernels::Isa;

use crate::faults::FaultArgs;
use crate::parity::places;
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
    let readme = std::fs::read_to_string(root().join("README.md")).context("README.md")?;
    for command in test_commands(&readme)? {
        run(&mut program("bash", &["-c", command]))?;
    }
    println!("\n{}", instruction_sets(&Isa::available()));
    println!("{}", real_files(places::shared_inputs().is_ok()));
    // Last, because its last line is the gate's: how many faults were injected, lost, different.
    crate::faults::faults(&FaultArgs::default())
}

/// The commands of the README's block that is marked `<!-- test -->`: what the README promises is what runs.
fn test_commands(readme: &str) -> Result<Vec<&str>> {
    let block = readme
        .split("<!-- test -->")
        .nth(1)
        .context("README.md has no `<!-- test -->` block")?;
    let code = block
        .split("```")
        .nth(1)
        .context("README.md has no code block behind `<!-- test -->`")?;
    let lines = code.lines().skip(1).map(str::trim);
    let commands: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    ensure!(
        commands.iter().any(|line| !line.starts_with('#')),
        "README.md has no command behind `<!-- test -->`"
    );
    Ok(commands)
}

/// The kernels' tests leave out what the processor lacks, and pass.
fn instruction_sets(tested: &[Isa]) -> String {
    let (here, missing): (Vec<Isa>, Vec<Isa>) =
        Isa::ALL.iter().partition(|isa| tested.contains(isa));
    let names = |isas: &[Isa]| {
        let names: Vec<String> = isas
            .iter()
            .map(|isa| format!("{isa:?}").to_lowercase())
            .collect();
        names.join(", ")
    };
    let mut text = format!("instruction sets tested: {}", names(&here));
    if !missing.is_empty() {
        text += &format!("; not on this machine: {}", names(&missing));
    }
    text
}

/// Tests on real files pass without them, and say so where few look.
fn real_files(are_there: bool) -> &'static str {
    if are_there {
        "real files: found, the tests on them ran"
    } else {
        "real files: none (LOWRANK_SHARED_INPUTS), the tests on them were skipped"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_readme_without_a_test_command_is_refused() {
        let readme =
            |code: &str| format!("text\n<!-- test -->\n```sh\n{code}```\n```sh\nls\n```\n");
        let found = readme("# all\n\n  cargo test\n");
        assert_eq!(
            test_commands(&found).expect("a command"),
            ["# all", "cargo test"]
        );
        for nothing in ["", "\n", "# cargo test\n"] {
            assert!(test_commands(&readme(nothing)).is_err(), "{nothing:?}");
        }
        assert!(test_commands("```sh\nls\n```\n").is_err());
    }

    #[test]
    fn instruction_sets_that_this_machine_lacks_are_named() {
        assert_eq!(
            instruction_sets(&[Isa::Scalar, Isa::Avx2]),
            "instruction sets tested: scalar, avx2; not on this machine: avx512, avx512bf16"
        );
        assert_eq!(
            instruction_sets(&Isa::ALL),
            "instruction sets tested: scalar, avx2, avx512, avx512bf16"
        );
    }
}
