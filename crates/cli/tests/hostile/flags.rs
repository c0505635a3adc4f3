//! Row 84: flags that are misspelt, left out, doubled, or given what they cannot take. Exit code 2, near names offered.

use durable::faults::Tally;

use crate::finish;
use crate::sandbox::{Sandbox, train};

/// Words of `train` beside those that it needs.
const TRAIN: &[&str] = &[
    "--learning-rat 1e-4",
    "--lora_alpha 8",
    "--lora-alpa 8",
    "--target-module query_key_value",
    "--max-step 3",
    "--per-device-train-batch-sise 1",
    "--gradient-acumulation-steps 2",
    "--lr-sheduler-type linear",
    "--unheard-of",
    "-x",
    "stray",
    "--learning-rate",
    "--learning-rate fast",
    "--learning-rate -1",
    "--learning-rate NaN",
    "--num-train-epochs many",
    "--per-device-train-batch-size 0",
    "--per-device-train-batch-size 1.5",
    "--gradient-accumulation-steps 0",
    "--warmup-steps -3",
    "--weight-decay no",
    "--adam-beta1 1.5",
    "--adam-epsilon -1",
    "--max-grad-norm -1",
    "--lr-scheduler-type linar",
    "--save-strategy sometimes",
    "--save-steps 0",
    "--save-total-limit 0",
    "--logging-steps 0",
    "--logging-steps 3 --logging-strategy no",
    "--per-device-train-batch-size 8589934592",
    "--optim sdg",
    "--seed -1",
    "--seed seven",
    "--r 0",
    "--r 5000",
    "--r 2.5",
    "--lora-alpha sixteen",
    "--lora-dropout 2",
    "--bias some",
    "--rank-pattern {",
    "--rank-pattern []",
    "--layers-to-transform first",
    "--max-length 0",
    "--max-length -1",
    "--threads none",
    "--threads -1",
    "--lora-dropout -1",
    "--fp16",
    "--overwrite-output-dir",
    "--isa mmx",
    "--dtype fp8",
    "--model other",
    "--split",
];

/// Whole lines.
const LINES: &[&str] = &[
    "",
    "trian --model model",
    "--verison",
    "help mergee",
    "train --dataset rows.jsonl --output-dir lora",
    "train --model model --output-dir lora",
    "train --model model --dataset rows.jsonl --output-dir=",
    "merge --model model --adapter lora --output=",
    "merge --model model --adapter lora --output merged --prompt=",
    "generate --model model --prompt hello --max-new-tokens 0",
    "generate --prompt hello",
    "generate --model model",
    "generate --model model --promt hello",
    "generate --model model --prompt hello --temperature hot",
    "generate --model model --prompt hello --do-sample --temperature -1",
    "generate --model model --prompt hello --do-sample --top-p 2",
    "generate --model model --prompt hello --top-k some",
    "generate --model model --prompt hello --seed -4",
    "generate --model model --prompt hello --max-new-tokens -1",
    "generate --model model --prompt hello --repetition-penalty 0",
    "merge --model model --output out",
    "merge --model model --adapter lora",
    "merge --model model --adapter lora --outpt out",
    "merge --model model --adapter lora --output out --max-shard-bytes 1TB",
    "merge --model model --adapter lora --output out --max-shard-bytes 0",
    "eval --model model",
    "eval --model model --dataset rows.jsonl --template-prompt x",
    "eval --model model --dataset rows.jsonl --max-length -1",
    "inspect",
    "inspect --model model --tre",
    "inspect --model model --json --json",
    "inspect --output-dir lora --names --tree --r 16",
    "demo --max-stps 3",
];

#[test]
fn row_84_misused_flags_are_told_and_exit_with_2() {
    let sandbox = Sandbox::new("bloom");
    let lines = TRAIN
        .iter()
        .map(|rest| train(rest))
        .chain(LINES.iter().map(|line| (*line).to_owned()));
    let (mut tally, mut said) = (Tally::new(), String::new());
    for line in lines {
        tally.inject();
        let output = sandbox.run(&line);
        let told = sandbox.told(&output);
        if output.status.code() != Some(2) || told.contains("panicked") {
            tally.differ(format!("{line}: {told}"));
            println!("{line}: {told}");
        }
        said += &format!("$ lowrank {}\n{told}\n", line.trim_end());
    }
    assert!(!sandbox.path("lora").exists(), "nothing was made");
    finish(84, "misuse of flags", &tally, 40);
    insta::assert_snapshot!(said);
}
