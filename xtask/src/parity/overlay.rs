//! `cargo xtask parity`: the mission's run by our binary and by PEFT and the Trainer, from one start adapter.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::compare::Overlay;
use super::places::{name_of, shared_inputs, smollm2, stories, work_folder};
use super::sides::{build, clear, quietly, read_json, say, script, start_adapter, versions};
use crate::python::requirements;

/// Lays a training run of ours over one of PEFT and the Trainer, step by step.
#[derive(Args)]
pub(crate) struct ParityArgs {
    /// Model folder [default: stories260k-hf and SmolLM2-135M, on both Alpaca sets].
    #[arg(long, requires = "dataset")]
    model: Option<PathBuf>,
    /// Rows to train on.
    #[arg(long, requires = "model")]
    dataset: Option<PathBuf>,
    /// Our binary [default: a release build, made now].
    #[arg(long)]
    ours: Option<PathBuf>,
    /// Where SmolLM2-135M is [default: target/smollm2-135m].
    #[arg(long)]
    smollm2: Option<PathBuf>,
    /// Updates of eight rows each.
    #[arg(long, default_value_t = 64)]
    updates: usize,
    /// High enough that the loss moves.
    #[arg(long, default_value_t = 5e-4)]
    learning_rate: f64,
    /// Run the Python side again, although its log is there.
    #[arg(long)]
    again: bool,
}

const MAX_LENGTH: &str = "256";
const NEW_TOKENS: usize = 32;
const PROMPTS: &str = "xtask/src/parity/prompts.json";

/// After training apart, greedy tokens may part where the best two logits are this close.
const NEAR_TIE: f64 = 1e-3;

/// Runs it.
pub(crate) fn parity(args: &ParityArgs) -> Result<()> {
    let pairs = pairs(args)?;
    let ours = build(args.ours.as_ref())?;
    let mut complaints = Vec::new();
    for (model, dataset) in &pairs {
        let name = format!("{}-{}", name_of(model), name_of(dataset));
        let found = pair(args, &ours, &name, model, dataset).with_context(|| name.clone())?;
        complaints.extend(found.into_iter().map(|text| format!("{name}: {text}")));
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("not the same run:\n  {}", complaints.join("\n  "))
}

fn pairs(args: &ParityArgs) -> Result<Vec<(PathBuf, PathBuf)>> {
    if let (Some(model), Some(dataset)) = (&args.model, &args.dataset) {
        return Ok(vec![(model.clone(), dataset.clone())]);
    }
    let models = [stories()?, smollm2(args.smollm2.as_deref())?];
    let data = shared_inputs()?.join("data");
    let sets = [
        data.join("alpaca_zh_demo_1k"),
        data.join("alpaca_zh_demo/alpaca_en_demo.json"),
    ];
    let each = |model: PathBuf| sets.clone().map(|set| (model.clone(), set));
    Ok(models.into_iter().flat_map(each).collect())
}

/// One model on one set; what is above its bound, in words.
fn pair(
    args: &ParityArgs,
    ours: &Path,
    name: &str,
    model: &Path,
    dataset: &Path,
) -> Result<Vec<String>> {
    let place = work_folder("parity")?.join(name);
    std::fs::create_dir_all(&place)?;
    let theirs = their_run(args, &place, model, dataset)?;
    let log = our_run(args, ours, &place, model, dataset)?;
    let overlay = Overlay::new(&log, &theirs["log"])?;
    let mut complaints = overlay.complaints();
    let order = our_order(&theirs)?;
    if json!(order) != theirs["order"] {
        complaints.push("the rows came in another order".into());
    }
    let said = say(
        ours,
        model,
        Some(&place.join("ours")),
        &prompts()?,
        NEW_TOKENS,
        &place.join("said.json"),
    )?;
    let greedy = Greedy::compare(
        &said["outputs"],
        &theirs["outputs"],
        &theirs["base_outputs"],
    )?;
    complaints.extend(greedy.complaints.clone());
    std::fs::write(place.join("table.md"), &overlay.table)?;
    report(name, &theirs, &overlay, order.len(), &greedy);
    Ok(complaints)
}

/// All that PEFT's run hangs on, as text: the folder is named by the last parts of the paths alone.
fn asked_of_theirs(args: &ParityArgs, model: &Path, dataset: &Path) -> Result<String> {
    let asked = json!({
        "model": std::path::absolute(model)?,
        "dataset": std::path::absolute(dataset)?,
        "updates": args.updates,
        "learning_rate": args.learning_rate,
        "max_length": MAX_LENGTH,
        "new_tokens": NEW_TOKENS,
        "prompts": prompts()?,
        "requirements": requirements()?,
    });
    Ok(serde_json::to_string_pretty(&asked)?)
}

/// The start adapter and PEFT's run from it, made where they are not there yet.
fn their_run(args: &ParityArgs, place: &Path, model: &Path, dataset: &Path) -> Result<Value> {
    let (out, mark) = (place.join("theirs.json"), place.join("asked.json"));
    let asked = asked_of_theirs(args, model, dataset)?;
    let is_same = std::fs::read_to_string(&mark).is_ok_and(|found| found == asked);
    if !args.again && is_same && out.is_file() {
        eprintln!("PEFT's run is there: {}", out.display());
        return read_json(&out);
    }
    // Written again behind the run: what is there is the mark that all of it is.
    if mark.exists() {
        std::fs::remove_file(&mark)?;
    }
    let start = place.join("start");
    clear(&start)?;
    start_adapter(model, &start, None)?;
    eprintln!("PEFT and the Trainer train: {}", place.display());
    let mut command = script("parity_train")?;
    command
        .arg("--model")
        .arg(model)
        .arg("--dataset")
        .arg(dataset);
    command.arg("--adapter").arg(place.join("start"));
    command.arg("--save-adapter").arg(place.join("theirs"));
    command.arg("--out").arg(&out).args(["--prompts", PROMPTS]);
    command.args([
        "--max-length",
        MAX_LENGTH,
        "--max-new-tokens",
        &NEW_TOKENS.to_string(),
    ]);
    command.args(["--argument", &format!("max_steps={}", args.updates)]);
    command.args([
        "--argument",
        &format!("learning_rate={}", args.learning_rate),
    ]);
    quietly(&mut command, &place.join("theirs.log"))?;
    std::fs::write(&mark, asked)?;
    read_json(&out)
}

fn our_run(
    args: &ParityArgs,
    ours: &Path,
    place: &Path,
    model: &Path,
    dataset: &Path,
) -> Result<Value> {
    let out = place.join("ours");
    clear(&out)?;
    eprintln!("ours trains: {}", place.display());
    let mut command = Command::new(ours);
    command
        .arg("train")
        .arg("--model")
        .arg(model)
        .arg("--dataset")
        .arg(dataset);
    command
        .arg("--adapter")
        .arg(place.join("start"))
        .arg("--output-dir")
        .arg(&out);
    command.args(["--compute-dtype", "f32", "--max-length", MAX_LENGTH]);
    command.args([
        "--per-device-train-batch-size",
        "1",
        "--gradient-accumulation-steps",
        "8",
    ]);
    command.args(["--logging-steps", "1", "--save-strategy", "no"]);
    command.args(["--max-steps", &args.updates.to_string()]);
    command.args(["--learning-rate", &args.learning_rate.to_string()]);
    quietly(&mut command, &place.join("ours.log"))?;
    Ok(read_json(&out.join("trainer_state.json"))?["log_history"].take())
}

/// The order in which our loop takes as many rows of as many epochs: seed 42, a new permutation each epoch.
fn our_order(theirs: &Value) -> Result<Vec<u32>> {
    let rows = theirs["rows"]["rows"].as_u64().context("a count of rows")? as usize;
    let taken = theirs["order"].as_array().context("a row order")?.len();
    let epochs = (0..).flat_map(|epoch| data::order::epoch_order(rows, 42, epoch));
    Ok(epochs.take(taken).collect())
}

fn prompts() -> Result<Vec<String>> {
    let list = read_json(&crate::run::root().join(PROMPTS))?;
    let text = |prompt: &Value| prompt.as_str().map(str::to_owned).context("a prompt");
    list.as_array()
        .context("prompts")?
        .iter()
        .map(text)
        .collect()
}

/// What the two adapters say.
struct Greedy {
    prompts: usize,
    equal: usize,
    tokens: usize,
    /// Prompts where training changed what the base says.
    moved: usize,
    notes: Vec<String>,
    complaints: Vec<String>,
}

impl Greedy {
    fn compare(ours: &Value, theirs: &Value, base: &Value) -> Result<Self> {
        let list = |value: &'_ Value| value.as_array().cloned().context("outputs");
        let (ours, theirs, base) = (list(ours)?, list(theirs)?, list(base)?);
        let mut found = Self {
            prompts: ours.len(),
            equal: 0,
            tokens: 0,
            moved: 0,
            notes: Vec::new(),
            complaints: Vec::new(),
        };
        if ours.len() != theirs.len() || ours.is_empty() {
            bail!("{} outputs of ours, {} of theirs", ours.len(), theirs.len());
        }
        for (number, (left, right)) in ours.iter().zip(&theirs).enumerate() {
            found.moved += usize::from(
                base.get(number)
                    .is_some_and(|base| base["new_ids"] != right["new_ids"]),
            );
            found.tokens += right["new_ids"].as_array().map_or(0, Vec::len);
            if left["prompt_ids"] != right["prompt_ids"] {
                found
                    .complaints
                    .push(format!("prompt {number} has other ids"));
            } else if left["new_ids"] == right["new_ids"] {
                found.equal += 1;
            } else {
                found.differ(number, left, right);
            }
        }
        Ok(found)
    }

    fn differ(&mut self, number: usize, left: &Value, right: &Value) {
        let at = (0..NEW_TOKENS)
            .find(|at| left["new_ids"][at] != right["new_ids"][at])
            .unwrap_or(0);
        let margin = right["margins"][at].as_f64().unwrap_or(f64::INFINITY);
        let text = format!(
            "prompt {number} parts at token {at}, where PEFT's best two logits are {margin:.1e} apart"
        );
        if margin <= NEAR_TIE {
            self.notes.push(text);
        } else {
            self.complaints.push(text);
        }
    }
}

fn report(name: &str, theirs: &Value, overlay: &Overlay, rows: usize, greedy: &Greedy) {
    println!("\n### {name}\n\n{}", overlay.table);
    println!(
        "{}; {} threads of torch",
        versions(theirs),
        theirs["settings"]["threads"]
    );
    println!(
        "updates: {}; loss from {:.4} to {:.4}",
        overlay.updates, overlay.losses.0, overlay.losses.1
    );
    for (column, most, bound) in &overlay.largest {
        println!("largest difference of {column}: {most:.2e} ({bound:.0e} allowed)");
    }
    println!("row order: {rows} rows compared");
    println!(
        "greedy: {} of {} prompts give the same ids ({} tokens; training changed {} answers of the base)",
        greedy.equal, greedy.prompts, greedy.tokens, greedy.moved
    );
    greedy.notes.iter().for_each(|note| println!("  {note}"));
}
