//! The fault suites, counted together.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use durable::faults::Tally;

use crate::run::program;

/// Package and test target of each suite; a test prints its count wherever it likes in a line.
const SUITES: [(&str, &str); 4] = [
    ("lowrank-durable", "faults"),
    ("lowrank-durable", "kill"),
    ("lowrank-train", "faults"),
    ("lowrank-formats", "hostile"),
];

/// Runs all suites and prints the sum of what they injected as the last line.
pub(crate) fn faults() -> Result<()> {
    let mut sum = Tally::new();
    for (package, target) in SUITES {
        sum.add(&suite(package, target)?);
    }
    println!("{sum}");
    ensure!(sum.is_clean(), "a fault lost or changed something");
    Ok(())
}

fn suite(package: &str, target: &str) -> Result<Tally> {
    println!("\n$ cargo test -p {package} --test {target}");
    let arguments = [
        "test",
        "-q",
        "-p",
        package,
        "--test",
        target,
        "--",
        "--nocapture",
    ];
    let mut child = program("cargo", &arguments)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut sum = Tally::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(tally) = Tally::parse(&line) {
            sum.add(&tally);
        }
    }
    if !child.wait()?.success() {
        bail!("suite {target} of {package} failed; so far {sum}");
    }
    Ok(sum)
}
