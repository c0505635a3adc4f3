//! A real model's run, killed at five random moments and resumed each time, beside one that nothing disturbed.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use durable::faults::{Dice, Tally};

use crate::run::executable;

/// Updates of the run.
const STEPS: u64 = 40;
const KILLS: usize = 5;
const SEED: u64 = 135;
const SIGKILL: i32 = 9;
/// What is compared: what was learnt, the optimizer's moments, the state, and the digests of all of it.
const FILES: [&str; 5] = [
    "adapter_model.safetensors",
    "checkpoint-40/adapter_model.safetensors",
    "checkpoint-40/optimizer.safetensors",
    "checkpoint-40/resume_state.json",
    "checkpoint-40/manifest.json",
];

struct Race<'a> {
    binary: PathBuf,
    model: &'a Path,
    rows: &'a Path,
    folder: tempfile::TempDir,
}

/// Runs both, and tells what the kills came to.
///
/// # Errors
/// A run that fails where nothing was done to it.
pub(super) fn smollm2(model: &Path, rows: &Path) -> Result<Tally> {
    let race = Race {
        binary: executable("lowrank-cli", &[])?,
        model,
        rows,
        folder: tempfile::tempdir()?,
    };
    let start = Instant::now();
    race.until("whole", None)?;
    println!("undisturbed: {STEPS} updates in {:.0?}", start.elapsed());
    let (mut tally, mut dice) = (Tally::new(), Dice::new(SEED));
    let mut moments: Vec<u64> = (0..KILLS)
        .map(|_| 1 + dice.below(STEPS as usize - 1) as u64)
        .collect();
    moments.sort_unstable();
    for step in moments {
        let part = dice.below(1_000) as f64 / 1_000.0;
        let told = race.until("parted", Some((step, part)))?;
        tally.inject();
        println!("seed {SEED}: SIGKILL {part:.3} of an update behind update {step}; {told}");
    }
    race.until("parted", None)?;
    for name in FILES {
        let digest = |run: &str| durable::sha256_file(race.folder.path().join(run).join(name));
        let (want, found) = (digest("whole")?, digest("parted")?);
        println!("{name}: {found}");
        if want != found {
            tally.differ(format!("{name}: undisturbed {want}"));
        }
    }
    println!(
        "{}",
        tally.line(1, "SIGKILL of a run of a real model, resumed each time")
    );
    Ok(tally)
}

impl Race<'_> {
    /// Begins or resumes a run; to its end, or killed some part of an update behind a step.
    fn until(&self, output: &str, kill: Option<(u64, f64)>) -> Result<String> {
        let mut child = self
            .command(output)
            .spawn()
            .context("cannot start lowrank")?;
        let (mut step, mut resumed) = (0, "from its start".to_owned());
        let (mut last, mut took) = (Instant::now(), Duration::ZERO);
        let lines = BufReader::new(child.stderr.take().context("no output")?).lines();
        let mut tail = String::new();
        for line in lines {
            let line = line?;
            if let Some((_, after)) = line.split_once("` after step ") {
                step = after.parse()?;
                resumed = format!("resumed after {step}");
            } else if line.starts_with("{'loss'") {
                step += 1;
                (took, last) = (last.elapsed(), Instant::now());
            }
            tail = line;
            if let Some((at, part)) = kill
                && step >= at
            {
                std::thread::sleep(took.mul_f64(part));
                child.kill()?;
                break;
            }
        }
        let status = child.wait()?;
        ensure!(
            ended_as_asked(status, kill.is_some()),
            "{output}: {status}, with a kill behind update {:?}: {tail}",
            kill.map(|(at, _)| at)
        );
        Ok(resumed)
    }

    fn command(&self, output: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.folder.path()).arg("train");
        command
            .arg("--model")
            .arg(self.model)
            .arg("--dataset")
            .arg(self.rows);
        let flags = "--max-steps 40 --save-steps 4 --save-total-limit 2 --logging-steps 1 --lora-dropout 0.05 \
             --per-device-train-batch-size 1 --gradient-accumulation-steps 2 --max-length 96 --learning-rate 5e-4";
        command
            .args(["--output-dir", output])
            .args(flags.split_whitespace());
        if has_checkpoint(&self.folder.path().join(output)) {
            command.args(["--resume-from-checkpoint", "latest"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// A run that ends by itself before it is killed has no kill to count.
fn ended_as_asked(status: ExitStatus, killed: bool) -> bool {
    if killed {
        status.signal() == Some(SIGKILL)
    } else {
        status.success()
    }
}

fn has_checkpoint(run: &Path) -> bool {
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.any(|name| name.starts_with("checkpoint-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_sigkill_ended_was_killed() {
        let ends = |script: &str, killed| {
            let status = Command::new("sh").args(["-c", script]).status();
            ended_as_asked(status.expect("sh runs"), killed)
        };
        assert!(ends("kill -KILL $$", true));
        for early in ["exit 0", "exit 1", "kill -TERM $$"] {
            assert!(!ends(early, true), "{early}");
        }
        assert!(ends("exit 0", false));
        assert!(!ends("exit 1", false) && !ends("kill -KILL $$", false));
    }
}
