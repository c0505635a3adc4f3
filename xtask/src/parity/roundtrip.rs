//! `cargo xtask roundtrip`: folders of ours opened by PEFT, and PEFT's opened here, compared by greedy tokens in f32.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::places::{name_of, smollm2, stories, work_folder};
use super::sides::{answer, build, clear, quietly, read_json, say, start_adapter, versions};
use crate::run::root;

/// Opens our folders with the Python stack and its folders here; the greedy tokens must be the same.
#[derive(Args)]
pub(crate) struct RoundtripArgs {
    /// Model folders [default: one golden of each family, stories260k-hf, SmolLM2-135M].
    #[arg(long)]
    model: Vec<PathBuf>,
    /// Our binary [default: a release build, made now].
    #[arg(long)]
    ours: Option<PathBuf>,
    /// Where SmolLM2-135M is [default: target/smollm2-135m].
    #[arg(long)]
    smollm2: Option<PathBuf>,
    /// The goldens alone, which need nothing but the repository and Python.
    #[arg(long)]
    goldens_only: bool,
}

/// gpt2's golden has 32 positions, and a prompt takes some.
const NEW_TOKENS: usize = 16;
const FAMILIES: [&str; 5] = ["bloom", "gpt2", "llama", "mistral", "qwen2"];

/// Runs it.
pub(crate) fn roundtrip(args: &RoundtripArgs) -> Result<()> {
    let place = work_folder("roundtrip")?;
    let models = models(args, &place)?;
    let ours = build(args.ours.as_ref())?;
    let (mut rows, mut complaints, mut stack) = (Vec::new(), Vec::new(), String::new());
    for model in models {
        for (what, report) in trips(&ours, &place, &model).with_context(|| model.name.clone())? {
            stack = versions(&report);
            rows.push(row(&model.name, what, &report));
            if !is_fine(&report) {
                complaints.push(format!("{}, {what}: {}", model.name, report["different"]));
            }
        }
    }
    println!(
        "\n{stack}\n\n| model | folder | prompts with the same greedy ids | tokens | tensors left over or unfilled |\n|---|---|---|---|---|"
    );
    rows.iter().for_each(|row| println!("{row}"));
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("not the same tokens:\n  {}", complaints.join("\n  "))
}

struct Model {
    name: String,
    folder: PathBuf,
    prompts: Vec<String>,
    /// Short enough to cut the end-of-text token off: else the trained model says it at once.
    max_length: &'static str,
}

fn models(args: &RoundtripArgs, place: &Path) -> Result<Vec<Model>> {
    let real = |folder: PathBuf| Model {
        name: name_of(&folder),
        folder,
        max_length: "24",
        prompts: [
            "Human: Name three things that a baker does before sunrise.\n\nAssistant: ",
            "Once upon a time",
            "Human: 列出三种保持健康的方法。\n\nAssistant: ",
        ]
        .map(str::to_owned)
        .to_vec(),
    };
    if !args.model.is_empty() {
        return Ok(args.model.iter().cloned().map(real).collect());
    }
    let mut models: Vec<Model> = FAMILIES
        .iter()
        .map(|family| golden(family, place))
        .collect::<Result<_>>()?;
    if !args.goldens_only {
        models.push(real(stories()?));
        models.push(real(smollm2(args.smollm2.as_deref())?));
    }
    Ok(models)
}

/// A golden's model with a tokenizer of one word an id, so that the commands take it as any other folder.
fn golden(family: &str, place: &Path) -> Result<Model> {
    let folder = place.join(family).join("model");
    clear(&folder)?;
    std::fs::create_dir_all(&folder)?;
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        let from = root().join("goldens").join(family).join("model").join(name);
        std::fs::copy(&from, folder.join(name)).with_context(|| from.display().to_string())?;
    }
    let config = read_json(&folder.join("config.json"))?;
    let size = config["vocab_size"].as_u64().context("vocab_size")?;
    let vocab: Map<String, Value> = (0..size).map(|id| (format!("w{id}"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w3"},
    });
    let options =
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w2", "unk_token": "w3"});
    std::fs::write(
        folder.join("tokenizer.json"),
        serde_json::to_vec(&tokenizer)?,
    )?;
    std::fs::write(
        folder.join("tokenizer_config.json"),
        serde_json::to_vec(&options)?,
    )?;
    Ok(Model {
        name: format!("{family} (golden)"),
        folder,
        max_length: "8",
        prompts: ["w5 w9 w33 w40", "w61 w7 w20", "w11 w45 w13 w8 w66"]
            .map(str::to_owned)
            .to_vec(),
    })
}

/// PEFT's adapter opened here, our checkpoint opened there, our merged folder opened there.
fn trips(ours: &Path, place: &Path, model: &Model) -> Result<Vec<(&'static str, Value)>> {
    let place = place.join(name_of(
        model
            .folder
            .parent()
            .filter(|_| model.name.contains("golden"))
            .unwrap_or(&model.folder),
    ));
    std::fs::create_dir_all(&place)?;
    eprintln!("{}", model.name);
    let [theirs, run, merged] = ["theirs", "run", "merged"].map(|name| place.join(name));
    for folder in [&theirs, &run, &merged] {
        clear(folder)?;
    }
    start_adapter(&model.folder, &theirs, Some("0.05"))?;
    train(ours, model, &run, &place)?;
    let checkpoint = run.join("checkpoint-6");
    merge(ours, model, &checkpoint, &merged, &place)?;
    let compare = |name: &str, base: &Path, adapter: Option<&Path>| {
        let said = place.join(format!("{name}.said.json"));
        say(ours, base, adapter, &model.prompts, NEW_TOKENS, &said)?;
        answer(base, adapter, &said, &place.join(format!("{name}.json")))
    };
    Ok(vec![
        (
            "PEFT's adapter, opened here",
            compare("adapter", &model.folder, Some(&theirs))?,
        ),
        (
            "our checkpoint, opened by PEFT",
            compare("checkpoint", &model.folder, Some(&checkpoint))?,
        ),
        (
            "our merged folder, opened by transformers",
            compare("merged", &merged, None)?,
        ),
    ])
}

/// Six updates on rows of this file's own, at a rate that shows.
fn train(ours: &Path, model: &Model, out: &Path, place: &Path) -> Result<()> {
    let rows: Vec<Value> = model
        .prompts
        .iter()
        .cycle()
        .take(12)
        .enumerate()
        .map(|(number, prompt)| json!({"instruction": prompt, "input": "", "output": model.prompts[number * 5 % 3]}))
        .collect();
    let dataset = place.join("rows.json");
    std::fs::write(&dataset, serde_json::to_vec(&rows)?)?;
    let mut command = Command::new(ours);
    command
        .arg("train")
        .arg("--model")
        .arg(&model.folder)
        .arg("--dataset")
        .arg(&dataset);
    command.arg("--output-dir").arg(out);
    command.args([
        "--compute-dtype",
        "f32",
        "--max-length",
        model.max_length,
        "--target-modules",
        "all-linear",
    ]);
    command.args([
        "--r",
        "4",
        "--lora-alpha",
        "10",
        "--learning-rate",
        "0.01",
        "--lr-scheduler-type",
        "constant",
    ]);
    command.args([
        "--per-device-train-batch-size",
        "1",
        "--gradient-accumulation-steps",
        "2",
    ]);
    command.args(["--max-steps", "6", "--save-steps", "6"]);
    quietly(&mut command, &place.join("train.log"))
}

fn merge(ours: &Path, model: &Model, adapter: &Path, out: &Path, place: &Path) -> Result<()> {
    let mut command = Command::new(ours);
    command
        .arg("merge")
        .arg("--model")
        .arg(&model.folder)
        .arg("--adapter")
        .arg(adapter);
    command.arg("--output").arg(out);
    for prompt in &model.prompts {
        command.arg("--prompt").arg(prompt);
    }
    quietly(&mut command, &place.join("merge.log"))
}

fn is_fine(report: &Value) -> bool {
    let is_empty = |key: &str| report[key].as_array().is_some_and(Vec::is_empty);
    report["all_equal"] == true && is_empty("unused_tensors") && is_empty("untouched_parameters")
}

fn row(name: &str, what: &str, report: &Value) -> String {
    let outputs = report["outputs"].as_array().map_or(&[][..], Vec::as_slice);
    let count = |key: &str| report[key].as_array().map_or(0, Vec::len);
    let tokens: usize = outputs
        .iter()
        .map(|output| output["new_ids"].as_array().map_or(0, Vec::len))
        .sum();
    let left = count("unused_tensors") + count("untouched_parameters");
    format!(
        "| {name} | {what} | {} of {} | {tokens} | {left} |",
        report["equal"],
        outputs.len()
    )
}
