//! `lowrank generate`: what the model's own `generation_config.json` asks for is done, or said not to be.

use crate::sandbox::Sandbox;

/// The new ids of a greedy run, and what it said on the way.
fn generated(sandbox: &Sandbox, more: &str) -> (serde_json::Value, String) {
    let line = format!("generate --model model --prompt hello --max-new-tokens 12 --json {more}");
    let output = sandbox.run(&line);
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{talk}");
    let mut found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    (found[0]["new_ids"].take(), talk)
}

#[test]
fn a_stored_repetition_penalty_holds_unless_a_flag_says_otherwise() {
    let sandbox = Sandbox::new("bloom");
    let (plain, _) = generated(&sandbox, "");
    let (penalised, _) = generated(&sandbox, "--repetition-penalty 5");
    assert_ne!(plain, penalised, "the penalty must matter here");
    sandbox.write(
        "model/generation_config.json",
        r#"{"repetition_penalty": 5.0, "temperature": 0.5}"#,
    );
    let (stored, talk) = generated(&sandbox, "");
    assert_eq!(stored, penalised);
    assert!(!talk.contains("generation_config"), "{talk}");
    assert_eq!(generated(&sandbox, "--repetition-penalty 1").0, plain);
}

#[test]
fn stored_settings_that_are_not_honoured_are_told() {
    let sandbox = Sandbox::new("bloom");
    sandbox.write(
        "model/generation_config.json",
        r#"{"num_beams": 4, "no_repeat_ngram_size": 2, "suppress_tokens": null, "min_p": 0.1}"#,
    );
    let note = "transformers' text may differ: num_beams, no_repeat_ngram_size";
    let (_, greedy) = generated(&sandbox, "");
    assert!(greedy.contains(&format!("{note}\n")), "{greedy}");
    let (_, drawn) = generated(&sandbox, "--do-sample");
    assert!(drawn.contains(&format!("{note}, min_p\n")), "{drawn}");
}
