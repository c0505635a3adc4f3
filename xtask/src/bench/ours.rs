//! Our side of the race: the training loop on rows of given lengths and random ids, as `bench_peft.py` runs the peer's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use durable::Disk;
use engine::cpu::Cpu;
use formats::adapter_config::OneOrMany;
use formats::hf_config::HfConfig;
use formats::weights::WeightStore;
use model::{Decoder, families};
use peft::LoraConfig;
use serde_json::json;
use train::{
    AdapterFiles, DecoderLearner, Event, Examples, Observer, Plan, Row, StopFlag, TrainError,
    Trainer, TrainingArguments,
};

use super::dtype::Dtype;

/// Times our training loop and prints one line of JSON.
#[derive(Args)]
pub(crate) struct OursArgs {
    /// Base model folder.
    #[arg(long)]
    model: PathBuf,
    /// `[prompt, all]` token counts, as JSON.
    #[arg(long)]
    lengths: PathBuf,
    /// Tokens at the beginning that are the same in all rows, counted in the lengths.
    #[arg(long, default_value_t = 0)]
    opening: usize,
    /// Updates that are timed.
    #[arg(long, default_value_t = 5)]
    updates: usize,
    /// Updates before those.
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// What is computed in.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// Worker threads.
    #[arg(long)]
    threads: Option<usize>,
    /// A delta on every linear layer instead of PEFT's default targets.
    #[arg(long)]
    all_linear: bool,
    /// Rank of the deltas.
    #[arg(long, default_value_t = 8)]
    rank: u32,
    /// One of TrainingArguments, as `name=value`; repeat for several.
    #[arg(long = "argument", value_name = "NAME=VALUE")]
    arguments: Vec<String>,
}

/// Rows of an update.
pub(crate) const ROWS_PER_UPDATE: usize = 8;

/// Runs it.
pub(crate) fn run(args: &OursArgs) -> Result<()> {
    let lengths: Vec<[usize; 2]> = serde_json::from_slice(&std::fs::read(&args.lengths)?)?;
    let config = HfConfig::open(&args.model)?;
    let (spec, tree) = (
        families::decoder_spec(&config)?,
        families::module_tree(&config)?,
    );
    let weights = WeightStore::open(&args.model)?;
    let backend = Arc::new(Cpu::new(args.threads, args.dtype.for_engine(), None));
    let mut decoder = Decoder::load(backend, spec, &weights)?;
    let lora = LoraConfig {
        r: args.rank,
        target_modules: args
            .all_linear
            .then(|| OneOrMany::One("all-linear".to_owned())),
        ..LoraConfig::default()
    };
    let plan = peft::get_peft_model(&mut decoder, &tree, &lora, 42)?;
    let place = tempfile::tempdir()?;
    let steps = args.warmup + args.updates;
    let out = place.path().join("out");
    let arguments = arguments(&out, steps, &args.arguments)?;
    let rows = Rows {
        lengths,
        opening: args.opening,
        vocab_size: decoder.spec().vocab_size,
        count: steps * ROWS_PER_UPDATE,
    };
    let run_plan = Plan::new(&arguments, rows.len(), None)?;
    let mut clock = Clock {
        ends: vec![Instant::now()],
        cpu: Vec::new(),
        first: None,
        tokens: Vec::new(),
        losses: Vec::new(),
    };
    let files = AdapterFiles {
        plan: &plan,
        tree: &tree,
        base: Some(&weights),
        any_base: false,
        tokenizer: None,
    };
    let decoder = &mut decoder;
    let mut learner = DecoderLearner {
        decoder,
        files: &files,
        num_parameters_without_embeddings: plan.tree.num_parameters_without_embeddings(),
    };
    Trainer {
        plan: &run_plan,
        learner: &mut learner,
        examples: &rows,
        eval_examples: None,
        identity: BTreeMap::new(),
        stop: StopFlag::default(),
        observer: &mut clock,
        disk: Disk::real(),
    }
    .train()?;
    println!("{}", clock.report(args.warmup));
    Ok(())
}

fn arguments(output_dir: &Path, steps: usize, named: &[String]) -> Result<TrainingArguments> {
    let mut arguments = TrainingArguments {
        output_dir: output_dir.to_string_lossy().into_owned(),
        per_device_train_batch_size: 1,
        gradient_accumulation_steps: ROWS_PER_UPDATE,
        max_steps: steps as i64,
        logging_steps: 1.0,
        save_strategy: train::SaveStrategy::No,
        train_sampling_strategy: train::SamplingStrategy::Sequential,
        ..TrainingArguments::default()
    };
    for pair in named {
        let (name, value) = pair.split_once('=').context("an argument is NAME=VALUE")?;
        arguments.set_text(name, value)?;
    }
    Ok(arguments)
}

struct Rows {
    lengths: Vec<[usize; 2]>,
    opening: usize,
    vocab_size: usize,
    count: usize,
}

impl Examples for Rows {
    fn len(&self) -> usize {
        self.count
    }

    fn example(&self, index: usize) -> std::result::Result<Row, TrainError> {
        let [prompt, all] = self.lengths[index % self.lengths.len()];
        // The opening is row 0's.
        let row = |at: usize| if at < self.opening { 0 } else { index };
        let id = |at: usize| 4 + ((row(at) * 7919 + at * 104_729) % (self.vocab_size - 4)) as u32;
        let input_ids: Vec<u32> = (0..all).map(id).collect();
        let label = |(at, id): (usize, &u32)| if at < prompt { -100 } else { *id as i32 };
        let labels = input_ids.iter().enumerate().map(label).collect();
        Ok(Row {
            index,
            input_ids,
            labels,
        })
    }
}

struct Clock {
    ends: Vec<Instant>,
    /// [`cpu_seconds`] at each of `ends`.
    cpu: Vec<f64>,
    /// From the launch of the process.
    first: Option<f64>,
    tokens: Vec<u64>,
    losses: Vec<f64>,
}

impl Observer for Clock {
    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Begin(_) => {
                self.ends = vec![Instant::now()];
                self.cpu = vec![cpu_seconds().unwrap_or(f64::NAN)];
            }
            Event::Update(update) => {
                self.ends.push(Instant::now());
                self.cpu.push(cpu_seconds().unwrap_or(f64::NAN));
                self.first
                    .get_or_insert_with(|| since_launch().unwrap_or(f64::NAN));
                self.tokens.push(update.tokens);
                self.losses.push(update.loss);
            }
            _ => {}
        }
    }
}

impl Clock {
    fn report(&self, warmup: usize) -> serde_json::Value {
        let pairs = self.ends.windows(2);
        let seconds: Vec<f64> = pairs
            .map(|pair| (pair[1] - pair[0]).as_secs_f64())
            .skip(warmup)
            .collect();
        let tokens = &self.tokens[warmup..];
        let cpu = self.cpu.last().unwrap_or(&f64::NAN) - self.cpu[warmup];
        json!({
            "seconds_per_update": seconds,
            "tokens": tokens,
            "tokens_per_second": tokens.iter().sum::<u64>() as f64 / seconds.iter().sum::<f64>(),
            "cores_busy": cpu / seconds.iter().sum::<f64>(),
            "first_update_seconds": self.first,
            "peak_rss_bytes": status_bytes("VmHWM:").ok(),
            "losses": self.losses,
        })
    }
}

/// A size of `/proc/self/status`, in bytes.
pub(crate) fn status_bytes(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .context("no such line")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("no size")?.parse()?;
    Ok(kilobytes * 1024)
}

/// Seconds since this process was started, as the peer counts them.
pub(crate) fn since_launch() -> Result<f64> {
    let [start] = stat_seconds([22])?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime
        .split_whitespace()
        .next()
        .context("no uptime")?
        .parse()?;
    Ok(uptime - start)
}

/// Seconds of the cores that this process has had, the system's for it among them.
fn cpu_seconds() -> Result<f64> {
    let [user, system] = stat_seconds([14, 15])?;
    Ok(user + system)
}

/// Times of `/proc/self/stat`, by the numbers of their fields.
fn stat_seconds<const N: usize>(fields: [usize; N]) -> Result<[f64; N]> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field may hold spaces, and ends with the last parenthesis.
    let rest = stat.rsplit(')').next().context("stat")?;
    let rest: Vec<&str> = rest.split_whitespace().collect();
    let mut seconds = [0.0; N];
    for (seconds, field) in seconds.iter_mut().zip(fields) {
        // Linux counts in hundredths whatever its own clock does.
        *seconds = rest.get(field - 3).context("stat")?.parse::<f64>()? / 100.0;
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_their_opening_and_nothing_behind_it() {
        let rows = Rows {
            lengths: vec![[2, 9], [5, 12]],
            opening: 4,
            vocab_size: 1_000,
            count: 8,
        };
        let of = |index| rows.example(index).expect("a row");
        let (one, other) = (of(3), of(4));
        assert_eq!(one.input_ids.len(), 12);
        assert_eq!(other.input_ids.len(), 9);
        assert_eq!(one.input_ids[..4], other.input_ids[..4]);
        assert!((4..9).all(|at| one.input_ids[at] != other.input_ids[at]));
        assert_eq!(
            one.labels
                .iter()
                .take_while(|label| **label == -100)
                .count(),
            5
        );
    }
}
