//! `cargo xtask truth`: how far our bf16 and torch's are from the f64 truth, on real rows.
//!
//! The measure is that of the goldens: `‖got - truth‖₂ / ‖truth‖₂`, of the losses of all tokens, of each gradient, and
//! of all gradients as one vector. A mean loss is one number, in which rounding errors cancel by chance, so it is told for
//! all updates together. Ours in f32 is there to show that the truth is the truth of what we compute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use engine::cpu::Cpu;
use engine::shapes::ComputeDtype;
use formats::hf_config::HfConfig;
use formats::weights::WeightStore;
use model::{Decoder, PassKey, TokenBatch, families};
use serde::Deserialize;
use serde_json::{Value, json};

use super::places::{shared_inputs, smollm2, work_folder};
use super::sides::{clear, quietly, read_json, script, start_adapter, versions};

/// Measures our bf16 and torch's from the f64 truth: losses and every gradient of an adapter.
#[derive(Args)]
pub(crate) struct TruthArgs {
    /// Model folder [default: SmolLM2-135M].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Where SmolLM2-135M is [default: target/smollm2-135m].
    #[arg(long)]
    smollm2: Option<PathBuf>,
    /// Updates of eight rows from each data set.
    #[arg(long, default_value_t = 2)]
    updates: usize,
    /// Run the Python side again, although its files are there.
    #[arg(long)]
    again: bool,
}

/// Spread of `lora_B`, so that `lora_A` has a gradient.
const RANDOM_B: &str = "0.02";

/// Runs it.
pub(crate) fn truth(args: &TruthArgs) -> Result<()> {
    let named = args.model.clone();
    let model = named.map_or_else(|| smollm2(args.smollm2.as_deref()), Ok)?;
    let place = work_folder("truth")?.join(super::places::name_of(&model));
    let said = their_side(args, &model, &place)?;
    let updates: Vec<Vec<Row>> = serde_json::from_value(read_json(&place.join("rows.json"))?)?;
    let count = updates.len();
    let truth = Found::read(&place.join("truth.safetensors"), count)?;
    let torch = Found::read(&place.join("torch.safetensors"), count)?;
    let start = place.join("start");
    // Where the base is not stored in bf16, the script leaves one that is.
    let rounded = place.join("model");
    let base = if rounded.is_dir() { &rounded } else { &model };
    let ours = Found::ours(base, &start, &updates, ComputeDtype::Bf16)?;
    let exact = Found::ours(base, &start, &updates, ComputeDtype::F32)?;
    let table = Table::new(&truth, &torch, &ours, &exact)?;
    println!("{}\n", versions(&said));
    println!(
        "{count} updates, {} tokens, {} losses, {} threads of torch\n",
        said["tokens"], said["labelled"], said["threads"]
    );
    table.print();
    table.judge()
}

fn their_side(args: &TruthArgs, model: &Path, place: &Path) -> Result<Value> {
    let out = place.join("said.json");
    if !args.again && out.is_file() {
        let found = read_json(&out)?;
        if found["settings"] == json!({"model": model, "updates": args.updates}) {
            eprintln!("the truth is there: {}", place.display());
            return Ok(found);
        }
    }
    clear(place)?;
    std::fs::create_dir_all(place)?;
    start_adapter(model, &place.join("start"), Some(RANDOM_B))?;
    let mut command = script("bf16_truth")?;
    command.arg("--model").arg(model).arg("--out").arg(place);
    command.arg("--adapter").arg(place.join("start"));
    let data = shared_inputs()?.join("data");
    for set in ["alpaca_zh_demo_1k", "alpaca_zh_demo/alpaca_en_demo.json"] {
        command.arg("--dataset").arg(data.join(set));
    }
    command.args(["--updates", &args.updates.to_string()]);
    // Renamed when it is whole: what is there is the mark that all is.
    let part = place.join("said.part");
    command.stdout(std::fs::File::create(&part)?);
    quietly(&mut command, &place.join("bf16_truth.log"))?;
    std::fs::rename(&part, &out)?;
    read_json(&out)
}

/// One encoded row.
#[derive(Deserialize)]
struct Row {
    input_ids: Vec<u32>,
    labels: Vec<i32>,
}

/// What one side computed, by name: for each update the losses, and each gradient.
struct Found(BTreeMap<String, Vec<Vec<f32>>>);

const LOSSES: &str = "losses";

impl Found {
    /// Of a file of `bf16_truth.py`.
    fn read(path: &Path, updates: usize) -> Result<Self> {
        let file = WeightStore::open_file(path)?;
        let mut found = BTreeMap::new();
        for number in 0..updates {
            let prefix = format!("{number}.");
            for tensor in file.iter() {
                if let Some(name) = tensor.name.strip_prefix(&prefix) {
                    let values = tensor.to_f32().context("a tensor of numbers")?;
                    found
                        .entry(name.to_owned())
                        .or_insert_with(Vec::new)
                        .push(values);
                }
            }
        }
        Ok(Self(found))
    }

    /// The same rows here.
    fn ours(
        model: &Path,
        adapter: &Path,
        updates: &[Vec<Row>],
        compute: ComputeDtype,
    ) -> Result<Self> {
        let config = HfConfig::open(model)?;
        let weights = WeightStore::open(model)?;
        let backend = Arc::new(Cpu::new(None, compute, None));
        let spec = families::decoder_spec(&config)?;
        let mut decoder = Decoder::load(backend, spec, &weights)?;
        let tree = families::module_tree(&config)?;
        peft::load_adapter(&mut decoder, &tree, adapter, Some(&weights))?;
        let mut found = BTreeMap::new();
        for rows in updates {
            decoder.zero_grad();
            let losses = decoder.forward_backward(&pack(rows), KEY)?;
            let mut add = |name: String, values| {
                found.entry(name).or_insert_with(Vec::new).push(values);
            };
            add(LOSSES.to_owned(), losses);
            for one in decoder.trainable() {
                let grad = one.grad.as_slice().to_vec();
                add(format!("grad.{}", one.name), grad);
            }
        }
        Ok(Self(found))
    }
}

/// There is no dropout, so the key decides nothing.
const KEY: PassKey = PassKey {
    seed: 42,
    step: 0,
    first_token: 0,
    first_target: 0,
};

/// The rows of an update end to end, their losses' mean the objective.
fn pack(rows: &[Row]) -> TokenBatch {
    let rows = rows.iter().map(|row| (&*row.input_ids, &*row.labels));
    let mut batch = TokenBatch::of_rows(rows, 1.0);
    let weight = 1.0 / batch.targets.len() as f32;
    for target in &mut batch.targets {
        target.weight = weight;
    }
    batch
}

/// Squares of a difference from the truth, and of the truth.
#[derive(Debug, Clone, Copy, Default)]
struct Squares {
    gap: f64,
    truth: f64,
}

impl Squares {
    fn of(got: &[f32], truth: &[f32]) -> Result<Self> {
        if got.len() != truth.len() {
            bail!("{} values beside {} of the truth", got.len(), truth.len());
        }
        let mut this = Self::default();
        for (got, truth) in got.iter().zip(truth) {
            let (got, truth) = (f64::from(*got), f64::from(*truth));
            this.gap += (got - truth).powi(2);
            this.truth += truth.powi(2);
        }
        Ok(this)
    }

    fn mean_of(got: &[f32], truth: &[f32]) -> Self {
        let mean = |all: &[f32]| {
            all.iter().map(|one| f64::from(*one)).sum::<f64>() / all.len().max(1) as f64
        };
        Self {
            gap: (mean(got) - mean(truth)).powi(2),
            truth: mean(truth).powi(2),
        }
    }

    fn add(&mut self, other: Self) {
        self.gap += other.gap;
        self.truth += other.truth;
    }

    /// `‖got - truth‖₂ / ‖truth‖₂`.
    fn distance(self) -> f64 {
        (self.gap / self.truth.max(1e-300)).sqrt()
    }
}

/// The sides that are measured.
const SIDES: [&str; 3] = ["ours, bf16", "torch, bf16", "ours, f32"];

/// One line: tensors of one kind, over all updates.
#[derive(Default)]
struct Line {
    /// Distance of each tensor of each update, by side.
    each: Vec<[f64; 3]>,
    /// All of them as one vector.
    whole: [Squares; 3],
}

impl Line {
    fn add(&mut self, squares: [Squares; 3]) {
        self.each.push(squares.map(Squares::distance));
        for (whole, one) in self.whole.iter_mut().zip(squares) {
            whole.add(one);
        }
    }

    fn mean(&self, side: usize) -> f64 {
        self.each.iter().map(|one| one[side]).sum::<f64>() / self.each.len() as f64
    }

    fn most(&self, side: usize) -> f64 {
        self.each.iter().map(|one| one[side]).fold(0.0, f64::max)
    }

    fn closer(&self) -> usize {
        self.each.iter().filter(|one| one[0] < one[1]).count()
    }
}

/// Lines by kind.
struct Table(Vec<(String, Line)>);

impl Table {
    fn new(truth: &Found, torch: &Found, ours: &Found, exact: &Found) -> Result<Self> {
        let names = |found: &Found| found.0.keys().cloned().collect::<Vec<_>>();
        if names(truth) != names(torch) || names(truth) != names(ours) {
            bail!("the sides have gradients of other parameters");
        }
        let mut kinds: BTreeMap<String, Line> = BTreeMap::new();
        let (mut losses, mut means, mut grads) =
            (Line::default(), Line::default(), Line::default());
        for (name, truths) in &truth.0 {
            let sides = [ours, torch, exact].map(|side| &side.0[name]);
            for (number, truth) in truths.iter().enumerate() {
                let of = |side: &Vec<Vec<f32>>| {
                    let got = side.get(number).context("an update is missing")?;
                    Ok((
                        Squares::of(got, truth).with_context(|| name.clone())?,
                        Squares::mean_of(got, truth),
                    ))
                };
                let found = sides.map(of).into_iter().collect::<Result<Vec<_>>>()?;
                let squares = [found[0].0, found[1].0, found[2].0];
                if name == LOSSES {
                    losses.add(squares);
                    means.add([found[0].1, found[1].1, found[2].1]);
                } else {
                    grads.add(squares);
                    kinds.entry(kind_of(name)).or_default().add(squares);
                }
            }
        }
        let mut lines = vec![
            ("losses of the tokens".to_owned(), losses),
            ("mean loss of an update".to_owned(), means),
        ];
        lines.extend(kinds);
        lines.push(("all gradients".to_owned(), grads));
        Ok(Self(lines))
    }

    fn print(&self) {
        println!(
            "| | {} | {} | {} | ours is closer |",
            SIDES[0], SIDES[1], SIDES[2]
        );
        println!("|---|---|---|---|---|");
        for (name, line) in &self.0 {
            let cell = |side: usize| {
                let whole = line.whole[side].distance();
                format!(
                    "{whole:.2e} ({:.2e}, {:.2e})",
                    line.mean(side),
                    line.most(side)
                )
            };
            let (closer, of) = (line.closer(), line.each.len());
            println!(
                "| {name} | {} | {} | {} | {closer} of {of} |",
                cell(0),
                cell(1),
                cell(2)
            );
        }
        println!("\nAs one vector over all updates (mean, largest of its tensors).");
    }

    /// Every line as one vector must be no further than torch's, and f32 much closer: else the truth is another
    /// model's, or nothing was rounded.
    fn judge(&self) -> Result<()> {
        let mut complaints = Vec::new();
        for (name, line) in &self.0 {
            ensure!(!line.each.is_empty(), "{name}: nothing was compared");
            let distances = line.whole.map(Squares::distance);
            for (side, distance) in SIDES.iter().zip(distances) {
                if !distance.is_finite() {
                    complaints.push(format!("{name}: {side} has no distance from the truth"));
                }
            }
            let [ours, torch, exact] = distances;
            if ours > torch {
                complaints.push(format!(
                    "{name}: ours is further from the truth than torch's"
                ));
            }
            if exact * 10.0 > ours {
                complaints.push(format!(
                    "{name}: ours in f32 is not much closer than in bf16"
                ));
            }
        }
        if complaints.is_empty() {
            return Ok(());
        }
        bail!("{}", complaints.join("; "))
    }
}

/// `grad.model.layers.3.self_attn.q_proj.lora_A.weight` as `q_proj.lora_A`.
fn kind_of(name: &str) -> String {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let mut parts: Vec<&str> = name.rsplitn(3, '.').take(2).collect();
    parts.reverse();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_the_norm_of_the_difference_over_that_of_the_truth() {
        let one = Squares::of(&[3.0, 4.5], &[3.0, 4.0]).expect("two of each");
        assert_eq!(one.distance(), 0.1);
        assert!(Squares::of(&[1.0], &[]).is_err());
        let mean = Squares::mean_of(&[2.5, 3.5], &[1.0, 3.0]);
        assert_eq!(mean.distance(), 0.5);
    }

    #[test]
    fn a_side_that_is_further_or_no_number_or_another_truth_fails() {
        let judged = |sides: [f32; 3]| {
            let mut line = Line::default();
            line.add(sides.map(|got| Squares::of(&[got], &[1.0]).expect("one of each")));
            Table(vec![("losses".to_owned(), line)]).judge()
        };
        let good = [1.05, 1.1, 1.001];
        assert!(judged(good).is_ok());
        assert!(judged([1.2, 1.1, 1.001]).is_err());
        assert!(judged([1.05, 1.1, 1.02]).is_err());
        for side in 0..3 {
            for value in [f32::NAN, f32::INFINITY] {
                let mut sides = good;
                sides[side] = value;
                assert!(judged(sides).is_err(), "{side}: {value}");
            }
        }
    }

    #[test]
    fn a_line_without_a_tensor_fails() {
        let empty = Table(vec![("losses".to_owned(), Line::default())]);
        assert!(empty.judge().is_err());
    }

    #[test]
    fn a_label_is_the_target_of_the_position_before_it() {
        let row = |input_ids: &[u32], labels: &[i32]| Row {
            input_ids: input_ids.to_vec(),
            labels: labels.to_vec(),
        };
        let batch = pack(&[row(&[5, 6, 7], &[-100, 6, 7]), row(&[8, 9], &[8, 9])]);
        let targets = batch.targets.iter().map(|one| (one.position, one.id));
        assert_eq!(targets.collect::<Vec<_>>(), [(0, 6), (1, 7), (3, 9)]);
        assert_eq!(batch.targets[0].weight, 1.0 / 3.0);
    }

    #[test]
    fn kinds_are_module_and_matrix() {
        let name = "grad.model.layers.3.self_attn.q_proj.lora_A.weight";
        assert_eq!(kind_of(name), "q_proj.lora_A");
    }
}
