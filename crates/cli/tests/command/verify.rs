//! `lowrank train --verify-resume`: says that the user's own run resumes to the same bytes, and leaves nothing.

use crate::sandbox::{Sandbox, train};

fn names(sandbox: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.path("")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

const RUN: &str =
    "--per-device-train-batch-size 1 --gradient-accumulation-steps 3 --lora-dropout 0.1";

#[test]
fn a_users_own_run_is_verified_and_nothing_is_left() {
    let sandbox = Sandbox::new("bloom");
    let before = names(&sandbox);
    let line = train("--verify-resume").replace("--max-steps 2", "--max-steps 9");
    for more in [
        RUN,
        "--save-steps 2 --save-total-limit 1 --lr-scheduler-type cosine --warmup-steps 2",
        "--eval-dataset rows.jsonl --eval-strategy steps --eval-steps 2 --save-steps 2 --load-best-model-at-end",
    ] {
        let output = sandbox.run(&format!("{line} {more}"));
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{more}: {talk}");
        assert!(
            talk.contains(
                "verified: stopped after update 2 and resumed, update 4 left the same bytes"
            ),
            "{talk}"
        );
        assert_eq!(names(&sandbox), before, "{more}");
    }
}

#[test]
fn a_used_output_folder_is_left_as_it_is() {
    let sandbox = Sandbox::new("bloom");
    sandbox.done(&train("--save-steps 1"));
    let list = || {
        let entries = std::fs::read_dir(sandbox.path("lora")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    };
    let before = (names(&sandbox), list());
    sandbox.done(&train("--verify-resume").replace("--max-steps 2", "--max-steps 3"));
    assert_eq!((names(&sandbox), list()), before);
}

#[test]
fn a_run_that_is_too_short_is_told_so() {
    let sandbox = Sandbox::new("bloom");
    let output = sandbox.run(&train("--verify-resume"));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(
        talk.contains("too short to stop and resume inside it: 2 updates"),
        "{talk}"
    );
    assert!(!sandbox.path("lora").exists());
}

#[test]
fn resuming_and_verifying_at_once_is_misuse() {
    let sandbox = Sandbox::new("bloom");
    let output = sandbox.run(&train("--verify-resume --resume-from-checkpoint latest"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_difference_to_be_borne_with_is_misuse_where_nothing_is_resumed() {
    let sandbox = Sandbox::new("bloom");
    for line in ["--verify-resume", ""] {
        let output = sandbox.run(&train(&format!("{line} --resume-with-changed seed")));
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {talk}");
        assert!(
            talk.contains("`resume_with_changed` has no effect without resume_from_checkpoint"),
            "{line}: {talk}"
        );
        assert!(!sandbox.path("lora").exists());
    }
}

#[test]
fn any_output_folder_that_a_run_takes_is_taken_and_left_as_it_was() {
    let sandbox = Sandbox::new("bloom");
    std::fs::create_dir(sandbox.path("here")).unwrap();
    let before = names(&sandbox);
    for output in [
        "new/parents/lora",
        "here",
        "here/lora/",
        ".",
        "here/..",
        "./lora/.",
    ] {
        let line = train("--verify-resume").replace("--max-steps 2", "--max-steps 3");
        sandbox.done(&line.replace("--output-dir lora", &format!("--output-dir {output}")));
        assert_eq!(names(&sandbox), before, "{output}");
        let inside = std::fs::read_dir(sandbox.path("here")).unwrap();
        assert_eq!(inside.count(), 0, "{output}");
    }
}
