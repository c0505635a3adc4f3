//! The rows that train: ours against PEFT and the Trainer, or ours against ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Race;
use super::ceiling;
use super::dtype::Dtype;
use super::lengths::{self, Lengths};
use super::measure::measure;
use super::race::Metric;
use super::race::{OWN_MEMORY, PEAK_MEMORY, Pairs, Reach, less, median, more, said, spread};
use super::rows::{Base, MISSION, Training};

/// Updates before those that are timed.
const WARMUP: usize = 1;
/// Of a row, where all are alike.
const FLAT_TOKENS: usize = 64;
const RATE: Metric = more("tokens/s", "tokens_per_second");
const FIRST: Metric = less("launch → first update, s", "first_update_seconds", 1.0);

/// What both sides are told.
struct Run {
    model: PathBuf,
    lengths: PathBuf,
    opening: usize,
    updates: usize,
}

impl Run {
    fn tell(&self, mut command: Command, dtype: Dtype) -> Command {
        let [opening, updates, warmup] =
            [self.opening, self.updates, WARMUP].map(|number| number.to_string());
        command.arg("--model").arg(&self.model);
        command.arg("--lengths").arg(&self.lengths);
        command.args(["--opening", &opening, "--updates", &updates]);
        command.args(["--warmup", &warmup, "--dtype", dtype.name()]);
        command
    }
}

/// Races; the median ratio of the tokens a second.
pub(crate) fn race(race: &Race, row: &Training, mission: Option<f64>) -> Result<Option<f64>> {
    if row.compiled && !has_compiler() {
        println!("\nskipped: torch.compile needs a C++ compiler, and there is none");
        return Ok(None);
    }
    let Some(model) = model(race, row.base)? else {
        println!("\nskipped: --smollm2 names no folder");
        return Ok(None);
    };
    let machine = race.machine()?;
    let [dtype, peer_dtype] = race.dtypes(row.dtypes);
    let plain = lengths_of(race, row, &model)?;
    let system_prompt = if row.system_prompt > 0 {
        row.system_prompt
    } else {
        race.system_prompt
    };
    let lengths = lengths::behind(system_prompt, &plain);
    let run = Run {
        model,
        lengths: lengths::write(&lengths, race.scratch.join("lengths.json"))?,
        opening: race.opening + system_prompt,
        updates: race.updates,
    };
    let bare = Run {
        lengths: lengths::write(&plain, race.scratch.join("lengths-bare.json"))?,
        opening: race.opening,
        model: run.model.clone(),
        updates: race.updates,
    };
    let peer = || {
        let mut command = run.tell(race.peer("bench_peft.py"), peer_dtype);
        command.args(row.compiled.then_some("--compile"));
        measure(&mut command)
    };
    let mut bares = Vec::new();
    let ours = || {
        if system_prompt > 0 {
            bares.push(measure(&mut bare.tell(race.ours(), dtype))?);
        }
        measure(&mut run.tell(race.ours(), dtype))
    };
    let pairs = Pairs::run(race.runs, peer, ours)?;
    print(&pairs, row, [dtype, peer_dtype]);
    say_rows(&lengths, run.opening, &pairs);
    let timed = lengths::timed(&lengths, WARMUP, race.updates);
    let gflop = ceiling::gflop_per_token(&run.model, &timed, run.opening)?;
    say_ceiling(&pairs, gflop, &machine, dtype);
    if system_prompt > 0 {
        let saved = lengths::saving(&lengths, run.opening, WARMUP, race.updates);
        say_saving(&pairs, bares, saved, mission);
    }
    Ok(Some(median(&pairs.ratios(&RATE))))
}

fn print(pairs: &Pairs, row: &Training, dtypes: [Dtype; 2]) {
    let [ours, peer] = dtypes.map(Dtype::name);
    let compiled = if row.compiled { ", compiled" } else { "" };
    let names = [format!("ours, {ours}"), format!("PEFT, {peer}{compiled}")];
    let reach = row.reach;
    let metrics = [
        (RATE, reach.tokens_per_second),
        (FIRST, reach.first_update),
        (PEAK_MEMORY, reach.peak_memory),
        (OWN_MEMORY, reach.own_memory),
    ];
    pairs.print(names.each_ref().map(String::as_str), &metrics);
}

fn say_rows(lengths: &Lengths, opening: usize, pairs: &Pairs) {
    let total: usize = lengths.iter().map(|[_, all]| all).sum();
    let mean = total as f64 / lengths.len() as f64;
    println!(
        "\nrows of {mean:.0} tokens on average, of which the first {opening} are the same in all"
    );
    if let Some(machine) = pairs.peer.first().map(|run| &run["machine"]) {
        println!("the peer: batch 1 × 8 accumulated, transformers' own attention, {machine}");
    }
}

/// The rate that frozen products alone would allow, and how near ours is to it. In f32 loops were not timed for a second
/// on end: it is their peak.
fn say_ceiling(pairs: &Pairs, gflop_per_token: f64, machine: &Value, dtype: Dtype) {
    let rate = match dtype {
        Dtype::F32 => dtype.peak(machine),
        Dtype::Bf16 => machine["sustained_gflops"].as_f64(),
    };
    let rate = rate.unwrap_or(f64::NAN);
    let most = rate / gflop_per_token;
    let [ours, peer] = [&pairs.ours, &pairs.peer].map(|side| median(&pairs.values(&RATE, side)));
    println!(
        "its frozen products are {gflop_per_token:.2} GFLOP a token: alone, at {rate:.0} GFLOP/s, they would make \
         {most:.1} tokens/s,\n{:.2} times the peer's median; ours makes {:.0} % of that",
        most / peer,
        100.0 * ours / most
    );
}

/// What the shared prompt brought: the rate over that of the same rows without it, and the reach.
fn say_saving(pairs: &Pairs, bare: Vec<Value>, saved: f64, mission: Option<f64>) {
    let gains = Pairs {
        ours: pairs.ours.clone(),
        peer: bare,
    };
    let gains = gains.ratios(&RATE);
    println!(
        "the prompt's tokens are {saved:.2} times those that are computed when it is computed once an update;\n\
         ours makes {}× the tokens/s of its rows without the prompt (≥ 0.9 of {saved:.2}: {})",
        spread(&gains),
        said(median(&gains) >= 0.9 * saved)
    );
    if let Some(mission) = mission {
        let gain = median(&pairs.ratios(&RATE)) / mission;
        println!("the ratio to PEFT is {gain:.2} times that of the mission's row of this run");
    }
}

/// Ours with all threads against ours with one.
pub(crate) fn threads(race: &Race) -> Result<()> {
    race.machine()?;
    let run = mission(race, race.updates)?;
    let [dtype, _] = race.dtypes(MISSION.dtypes);
    let with = |threads: &str| {
        let mut command = run.tell(race.ours(), dtype);
        measure(command.args(["--threads", threads]))
    };
    let all = std::thread::available_parallelism()?.to_string();
    let pairs = Pairs::run(race.runs, || with("1"), || with(&all))?;
    let reach = (all == "2").then_some(Reach::Ratio(1.85));
    let metrics = [
        (RATE, reach),
        (more("cores busy", "cores_busy"), None),
        (FIRST, None),
        (PEAK_MEMORY, None),
        (OWN_MEMORY, None),
    ];
    pairs.print([&format!("{all} threads"), "1 thread"], &metrics);
    pairs.ensure_same("losses")?;
    println!("\nthe losses are the same");
    Ok(())
}

/// Ours with five times the updates against ours with once; rows of one length, so that all updates are of one size.
pub(crate) fn flat(race: &Race) -> Result<()> {
    race.machine()?;
    let [dtype, _] = race.dtypes(MISSION.dtypes);
    let rows = lengths::fixed(FLAT_TOKENS);
    let lengths = lengths::write(&rows, race.scratch.join("lengths.json"))?;
    let model = race.model()?;
    let with = |updates| Run {
        model: model.clone(),
        lengths: lengths.clone(),
        opening: race.opening,
        updates,
    };
    let [few, many] = [race.updates, 5 * race.updates].map(with);
    let pairs = Pairs::run(
        race.runs,
        || measure(&mut few.tell(race.ours(), dtype)),
        || measure(&mut many.tell(race.ours(), dtype)),
    )?;
    let names = [many.updates, few.updates].map(|updates| format!("{updates} updates"));
    let metrics = [(PEAK_MEMORY, None), (OWN_MEMORY, Some(Reach::Ratio(0.97)))];
    pairs.print(names.each_ref().map(String::as_str), &metrics);
    Ok(())
}

fn mission(race: &Race, updates: usize) -> Result<Run> {
    let lengths = mission_lengths(race)?;
    Ok(Run {
        model: race.model()?,
        lengths: lengths::write(&lengths, race.scratch.join("lengths.json"))?,
        opening: race.opening,
        updates,
    })
}

fn model(race: &Race, base: Base) -> Result<Option<PathBuf>> {
    match base {
        Base::Bloom => race.model().map(Some),
        Base::Smollm2 => Ok(race.smollm2.clone()),
    }
}

fn lengths_of(race: &Race, row: &Training, model: &Path) -> Result<Lengths> {
    match (row.fixed, row.base, &race.dataset) {
        (Some(tokens), ..) => Ok(lengths::fixed(tokens)),
        (None, Base::Smollm2, Some(dataset)) => lengths::of_dataset(dataset, model),
        _ => mission_lengths(race),
    }
}

fn mission_lengths(race: &Race) -> Result<Lengths> {
    let Some(path) = &race.lengths else {
        return Ok(lengths::alpaca_like());
    };
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn has_compiler() -> bool {
    let named = std::env::var_os("CXX").map(PathBuf::from);
    let usual = ["c++", "g++", "clang++"].map(PathBuf::from);
    let mut names = named.into_iter().chain(usual);
    names.any(|name| Command::new(name).arg("--version").output().is_ok())
}
