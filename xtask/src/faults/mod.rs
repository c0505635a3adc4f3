//! The fault suites, counted together and by row of the fault list.

mod rows;
mod smollm2;
mod suites;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use durable::faults::Tally;

use self::rows::ROWS;
use crate::parity::places;

/// Package, test target and test of each suite; a test prints its count wherever it likes in a line.
const SUITES: &[(&str, &str, &str)] = &[
    ("lowrank-durable", "faults", ""),
    ("lowrank-durable", "kill", ""),
    ("lowrank-train", "faults", ""),
    ("lowrank-cli", "faults", ""),
    ("lowrank-peft", "goldens", "gradients_reach"),
    ("lowrank-formats", "hostile", ""),
    ("lowrank-data", "hostile", ""),
    ("lowrank-model", "hostile", ""),
    ("lowrank-peft", "hostile", ""),
    ("lowrank-cli", "hostile", ""),
];

/// How far the suites go; they read it from this variable of the environment.
const REACH: &str = "LOWRANK_FAULTS";

/// How long the mutators run.
const FUZZ_SECONDS: &str = "LOWRANK_FUZZ_SECONDS";

/// What of the fault list is run.
#[derive(Debug, Default, Args)]
pub(crate) struct FaultArgs {
    /// The counts of the whole list, and fail where a row misses its own; and every other test without a network, each fuzz
    /// target for 20 seconds. Some ten minutes more.
    #[arg(long)]
    full: bool,
    /// Instead: 40 updates of SmolLM2-135M in this folder, killed at five random moments and resumed each time, beside
    /// an undisturbed run. Some minutes.
    #[arg(long, value_name = "DIR")]
    smollm2: Option<PathBuf>,
    /// Rows for that run [default: alpaca_zh_demo_1k of LOWRANK_SHARED_INPUTS].
    #[arg(long, requires = "smollm2")]
    rows: Option<PathBuf>,
}

/// The row of programs that run without a network: here each that is run counts.
const NO_NETWORK: u8 = 86;

/// Counts that name no row.
const NO_ROW: u8 = 0;

/// What each row of the list came to, and those of which a suite said that this machine cannot try them.
#[derive(Default)]
struct ByRow {
    tallies: BTreeMap<u8, Tally>,
    skipped: BTreeSet<u8>,
}

impl ByRow {
    fn of(&mut self, row: u8) -> &mut Tally {
        self.tallies.entry(row).or_default()
    }
}

/// Runs all suites, prints a table by row, and the sum of what they injected as the last line.
pub(crate) fn faults(args: &FaultArgs) -> Result<()> {
    if let Some(model) = &args.smollm2 {
        return real_model(model, args.rows.as_deref());
    }
    let reach = if args.full { "full" } else { "ci" };
    let (mut by_row, mut sum) = (ByRow::default(), Tally::new());
    let (built, offline) = (suites::built()?, suites::can_be_offline());
    if !offline {
        println!("row {NO_NETWORK}: skipped: no network namespace");
        by_row.skipped.insert(NO_NETWORK);
    }
    for (package, target, test) in SUITES {
        let found = built
            .iter()
            .find(|suite| (suite.package.as_str(), suite.target.as_str()) == (*package, *target));
        let found = found.with_context(|| format!("no test target {target} in {package}"))?;
        suite(found, test, reach, offline, &mut by_row)?;
    }
    if args.full && offline {
        every_other_offline(&built, &mut by_row)?;
    }
    by_row.tallies.values().for_each(|tally| sum.add(tally));
    let missing = table(&by_row, args.full);
    println!("{sum}");
    ensure!(sum.is_clean(), "a fault lost or changed something");
    ensure!(
        missing.is_empty(),
        "nothing injected, or below their counts: rows {missing:?}"
    );
    Ok(())
}

fn real_model(model: &Path, rows: Option<&Path>) -> Result<()> {
    let model = places::smollm2(Some(model))?;
    let rows = match rows {
        Some(rows) => rows.to_owned(),
        None => places::shared_inputs()?.join("data/alpaca_zh_demo_1k"),
    };
    // The runs have a folder of their own.
    let sum = smollm2::smollm2(&model.canonicalize()?, &rows.canonicalize()?)?;
    println!("{sum}");
    ensure!(sum.is_clean(), "a kill lost or changed something");
    Ok(())
}

/// Prints what was reached; gives the rows that miss the list's count, where `full` asks for it, or else were not tried
/// at all, though nobody said why.
fn table(by_row: &ByRow, full: bool) -> Vec<u8> {
    println!("\n| row | what | injected | the list asks for |\n|---|---|---|---|");
    let mut missing = Vec::new();
    for (row, what, asked) in ROWS {
        let injected = by_row.tallies.get(row).map_or(0, |tally| tally.injected);
        println!("| {row} | {what} | {injected} | {asked} |");
        let least = match full {
            true => *asked,
            false if by_row.skipped.contains(row) => 0,
            false => (*asked).min(1),
        };
        if injected < least {
            missing.push(*row);
        }
    }
    missing
}

fn suite(
    built: &suites::Suite,
    test: &str,
    reach: &str,
    offline: bool,
    by_row: &mut ByRow,
) -> Result<()> {
    let (package, target) = (&built.package, &built.target);
    println!("\n$ {REACH}={reach} cargo test -p {package} --test {target} {test}");
    let mut command = built.command(test, offline);
    if reach == "full" {
        command.env(FUZZ_SECONDS, "20");
    }
    let mut child = command
        .env(REACH, reach)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a test program")?;
    let mut sum = Tally::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        by_row.skipped.extend(skipped_row(&line));
        let Some(tally) = Tally::parse(&line) else {
            continue;
        };
        let row = Tally::parse_line(&line).map_or(NO_ROW, |(row, _, _)| row);
        sum.add(&tally);
        by_row.of(row).add(&tally);
    }
    if !child.wait()?.success() {
        bail!("suite {target} of {package} failed; so far {sum}");
    }
    ensure!(
        sum.injected > 0,
        "suite {target} of {package} injected nothing"
    );
    if offline {
        by_row.of(NO_NETWORK).inject();
    }
    Ok(())
}

/// The row of a line `row N: skipped: …`, wherever it stands in `line`.
fn skipped_row(line: &str) -> Option<u8> {
    let (before, _) = line.split_once(": skipped: ")?;
    let (_, row) = before.rsplit_once("row ")?;
    row.parse().ok()
}

/// Row 86: the tests that are no fault suites pass without a network too.
fn every_other_offline(built: &[suites::Suite], by_row: &mut ByRow) -> Result<()> {
    let is_suite = |one: &&suites::Suite| {
        let mut whole = SUITES.iter().filter(|(_, _, test)| test.is_empty());
        whole.any(|(package, target, _)| one.package == *package && one.target == *target)
    };
    for one in built.iter().filter(|one| !is_suite(one)) {
        println!("\n$ unshare -n {} of {}", one.target, one.package);
        let mut command = one.command("", true);
        let status = command.env(FUZZ_SECONDS, "20").status()?;
        ensure!(
            status.success(),
            "{} of {} fails without a network",
            one.target,
            one.package
        );
        by_row.of(NO_NETWORK).inject();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_was_not_tried_is_told_unless_its_suite_said_why() {
        let mut by_row = ByRow::default();
        for (row, _, _) in ROWS.iter().filter(|(row, _, _)| ![12, 34].contains(row)) {
            by_row.of(*row).inject();
        }
        assert_eq!(table(&by_row, false), [12, 34]);
        let told = "..row 12: skipped: no mount namespace";
        by_row.skipped.extend(skipped_row(told));
        assert_eq!(table(&by_row, false), [34]);
        assert!(table(&by_row, true).contains(&12));
        assert_eq!(skipped_row("row 12: really full: faults: 1 injected"), None);
    }
}
