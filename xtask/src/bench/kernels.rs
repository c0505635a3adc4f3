//! Attention, norm, activation and loss against torch's, at the mission's shapes, as training in bf16 calls them.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use kernels::activation::{Activation, slope};
use kernels::attention::{self, Layout, Segment, Shape};
use kernels::gemm::Precision;
use kernels::loss::{CrossEntropy, cross_entropy};
use kernels::norm::{self, Norm};
use kernels::{Context, Mat, MatMut};
use serde_json::json;

use super::Race;
use super::gemm::{best_seconds, numbers};
use super::lines::{self, Line};
use super::race::{median, ratios, spread};

/// Times our kernels and prints a line of JSON for each.
#[derive(Args)]
pub(crate) struct KernelsArgs {
    /// Tokens.
    #[arg(long, value_delimiter = ',', default_value = ROWS)]
    rows: Vec<usize>,
    /// Only this kernel.
    #[arg(long)]
    kernel: Option<String>,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
}

const ROWS: &str = "1,16,64,256,1024";
/// glibc's malloc keeps what is freed. By itself it gives large blocks back, and torch, whose results are new ones each
/// time, then spends most of its time in page faults.
const KEEP_FREED: [(&str, &str); 2] = [
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "100000000000"),
];
pub(crate) const HEADS: usize = 16;
pub(crate) const HEAD_DIM: usize = 128;
const HIDDEN: usize = HEADS * HEAD_DIM;
const INNER: usize = 8192;
const VOCABULARY: usize = 46_145;
/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Both,
    /// With a second forward pass before the backward pass: training keeps what went into norms, not what came out.
    AsTrained,
}

type Make = fn(usize) -> Box<dyn Timed>;

/// `bench_kernels.py` has the same.
const KERNELS: [(&str, Make, &[Pass]); 4] = [
    (
        "attention",
        |m| Box::new(Attention::new(m, Precision::Bf16)),
        &[Pass::Forward, Pass::Both],
    ),
    (
        "norm",
        |m| Box::new(LayerNorm::new(m)),
        &[Pass::Forward, Pass::Both, Pass::AsTrained],
    ),
    (
        "activation",
        |m| Box::new(Gelu::new(m)),
        &[Pass::Forward, Pass::Both],
    ),
    (
        "loss",
        |m| Box::new(Loss::new(m)),
        &[Pass::Forward, Pass::Both],
    ),
];

impl Pass {
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Both => "forward and backward",
            Self::AsTrained => "as trained",
        }
    }
}

/// One kernel with its buffers, which stay the same from run to run: what fits into the caches is there, as it is
/// in a step when the product before it is done.
trait Timed {
    fn forward(&mut self, context: &Context);
    fn backward(&mut self, context: &Context);

    fn run(&mut self, context: &Context, pass: Pass) {
        self.forward(context);
        if pass == Pass::AsTrained {
            self.forward(context);
        }
        if pass != Pass::Forward {
            self.backward(context);
        }
    }
}

/// One causal row of BLOOM's.
pub(crate) struct Attention {
    precision: Precision,
    tokens: usize,
    slopes: Vec<f32>,
    qkv: Vec<f32>,
    out: Vec<f32>,
    dout: Vec<f32>,
    dqkv: Vec<f32>,
}

impl Attention {
    pub(crate) fn new(tokens: usize, precision: Precision) -> Self {
        Self {
            precision,
            tokens,
            slopes: (1..=HEADS as i32).map(|head| 0.7f32.powi(head)).collect(),
            qkv: numbers(tokens * 3 * HIDDEN),
            out: vec![0.0; tokens * HIDDEN],
            dout: numbers(tokens * HIDDEN),
            dqkv: vec![0.0; tokens * 3 * HIDDEN],
        }
    }

    pub(crate) fn forward(&mut self, context: &Context) {
        let tokens = self.tokens;
        let qkv = Mat::dense(&self.qkv, tokens, 3 * HIDDEN);
        let out = MatMut::dense(&mut self.out, tokens, HIDDEN);
        let shape = shape(&self.slopes, self.precision);
        attention::forward(context, &shape, qkv, &[whole(tokens)], out);
    }

    pub(crate) fn backward(&mut self, context: &Context) {
        let tokens = self.tokens;
        let qkv = Mat::dense(&self.qkv, tokens, 3 * HIDDEN);
        let dout = Mat::dense(&self.dout, tokens, HIDDEN);
        let dqkv = MatMut::dense(&mut self.dqkv, tokens, 3 * HIDDEN);
        let (shape, segments) = (shape(&self.slopes, self.precision), [whole(tokens)]);
        attention::backward(context, &shape, qkv, &segments, dout, dqkv);
    }
}

/// Queries, keys and values of a head side by side.
fn shape(slopes: &[f32], precision: Precision) -> Shape<'_> {
    let at = |kind: usize| Layout {
        offset: kind * HEAD_DIM,
        stride: 3 * HEAD_DIM,
    };
    Shape {
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        scale: 0.088,
        query: at(0),
        key: at(1),
        value: at(2),
        alibi_slopes: Some(slopes),
        sliding_window: None,
        precision,
    }
}

fn whole(len: usize) -> Segment {
    Segment {
        start: 0,
        len,
        prefix: None,
    }
}

impl Timed for Attention {
    fn forward(&mut self, context: &Context) {
        Self::forward(self, context);
    }

    fn backward(&mut self, context: &Context) {
        Self::backward(self, context);
    }
}

/// The gradient is added to that of the residual, in the same pass.
struct LayerNorm {
    tokens: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    y: Vec<f32>,
    stats: Vec<f32>,
    dy: Vec<f32>,
    dx: Vec<f32>,
}

impl LayerNorm {
    const NORM: Norm = Norm {
        centred: true,
        eps: 1e-5,
    };

    fn new(tokens: usize) -> Self {
        Self {
            tokens,
            x: numbers(tokens * HIDDEN),
            weight: numbers(HIDDEN),
            bias: numbers(HIDDEN),
            y: vec![0.0; tokens * HIDDEN],
            stats: vec![0.0; tokens * 2],
            dy: numbers(tokens * HIDDEN),
            dx: vec![0.0; tokens * HIDDEN],
        }
    }
}

impl Timed for LayerNorm {
    fn forward(&mut self, context: &Context) {
        let x = Mat::dense(&self.x, self.tokens, HIDDEN);
        let y = MatMut::dense(&mut self.y, self.tokens, HIDDEN);
        let (weight, bias) = (&self.weight, Some(&self.bias[..]));
        norm::forward(context, Self::NORM, x, weight, bias, y, &mut self.stats);
    }

    fn backward(&mut self, context: &Context) {
        let x = Mat::dense(&self.x, self.tokens, HIDDEN);
        let dy = Mat::dense(&self.dy, self.tokens, HIDDEN);
        let dx = MatMut::dense(&mut self.dx, self.tokens, HIDDEN);
        let (stats, weight) = (&self.stats, &self.weight);
        norm::backward(context, Self::NORM, x, stats, weight, dy, dx, true);
    }
}

/// GELU by tanh with its slopes in bytes.
struct Gelu {
    tokens: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    slopes: Vec<f32>,
    dy: Vec<f32>,
    dx: Vec<f32>,
}

impl Gelu {
    fn new(tokens: usize) -> Self {
        let size = tokens * INNER;
        Self {
            tokens,
            x: numbers(size).iter().map(|x| 4.0 * x).collect(),
            y: vec![0.0; size],
            slopes: vec![0.0; tokens * slope::slope_cols(INNER)],
            dy: numbers(size),
            dx: vec![0.0; size],
        }
    }
}

impl Timed for Gelu {
    fn forward(&mut self, context: &Context) {
        let (tokens, f) = (self.tokens, Activation::GeluTanh);
        let x = Mat::dense(&self.x, tokens, INNER);
        let y = MatMut::dense(&mut self.y, tokens, INNER);
        let slopes = MatMut::dense(&mut self.slopes, tokens, slope::slope_cols(INNER));
        slope::forward(context, f, x, y, slopes);
    }

    fn backward(&mut self, context: &Context) {
        let slopes = Mat::dense(&self.slopes, self.tokens, slope::slope_cols(INNER));
        let dy = Mat::dense(&self.dy, self.tokens, INNER);
        let dx = MatMut::dense(&mut self.dx, self.tokens, INNER);
        slope::multiply(context, slopes, dy, dx);
    }
}

/// Cross-entropy; its gradient takes the place of the logits, so that from the second run on they are small.
struct Loss {
    logits: Vec<f32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    losses: Vec<f32>,
}

impl Loss {
    fn new(tokens: usize) -> Self {
        let logits = numbers(tokens * VOCABULARY);
        Self {
            logits: logits.iter().map(|x| 4.0 * x).collect(),
            targets: (0..tokens)
                .map(|row| (row * 977 % VOCABULARY) as u32)
                .collect(),
            weights: vec![1.0; tokens],
            losses: vec![0.0; tokens],
        }
    }

    fn work(&mut self, context: &Context, gradient: bool) {
        let work = CrossEntropy {
            targets: &self.targets,
            weights: &self.weights,
            label_smoothing: 0.0,
            gradient,
        };
        let logits = MatMut::dense(&mut self.logits, self.weights.len(), VOCABULARY);
        cross_entropy(context, logits, work, &mut self.losses);
    }
}

impl Timed for Loss {
    fn forward(&mut self, context: &Context) {
        self.work(context, false);
    }

    fn backward(&mut self, context: &Context) {
        self.work(context, true);
    }

    /// The gradient comes with the loss.
    fn run(&mut self, context: &Context, pass: Pass) {
        match pass {
            Pass::Forward => self.forward(context),
            Pass::Both | Pass::AsTrained => self.backward(context),
        }
    }
}

/// Runs it.
pub(crate) fn run(args: &KernelsArgs) {
    let context = Context::default();
    let asked = |name: &str| args.kernel.as_ref().is_none_or(|asked| asked == name);
    for (kernel, make, passes) in KERNELS.into_iter().filter(|(name, ..)| asked(name)) {
        for m in &args.rows {
            let mut timed = make(*m);
            for pass in passes {
                let seconds = best_seconds(args.seconds, || timed.run(&context, *pass));
                println!(
                    "{}",
                    json!({"kernel": kernel, "pass": pass.name(), "m": m, "seconds": seconds})
                );
            }
        }
    }
}

/// Races.
pub(crate) fn race(race: &Race) -> Result<()> {
    race.machine()?;
    let (rows, seconds) = if race.smoke {
        ("1,16", "0.01")
    } else {
        (ROWS, "0.2")
    };
    let options = ["--rows", rows, "--seconds", seconds];
    let with_options = |mut command: Command| {
        command.args(options);
        command
    };
    let lines = lines::run(
        race.runs,
        || {
            let mut command = with_options(race.peer("bench_kernels.py"));
            command.envs(KEEP_FREED);
            command
        },
        || with_options(race.side("kernels")),
        &["kernel", "pass"],
    )?;
    println!("\nOurs; torch's fastest way, in bf16 but for the loss; ratio: median (min–max)\n");
    println!("| M | {} |", rows.replace(',', " | "));
    println!("|---{}|", "|---".repeat(rows.split(',').count()));
    for (name, cells) in table(&lines) {
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// A line for each kernel and pass, a cell for each number of tokens.
fn table(lines: &[Line]) -> Vec<(&str, Vec<String>)> {
    let mut table: Vec<(&str, Vec<String>)> = Vec::new();
    for line in lines {
        match table.iter_mut().find(|(name, _)| *name == line.name) {
            Some((_, cells)) => cells.push(cell(line)),
            None => table.push((&line.name, vec![cell(line)])),
        }
    }
    table
}

fn cell(line: &Line) -> String {
    let [ours, peer] = line.figures("seconds");
    let mut ways: Vec<&str> = line
        .peer
        .iter()
        .filter_map(|run| run["way"].as_str())
        .collect();
    ways.dedup();
    format!(
        "{}; {} {}; {}×",
        time(median(&ours)),
        ways.join(" or "),
        time(median(&peer)),
        spread(&ratios(&peer, &ours))
    )
}

fn time(seconds: f64) -> String {
    if seconds < 1e-3 {
        format!("{:.1} µs", seconds * 1e6)
    } else {
        format!("{:.2} ms", seconds * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_of_every_kernel_runs_and_leaves_numbers() {
        let context = Context::new(Some(2), None);
        for (_, make, passes) in KERNELS {
            for pass in passes {
                make(3).run(&context, *pass);
            }
        }
        let (mut norm, mut gelu) = (LayerNorm::new(3), Gelu::new(3));
        norm.run(&context, Pass::AsTrained);
        gelu.run(&context, Pass::Both);
        for made in [&norm.y, &norm.dx, &gelu.y, &gelu.dx] {
            assert!(made.iter().all(|x| x.is_finite()) && made.iter().any(|x| *x != 0.0));
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_number_of_tokens() {
        let line = |name: &str, seconds: f64| Line {
            name: name.to_owned(),
            ours: vec![json!({"seconds": seconds})],
            peer: vec![json!({"seconds": 2.0 * seconds, "way": "sdpa"})],
        };
        let lines = [line("a", 1e-5), line("b", 1e-5), line("a", 4e-3)];
        let got = table(&lines);
        assert_eq!(got[0].0, "a");
        assert_eq!(
            got[0].1,
            [
                "10.0 µs; sdpa 20.0 µs; 2.00 (2.00–2.00)×",
                "4.00 ms; sdpa 8.00 ms; 2.00 (2.00–2.00)×"
            ]
        );
        assert_eq!(got[1].1.len(), 1);
    }
}
