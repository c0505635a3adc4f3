//! Signals and kills: a run that was cut goes on to the same bytes.

use std::path::Path;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{Sandbox, bytes};

const STEPS: u32 = 120;
/// Kills of one run.
const KILLS: u32 = 20;
const SEED: u64 = 20_241_124;

/// Dropout and accumulation on, so that resuming has generators and a place in the epoch to restore.
fn line(output: &str, rest: &str) -> String {
    format!(
        "train --model model --dataset rows.jsonl --output-dir {output} --max-steps {STEPS} --save-steps 10 \
         --save-total-limit 2 --per-device-train-batch-size 1 --gradient-accumulation-steps 3 --lora-dropout 0.1 \
         --learning-rate 0.01 --logging-steps 5 --threads 1 {rest}"
    )
}

fn adapter(sandbox: &Sandbox, output: &str) -> Vec<u8> {
    bytes(&sandbox.path(output).join("adapter_model.safetensors"))
}

fn has_checkpoint(output: &Path) -> bool {
    let entries = std::fs::read_dir(output).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("checkpoint-")
    })
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Signals a run as soon as it has a checkpoint; gives what it said.
fn interrupted(sandbox: &Sandbox, output: &str, signal: Signal) -> Output {
    let child = sandbox.command(&line(output, "")).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !has_checkpoint(&sandbox.path(output)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    send(&child, signal);
    child.wait_with_output().unwrap()
}

#[test]
fn a_signalled_run_keeps_a_checkpoint_and_goes_on_to_the_same_bytes() {
    let sandbox = Sandbox::new("bloom");
    sandbox.done(&line("whole", ""));
    let mut signals = vec![("int", Signal::INT, 130), ("term", Signal::TERM, 143)];
    if hangup_is_ignored() {
        eprintln!("skipped: SIGHUP, which these tests were told to ignore");
    } else {
        signals.push(("hup", Signal::HUP, 129));
    }
    for (output, signal, code) in signals {
        let told = interrupted(&sandbox, output, signal);
        let talk = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(code), "{talk}");
        assert!(talk.contains("interrupted; everything is in"), "{talk}");
        sandbox.done(&line(output, "--resume-from-checkpoint latest"));
        assert_eq!(adapter(&sandbox, output), adapter(&sandbox, "whole"));
    }
}

/// Where these tests are under `nohup`, so is what they start.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_none_or(|digits| u64::from_str_radix(digits.trim(), 16).unwrap() & 1 != 0)
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let sandbox = Sandbox::new("bloom");
    let mut command = sandbox.command_of(Path::new("sh"));
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_lowrank"));
    let line = line("held", "");
    let mut child = command.args(line.split_whitespace()).spawn().unwrap();
    while !has_checkpoint(&sandbox.path("held")) && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    send(&child, Signal::HUP);
    let told = child.wait_with_output().unwrap();
    let talk = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{talk}");
}

#[test]
fn a_run_killed_twenty_times_ends_in_the_same_bytes() {
    let sandbox = Sandbox::new("bloom");
    let start = Instant::now();
    sandbox.done(&line("whole", ""));
    let whole = start.elapsed();
    let (mut state, mut cut) = (SEED, 0);
    for kill in 0..KILLS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // Up to a third of a run: it gets on, and most kills find it at work.
        let share = (state >> 33) as f64 / f64::from(1_u32 << 31) / 3.0;
        let resume = if has_checkpoint(&sandbox.path("cut")) {
            "--resume-from-checkpoint latest"
        } else {
            ""
        };
        let mut child = sandbox.command(&line("cut", resume)).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(share));
        if child.try_wait().unwrap().is_none() {
            cut += 1;
        }
        send_kill(&mut child);
        eprintln!("kill {kill}: seed {SEED}, after {share:.4} of {whole:?}");
    }
    assert!(cut > 0, "no kill found a run at work");
    let resume = if has_checkpoint(&sandbox.path("cut")) {
        "--resume-from-checkpoint latest"
    } else {
        ""
    };
    sandbox.done(&line("cut", resume));
    eprintln!("{cut} of {KILLS} kills found the run at work");
    assert_eq!(adapter(&sandbox, "cut"), adapter(&sandbox, "whole"));
}

fn send_kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
