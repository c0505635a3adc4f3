//! Row 86: without a network the command does all it does, and no part of it asks for one.

use std::process::{Command, Stdio};

use durable::faults::Tally;

use crate::finish;
use crate::sandbox::{Sandbox, train};

/// The same command in a network namespace of its own, which has no address but its loopback, and that is down.
fn without_network(sandbox: &Sandbox, line: &str) -> Command {
    let plain = sandbox.command(line);
    let mut command = Command::new("unshare");
    command
        .args(["-n", "--"])
        .arg(plain.get_program())
        .args(plain.get_args());
    command
        .current_dir(sandbox.path(""))
        .env_remove("COLUMNS")
        .stdin(Stdio::null());
    command
}

#[test]
fn row_86_nothing_needs_a_network() {
    let probe = Command::new("unshare").args(["-n", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: no network namespace");
        return;
    }
    let mut tally = Tally::new();
    for family in ["bloom", "llama"] {
        let sandbox = Sandbox::new(family);
        let lines = [
            "inspect --model model --json".to_owned(),
            train("--save-steps 1"),
            train("--save-steps 1 --resume-from-checkpoint latest"),
            "generate --model model --adapter lora --prompt hello --max-new-tokens 4".to_owned(),
            "eval --model model --adapter lora --dataset rows.jsonl".to_owned(),
            "merge --model model --adapter lora --output merged --prompt hello".to_owned(),
        ];
        for line in lines {
            tally.inject();
            let output = without_network(&sandbox, &line).output().unwrap();
            if !output.status.success() {
                tally.differ(format!("{family}: {line}: {}", sandbox.told(&output)));
            }
        }
    }
    finish(86, "no network", &tally, 12);
}
