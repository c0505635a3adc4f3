//! `lowrank generate`: what the model's own `generation_config.json` asks for is done, or said not to be.

use std::io::Write;
use std::process::Stdio;

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

#[test]
fn prompt_and_output_are_the_decode_of_all_ids() {
    let sandbox = Sandbox::new("llama");
    let line = "generate --model model --prompt Hello --max-new-tokens 6";
    let shown = sandbox.run(line).stdout;
    let found = sandbox.run(&format!("{line} --json")).stdout;
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    let ids = |key: &str| -> Vec<u32> { serde_json::from_value(found[0][key].clone()).unwrap() };
    let all = [ids("prompt_ids"), ids("new_ids")].concat();
    let tokenizer = lowrank::Tokenizer::from_pretrained(sandbox.path("model")).unwrap();
    let whole = tokenizer.decode(&all, true).unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), format!("{whole}\n"));
}

#[test]
fn a_prompt_that_is_refused_is_not_printed() {
    let sandbox = Sandbox::new("bloom");
    let output = sandbox.run("generate --model model --prompt hello --max-length 2");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
}

#[test]
fn a_prompt_from_a_file_or_from_stdin_is_taken_as_it_is() {
    let sandbox = Sandbox::new("bloom");
    let text = "C:\\new\nline";
    sandbox.write("prompt.txt", text);
    let line = "generate --model model --max-new-tokens 2 --prompt-file";
    let of_file = sandbox.run(&format!("{line} prompt.txt"));
    assert!(of_file.stdout.starts_with(text.as_bytes()));
    let mut child = sandbox.command(&format!("{line} -"));
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert_eq!(child.wait_with_output().unwrap().stdout, of_file.stdout);
}
