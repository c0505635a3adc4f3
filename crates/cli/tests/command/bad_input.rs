//! Bad input: each with the message that it gets, kept as snapshots and as `docs/BAD_INPUTS.md`.
//!
//! `INSTA_UPDATE=always cargo test -p lowrank-cli` takes new messages over, into both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use testkit::Tensor;

use crate::sandbox::{Sandbox, train};

/// A name, the input in words, and what to do in the folder; gives the words of the command.
type Case = (&'static str, &'static str, fn(&Sandbox) -> String);

const GENERATE: &str = "generate --model model --prompt hello";

fn config(sandbox: &Sandbox, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let mut config = testkit::read_json(&sandbox.path("model/config.json"));
    change(config.as_object_mut().unwrap());
    sandbox.write("model/config.json", &config.to_string());
}

fn run_file(sandbox: &Sandbox, text: &str) -> String {
    sandbox.write("run.yaml", text);
    train("--config run.yaml")
}

/// An adapter folder on `query_key_value` of block 0, whose A reads `width` values.
fn adapter(sandbox: &Sandbox, width: usize) {
    sandbox.write(
        "other/adapter_config.json",
        r#"{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 3, "target_modules": ["query_key_value"], "layers_to_transform": [0]}"#,
    );
    let tensor = |shape: [usize; 2]| Tensor {
        shape: shape.to_vec(),
        values: vec![0.5; shape[0] * shape[1]],
    };
    let name = |part| {
        format!("base_model.model.transformer.h.0.self_attention.query_key_value.{part}.weight")
    };
    let tensors = BTreeMap::from([
        (name("lora_A"), tensor([2, width])),
        (name("lora_B"), tensor([3 * width, 2])),
    ]);
    testkit::write_tensors(&sandbox.path("other/adapter_model.safetensors"), &tensors);
}

fn with_nan(sandbox: &Sandbox) -> String {
    let path = sandbox.path("model/model.safetensors");
    let mut tensors = testkit::read_tensors(&path);
    let weight = tensors.get_mut("transformer.h.1.mlp.dense_h_to_4h.weight");
    weight.unwrap().values[7] = f32::NAN;
    testkit::write_tensors(&path, &tensors);
    train("--per-device-train-batch-size 2")
}

const MODEL_CASES: &[Case] = &[
    ("no_model_folder", "a model folder that is not there", |s| {
        train("").replace(
            "--model model",
            &format!("--model {}", s.path("nowhere").display()),
        )
    }),
    ("no_weights", "a model folder without weights", |s| {
        s.remove("model/model.safetensors");
        train("")
    }),
    ("no_tokenizer", "a model folder without a tokenizer", |s| {
        s.remove("model/tokenizer.json");
        train("")
    }),
    ("no_model_type", "a config without `model_type`", |s| {
        config(s, |config| drop(config.remove("model_type")));
        train("")
    }),
    ("unknown_model_type", "a config of an unknown family", |s| {
        config(s, |config| {
            drop(config.insert("model_type".into(), "rwkv".into()))
        });
        train("")
    }),
    (
        "wrong_shapes",
        "weights of other shapes than the config's",
        |s| {
            config(s, |config| {
                drop(config.insert("hidden_size".into(), 48.into()))
            });
            train("")
        },
    ),
    ("cut_weights", "a weights file that was cut short", |s| {
        let path = s.path("model/model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        train("")
    }),
    (
        "adapter_of_another_base",
        "an adapter of another base",
        |s| {
            adapter(s, 20);
            format!("{GENERATE} --adapter other")
        },
    ),
    ("nan_weight", "a weight that is not a number", with_nan),
    (
        "merge_into_existing",
        "a merge into a folder that is there",
        |s| {
            adapter(s, 36);
            "merge --model model --adapter other --output model".into()
        },
    ),
];

const DATA_CASES: &[Case] = &[
    ("no_dataset", "a data set that is not there", |_| {
        train("").replace("rows.jsonl", "nothing.jsonl")
    }),
    (
        "metadata_only",
        "a `save_to_disk` folder without its Arrow files",
        |s| {
            s.write(
                "rows/dataset_info.json",
                r#"{"features": {"instruction": {"dtype": "string", "_type": "Value"}}}"#,
            );
            s.write("rows/state.json", r#"{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0", "_format_columns": null, "_format_kwargs": {}, "_format_type": null, "_output_all_columns": false, "_split": null}"#);
            train("").replace("rows.jsonl", "rows")
        },
    ),
    ("cut_json", "a JSON array that was cut short", |s| {
        s.write(
            "rows.json",
            r#"[{"instruction": "Add.", "input": "", "output": "5"}, {"instruction": "Na"#,
        );
        train("").replace("rows.jsonl", "rows.json")
    }),
    ("empty_dataset", "a data set without rows", |s| {
        s.write("rows.json", "[]");
        train("").replace("rows.jsonl", "rows.json")
    }),
    (
        "missing_column",
        "rows without a column of the template",
        |s| {
            s.write("rows.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n");
            train("")
        },
    ),
    (
        "nothing_to_learn",
        "rows of which max_length leaves nothing to learn",
        |_| train("--max-length 1"),
    ),
    ("empty_evaluation", "an evaluation of no rows", |s| {
        s.write("rows.json", "[]");
        "eval --model model --dataset rows.json".into()
    }),
    ("latin1_csv", "a CSV file in Latin-1", |s| {
        let bytes = b"instruction,input,output\nna\xefve,,x\n";
        std::fs::write(s.path("rows.csv"), bytes).unwrap();
        train("").replace("rows.jsonl", "rows.csv")
    }),
    ("semicolon_csv", "a CSV file with semicolons", |s| {
        s.write("rows.csv", "instruction;input;output\na;b;c\n");
        train("").replace("rows.jsonl", "rows.csv")
    }),
    ("bad_template", "a template that is not Jinja", |s| {
        run_file(
            s,
            "template:\n  prompt: \"{{ instruction\"\n  response: \"{{ output }}\"\n",
        )
    }),
];

const SETTING_CASES: &[Case] = &[
    ("no_model", "no model named", |_| {
        "train --dataset rows.jsonl".into()
    }),
    ("unknown_flag", "an unknown flag", |_| {
        train("--learning-rat 1e-4")
    }),
    ("unknown_key", "an unknown key of the run file", |s| {
        run_file(s, "modle: model\n")
    }),
    ("misplaced_train_key", "a key of `train` at the top", |s| {
        run_file(s, "learning_rate: 0.1\n")
    }),
    ("misplaced_lora_key", "a key of `lora` at the top", |s| {
        run_file(s, "lora_alpha: 4\n")
    }),
    ("key_twice", "a key that is there twice", |s| {
        run_file(s, "model: a\nmodel: b\n")
    }),
    ("not_yaml", "a run file that is not YAML", |s| {
        run_file(s, "train: [1\nlora: 2\n")
    }),
    ("no_mapping", "a run file that is a list", |s| {
        run_file(s, "- train\n")
    }),
    ("unknown_train_key", "an unknown key of `train`", |s| {
        run_file(s, "train:\n  learning_rte: 0.1\n")
    }),
    ("unknown_lora_key", "an unknown key of `lora`", |s| {
        run_file(s, "lora:\n  lora_alhpa: 4\n")
    }),
    ("unknown_schedule", "an unknown schedule", |_| {
        train("--lr-scheduler-type linar")
    }),
    ("unknown_isa", "an unknown instruction set", |_| {
        train("--isa mmx")
    }),
    ("no_target", "a target that matches nothing", |_| {
        train("--target-modules query_key_values")
    }),
    ("regex_in_list", "a regex inside a list of targets", |s| {
        run_file(s, "lora:\n  target_modules: [\"h.*.query_key_value\"]\n")
    }),
    ("max_length_zero", "max_length 0", |_| {
        train("--max-length 0")
    }),
    ("rank_below_zero", "a negative rank", |_| train("--r -1")),
    ("no_threads", "no threads", |_| train("--threads 0")),
    (
        "flag_without_meaning",
        "a flag of the Trainer without meaning here",
        |_| train("--bf16 --report-to wandb"),
    ),
    ("evaluates_nothing", "evaluations without a set", |_| {
        train("--eval-strategy epoch")
    }),
    ("no_such_layer", "a layer that the model has not", |_| {
        train("--layers-to-transform 99")
    }),
    (
        "other_config",
        "an adapter, and other values of its config",
        |s| {
            adapter(s, 36);
            train("--adapter other --r 2 --lora-alpha 5")
        },
    ),
    ("dora", "an adapter with DoRA", |s| {
        adapter(s, 36);
        let config = std::fs::read_to_string(s.path("other/adapter_config.json")).unwrap();
        let config = config.replace("\"r\": 2", "\"r\": 2, \"use_dora\": true");
        s.write("other/adapter_config.json", &config);
        format!("{GENERATE} --adapter other")
    }),
    ("no_adapter_weights", "an adapter without weights", |s| {
        adapter(s, 36);
        s.remove("other/adapter_model.safetensors");
        format!("{GENERATE} --adapter other")
    }),
    (
        "adapters_inside",
        "a run's folder of another program, given as an adapter",
        |s| {
            adapter(s, 36);
            std::fs::create_dir(s.path("run")).unwrap();
            std::fs::rename(s.path("other"), s.path("run/checkpoint-8")).unwrap();
            format!("{GENERATE} --adapter run")
        },
    ),
    ("rank_zero", "rank 0", |_| train("--r 0")),
    (
        "prompt_fills_max_length",
        "a prompt as long as max_length, which counts it",
        |_| format!("{GENERATE} --max-length 2"),
    ),
    (
        "output_is_a_file",
        "a file where the output folder should be",
        |s| {
            s.write("lora", "taken");
            train("")
        },
    ),
    (
        "output_is_a_model",
        "a model's folder as output folder",
        |_| train("").replace("--output-dir lora", "--output-dir model"),
    ),
    (
        "foreign_checkpoint",
        "resuming from a checkpoint of the Python Trainer",
        |s| {
            adapter(s, 36);
            train("--resume-from-checkpoint other")
        },
    ),
    (
        "resume_from_run",
        "resuming from a run's folder, not a checkpoint",
        |s| {
            s.done(&train("--save-steps 1"));
            train("--resume-from-checkpoint lora")
        },
    ),
    (
        "output_under_a_file",
        "an output folder under a file",
        |s| {
            s.write("taken", "");
            train("").replace("--output-dir lora", "--output-dir taken/lora")
        },
    ),
    (
        "nothing_to_resume",
        "resuming where no checkpoint is",
        |_| train("--resume-from-checkpoint latest"),
    ),
    ("resume_changed", "resuming with changed settings", |s| {
        s.done(&train("--save-steps 1"));
        train("--save-steps 1 --resume-from-checkpoint latest --learning-rate 0.1 --seed 7")
            .replace("--max-steps 2", "--max-steps 4")
    }),
];

/// What one case is told.
fn told(case: &Case) -> String {
    let sandbox = Sandbox::new("bloom");
    let line = (case.2)(&sandbox);
    let output = sandbox.run(&line);
    let text = sandbox.told(&output);
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{}: {text}",
        case.0
    );
    assert!(!text.contains("panicked"), "{}: {text}", case.0);
    text
}

/// A prompt beyond GPT-2's table of positions.
fn too_long_for_gpt2() -> String {
    let sandbox = Sandbox::new("gpt2");
    let mut command = sandbox.command("generate --model model --max-new-tokens 4");
    command.args(["--prompt", &"colour ".repeat(40)]);
    sandbox.told(&command.output().unwrap())
}

/// A second trainer in one folder.
const READ_ONLY: &str = "a read-only output folder";

/// Root may write anywhere, so under root the command runs as nobody, in a copy that nobody can reach.
fn read_only_output() -> Option<String> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let sandbox = Sandbox::new("bloom");
    std::fs::create_dir(sandbox.path("shut")).unwrap();
    for (name, mode) in [("shut", 0o555), ("model", 0o755), (".", 0o755)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(sandbox.path(name), mode).unwrap();
    }
    let line = train("").replace("--output-dir lora", "--output-dir shut");
    let mut command = sandbox.command(&line);
    if std::fs::metadata(sandbox.path("shut")).unwrap().uid() == 0 {
        let reachable = sandbox.path("lowrank");
        std::fs::copy(env!("CARGO_BIN_EXE_lowrank"), &reachable).unwrap();
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = sandbox.command_of(&reachable);
        command.args(words).uid(NOBODY);
    }
    let output = match command.output() {
        // The folder for temporary files may be closed to nobody, or the container to other users.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: nobody cannot run the command here");
            return None;
        }
        output => output.unwrap(),
    };
    let text = sandbox.told(&output);
    // The probe's name has the process's number.
    let (before, probe) = text.split_once(".probe.tmp-").unwrap();
    let rest = &probe[probe.find('`').unwrap()..];
    Some(format!("{before}.probe.tmp-<pid>{rest}"))
}

fn second_trainer() -> String {
    let sandbox = Sandbox::new("bloom");
    let endless = train("").replace("--max-steps 2", "--max-steps 10000000");
    let mut first = sandbox.command(&endless).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !sandbox.path("lora/metrics.jsonl").exists() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let second = sandbox.run(&train(""));
    first.kill().unwrap();
    first.wait().unwrap();
    let text = sandbox.told(&second);
    // Host and time are this machine's.
    let at = text.find(&format!("process {} on ", first.id()));
    let at = at.unwrap_or_else(|| panic!("the holder is not named: {text}"));
    let (before, holder) = text.split_at(at);
    let rest = holder.find('\n').map_or("", |end| &holder[end..]);
    format!("{before}process <pid> on <host>, since <time>{rest}")
}

#[test]
fn a_loss_that_is_not_finite_leaves_no_checkpoint_of_itself() {
    let sandbox = Sandbox::new("bloom");
    let output = sandbox.run(&with_nan(&sandbox));
    assert_eq!(output.status.code(), Some(1));
    let left = std::fs::read_dir(sandbox.path("lora")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let weights = left.iter().map(|name| name.to_string_lossy());
    let weights: Vec<_> = weights
        .filter(|name| name.starts_with("checkpoint") || name.ends_with(".safetensors"))
        .collect();
    assert!(weights.is_empty(), "{weights:?}");
}

#[test]
fn every_bad_input_is_told_what_where_and_how_to_mend() {
    let cases = [MODEL_CASES, DATA_CASES, SETTING_CASES].concat();
    let mut all: Vec<(&str, &str, String)> = cases
        .iter()
        .map(|case| (case.0, case.1, told(case)))
        .collect();
    all.push((
        "too_long_for_gpt2",
        "a prompt beyond GPT-2's positions",
        too_long_for_gpt2(),
    ));
    let read_only = read_only_output();
    let is_skipped = read_only.is_none();
    all.extend(read_only.map(|text| ("read_only_output", READ_ONLY, text)));
    all.push((
        "second_trainer",
        "a second trainer in one output folder",
        second_trainer(),
    ));
    for (name, _, text) in &all {
        let fails = text.starts_with("exit: 1\n");
        assert!(!fails || text.contains("\nmend: "), "{name}: {text}");
        insta::assert_snapshot!(*name, text);
    }
    check_page(&page(&all), is_skipped.then_some(READ_ONLY));
}

fn page(all: &[(&str, &str, String)]) -> String {
    let mut page = String::from(
        "# Bad input and what it is told\n\nWritten by `INSTA_UPDATE=always cargo test -p lowrank-cli` from the \
         snapshots of `crates/cli/tests/command`; the test fails where this page and the command differ. Exit code 1: \
         something failed; 2: misuse. Lines before `error:` are left out here.\n\n| input | exit | message |\n|---|---|---|\n",
    );
    for (_, what, text) in all {
        let (exit, rest) = text.split_once('\n').unwrap();
        let message = rest.find("error:").map_or(rest, |at| &rest[at..]).trim();
        let message = message
            .replace('|', "\\|")
            .replace('<', "&lt;")
            .replace('\n', "<br>");
        page.push_str(&format!(
            "| {what} | {} | {message} |\n",
            exit.trim_start_matches("exit: ")
        ));
    }
    page
}

/// `skipped`: a row that this machine could not try.
fn check_page(page: &str, skipped: Option<&str>) {
    let path = testkit::repository_root().join("docs/BAD_INPUTS.md");
    if std::env::var_os("INSTA_UPDATE").is_some_and(|value| value == "always") {
        std::fs::write(&path, page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let is_tried = |line: &&str| skipped.is_none_or(|row| !line.starts_with(&format!("| {row} |")));
    let kept: String = kept.split_inclusive('\n').filter(is_tried).collect();
    assert_eq!(
        kept,
        page,
        "{} is not what the command says now",
        path.display()
    );
}
