//! `lowrank demo`, run small, through the binary.

// Tests may touch files directly.
#![allow(clippy::disallowed_methods)]

use std::path::Path;
use std::process::{Command, Output};

use lowrank::{CausalLm, Dataset, Template, Tokenizer};

fn demo(folder: &Path) -> Output {
    let arguments = [
        "demo",
        "--max-steps",
        "3",
        "--questions",
        "4",
        "--output-dir",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowrank"));
    let output = command.args(arguments).arg(folder).output().unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    output
}

#[test]
fn the_demo_trains_saves_merges_and_proves_and_runs_again() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path());
    let shown = String::from_utf8(output.stdout).unwrap();
    for step in 1..=8 {
        assert!(
            shown.contains(&format!("\n== {step}. ")),
            "step {step}: {shown}"
        );
    }
    assert!(shown.contains("trainable params: "), "{shown}");
    assert!(shown.contains("(query_key_value): lora.Linear("), "{shown}");
    assert!(shown.contains("merged and adapter agree"), "{shown}");
    let run = folder.path().join("run-1");
    for file in [
        "lora/adapter_model.safetensors",
        "lora/loss.svg",
        "merged/model.safetensors",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let log = std::fs::read(run.join("lora/trainer_state.json")).unwrap();
    let log: serde_json::Value = serde_json::from_slice(&log).unwrap();
    let losses = log["log_history"].as_array().unwrap().iter();
    let losses: Vec<f64> = losses.filter_map(|entry| entry["loss"].as_f64()).collect();
    assert!(
        !losses.is_empty() && losses.iter().all(|loss| loss.is_finite() && *loss > 0.0),
        "{losses:?}"
    );

    let again = String::from_utf8(demo(folder.path()).stdout).unwrap();
    assert!(
        folder
            .path()
            .join("run-2/merged/model.safetensors")
            .is_file()
    );
    assert_eq!(
        again.replace("run-2", "run-1"),
        shown,
        "the same seed gives the same run"
    );
}

#[test]
fn the_files_in_the_binary_fit_each_other() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/demo"));
    let base = CausalLm::from_pretrained(folder).unwrap();
    let tokenizer = Tokenizer::from_pretrained(folder).unwrap();
    let rows = base.decoder().spec().vocab_size;
    assert!(
        tokenizer.vocab_size() <= rows,
        "{} ids, {rows} rows",
        tokenizer.vocab_size()
    );
    let mut answers = Vec::new();
    for name in ["instructions.json", "held_out.json"] {
        let data = Dataset::open(folder.join(name), None).unwrap();
        let tokenized = data.tokenize(&Template::alpaca(), &tokenizer, 128).unwrap();
        let report = tokenized.report();
        assert_eq!((report.truncated, report.all_masked), (0, 0), "{name}");
        let answer = |row| data.row(row).unwrap()["output"].to_string();
        answers.push((0..data.len()).map(answer).collect::<Vec<String>>());
    }
    let learnt = |answer: &String| answers[0].contains(answer);
    assert!(
        !answers[1].iter().any(learnt),
        "a held-out answer is learnt"
    );
    let config = base.generation_config(&tokenizer);
    let said = base
        .generate(&tokenizer, "The capital of France is", &config, |_| {})
        .unwrap();
    assert!(said.text.starts_with(" Paris."), "{}", said.text);
}
