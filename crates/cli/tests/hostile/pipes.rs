//! Row 80: whoever reads stdout went away. The command ends quietly.

use std::io::Read;
use std::process::Stdio;

use durable::faults::Tally;

use crate::finish;
use crate::sandbox::{Sandbox, train};

/// What prints to stdout, and how many bytes of it are read before the pipe is closed.
const CASES: &[(&str, usize)] = &[
    ("inspect --model model --tree", 0),
    ("inspect --model model --tree", 10),
    ("inspect --model model --names", 1),
    ("inspect --model model --json", 0),
    (
        "generate --model model --prompt hello --max-new-tokens 8",
        0,
    ),
    (
        "generate --model model --prompt hello --max-new-tokens 8 --json",
        0,
    ),
    ("eval --model model --dataset rows.jsonl --json", 0),
    ("--help", 0),
    ("train --help", 5),
    ("--version", 0),
];

fn closed_after(sandbox: &Sandbox, line: &str, bytes: usize) -> (Option<i32>, String) {
    let mut child = sandbox
        .command(line)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut head = vec![0; bytes];
    stdout.read_exact(&mut head).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn row_80_a_closed_stdout_ends_quietly() {
    let sandbox = Sandbox::new("bloom");
    let mut tally = Tally::new();
    for &(line, bytes) in CASES {
        tally.inject();
        let (code, talk) = closed_after(&sandbox, line, bytes);
        let loud = ["error", "panicked", "Broken pipe"]
            .iter()
            .any(|word| talk.contains(word));
        if code != Some(0) || loud {
            tally.differ(format!("{line}, closed after {bytes}: {code:?}: {talk}"));
        }
    }
    // A training run prints nothing there: it goes on and saves.
    tally.inject();
    let (code, talk) = closed_after(&sandbox, &train(""), 0);
    if code != Some(0) || !sandbox.path("lora/adapter_model.safetensors").exists() {
        tally.differ(format!("train: {code:?}: {talk}"));
    }
    finish(80, "stdout closed early", &tally, 5);
}
