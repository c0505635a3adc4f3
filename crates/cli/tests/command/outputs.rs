//! What is in an output folder already: kept where it is not ours, and no hindrance where it is.

use crate::sandbox::{Sandbox, bytes, train};

#[test]
fn a_card_that_is_there_is_kept() {
    let sandbox = Sandbox::new("bloom");
    sandbox.write("lora/README.md", "mine\n");
    sandbox.done(&train("--save-steps 1"));
    assert_eq!(bytes(&sandbox.path("lora/README.md")), b"mine\n");
    let of_checkpoint = bytes(&sandbox.path("lora/checkpoint-1/README.md"));
    assert!(of_checkpoint.starts_with(b"---\n"));
}

#[test]
fn a_model_that_is_refused_as_output_folder_stays_as_it_was() {
    let sandbox = Sandbox::new("bloom");
    let names = || {
        let entries = std::fs::read_dir(sandbox.path("model")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let line = train("").replace("--output-dir lora", "--output-dir model");
    assert_eq!(sandbox.run(&line).status.code(), Some(1));
    assert_eq!(names(), before);
}

#[test]
fn the_log_of_a_run_that_died_early_is_begun_again() {
    for left in [
        "",
        "{\"epo",
        "{\"epoch\": 0.5, \"loss\": 1.0, \"step\": 1}\n{\"ep",
    ] {
        let sandbox = Sandbox::new("bloom");
        sandbox.write("lora/metrics.jsonl", left);
        sandbox.done(&train("--logging-steps 1"));
        let log = String::from_utf8(bytes(&sandbox.path("lora/metrics.jsonl"))).unwrap();
        assert_eq!(log.lines().count(), 3, "{log}");
    }
}

#[test]
fn an_adapter_may_be_given_with_the_values_that_it_has() {
    let sandbox = Sandbox::new("bloom");
    sandbox.done(&train(
        "--r 2 --lora-alpha 3 --target-modules query_key_value,dense",
    ));
    let again =
        train("--adapter lora --r 2 --lora-alpha 3.0 --target-modules dense,query_key_value");
    sandbox.done(&again.replace("--output-dir lora", "--output-dir more"));
    sandbox.done("inspect --model model --adapter lora --r 2");
}
