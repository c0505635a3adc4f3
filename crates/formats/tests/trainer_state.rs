//! `trainer_state.json` against what the Trainer wrote.
#![allow(clippy::disallowed_methods, reason = "a test may")]
#![allow(clippy::print_stdout, reason = "a test may")]

use std::path::Path;

use lowrank_formats::FormatsError;
use lowrank_formats::pyjson::{Json, Number};
use lowrank_formats::trainer_state::{LogEntry, TrainerState};

fn parse(text: &str) -> Result<TrainerState, FormatsError> {
    TrainerState::parse(text.as_bytes(), Path::new("trainer_state.json"))
}

#[test]
fn the_default_state_is_transformers_text() {
    assert_eq!(
        TrainerState::default().to_json(),
        include_str!("fixtures/trainer_state/default.json")
    );
}

#[test]
fn a_state_is_written_as_transformers_writes_it() {
    let mut entry = LogEntry::new();
    entry.insert("step", 10_u64);
    entry.insert("loss", 3.2596);
    entry.insert("learning_rate", 4.64e-05);
    entry.insert("grad_norm", f64::NAN);
    entry.insert("epoch", 0.08);
    let state = TrainerState {
        best_metric: Some(f64::NEG_INFINITY),
        epoch: Number::Float(0.08),
        eval_steps: Number::Float(0.5),
        global_step: 10,
        log_history: vec![entry],
        stateful_callbacks: [(
            "TrainerControl".to_owned(),
            Json::object([("a", Json::Null)]),
        )]
        .into(),
        total_flos: Number::Float(4.41928450768896e+17),
        trial_name: Some("é".into()),
        ..TrainerState::default()
    };
    let want = include_str!("fixtures/trainer_state/full.json");
    assert_eq!(state.to_json(), want);
    assert_eq!(parse(want).expect("read").to_json(), want);
}

#[test]
fn a_value_of_the_wrong_kind_names_its_key() {
    for (entry, want) in [
        (r#""global_step": -1"#, "global_step"),
        (r#""log_history": [1]"#, "log_history"),
        (r#""epoch": "1""#, "epoch"),
        (r#""stateful_callbacks": []"#, "stateful_callbacks"),
    ] {
        match parse(&format!("{{{entry}}}")) {
            Err(FormatsError::Key { key, .. }) => assert_eq!(key, want),
            other => panic!("{entry}: {other:?}"),
        }
    }
}

#[test]
fn states_of_real_runs_rewrite_to_the_same_bytes() {
    let Some(inputs) = testkit::shared_inputs() else {
        println!("skipped: no shared inputs");
        return;
    };
    let curves = std::fs::read_dir(inputs.join("curves")).expect("a folder");
    let mut folders: Vec<_> = curves
        .map(|entry| entry.expect("an entry").path())
        .collect();
    folders.push(inputs.join("adapters/qwen2.5-3b-trainer-checkpoint"));
    let mut same = 0;
    for folder in folders
        .iter()
        .filter(|folder| folder.join("trainer_state.json").is_file())
    {
        let text = std::fs::read_to_string(folder.join("trainer_state.json")).expect("there");
        let state = TrainerState::open(folder).expect("read");
        assert!(!state.log_history.is_empty());
        // Files of older versions lack keys, which we write with their defaults.
        let complete = text.matches("\n  \"").count() == 20;
        if complete {
            let ours = state.to_json();
            let differs = ours
                .lines()
                .zip(text.lines())
                .find(|(ours, theirs)| ours != theirs);
            assert_eq!(differs, None, "{folder:?}");
            assert!(ours == text, "{folder:?}");
            same += 1;
        }
    }
    assert!(same >= 3);
}
