//! Products with frozen matrices against torch's, at the mission's shapes.

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;
use kernels::{Context, Isa, Mat, MatMut, Precision, Product, Stored, StoredDtype, gemm};
use serde_json::json;

use super::Race;
use super::dtype::Dtype;
use super::lines;
use super::machine::line_passes_in;
use super::race::{median, ratios, said, spread};

/// Times our products and prints a line of JSON for each.
#[derive(Args)]
pub(crate) struct GemmArgs {
    /// Rows of x.
    #[arg(long, value_delimiter = ',', default_value = ROWS)]
    rows: Vec<usize>,
    /// Seconds for each product.
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// What is multiplied in.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
}

/// Name, output and input features; `bench_gemm.py` has the same.
const SHAPES: [(&str, usize, usize); 4] = [
    ("qkv", 6144, 2048),
    ("dense", 2048, 2048),
    ("up", 8192, 2048),
    ("down", 2048, 8192),
];
const ROWS: &str = "1,16,64,256,512,1024";
/// Larger than any cache: a layer's weights are cold when their turn comes.
const POOL_BYTES: usize = 256 << 20;

/// One product.
pub(crate) struct Case {
    pub(crate) out: usize,
    pub(crate) inputs: usize,
    pub(crate) m: usize,
    pub(crate) product: Product,
    pub(crate) precision: Precision,
}

/// Weights of which each product takes the next, as a model's layers do.
pub(crate) struct Weights(Vec<u8>);

impl Weights {
    /// Any bf16 between 2⁻⁷ and 2⁻⁶.
    pub(crate) fn new(bytes: usize) -> Self {
        let number = |at: usize| 0x3c00 + (at.wrapping_mul(2_654_435_761) >> 9 & 0x7f) as u16;
        Self(
            (0..bytes / 2)
                .flat_map(|at| number(at).to_le_bytes())
                .collect(),
        )
    }

    /// GFLOP/s of the best run of those that fit into `seconds`, at least two.
    pub(crate) fn best_rate(&self, context: &Context, case: &Case, seconds: f64) -> f64 {
        let Case {
            out,
            inputs,
            m,
            product,
            precision,
        } = *case;
        // As the models' files have it, whatever they are multiplied in.
        let dtype = StoredDtype::Bf16;
        let size = out * inputs * dtype.size();
        let (k, n) = product.sizes(out, inputs);
        let x = numbers(m * k);
        let mut y = vec![0.0f32; m * n];
        let mut parts = self.0.chunks_exact(size).cycle();
        let best = best_seconds(seconds, || {
            let bytes = parts.next().expect("the pool holds the largest matrix");
            let weights = Stored::new(bytes, dtype, out, inputs);
            let (x, y) = (Mat::dense(&x, m, k), MatMut::dense(&mut y, m, n));
            gemm(context, x, weights, product, None, y, false, precision);
        });
        (2 * m * out * inputs) as f64 / best * 1e-9
    }
}

/// From -1 to 1.
pub(crate) fn numbers(len: usize) -> Vec<f32> {
    (0..len)
        .map(|at| (at * 7919 % 977) as f32 / 488.0 - 1.0)
        .collect()
}

/// The fastest of the runs that fit into `seconds`, at least two.
pub(crate) fn best_seconds(seconds: f64, mut run: impl FnMut()) -> f64 {
    let (begin, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 2 || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Runs it.
pub(crate) fn run(args: &GemmArgs) {
    let (context, weights) = (
        Context::new(None, Some(Isa::detect())),
        Weights::new(POOL_BYTES),
    );
    for product in [Product::Nt, Product::Nn] {
        for (shape, out, inputs) in SHAPES {
            for m in &args.rows {
                let case = Case {
                    out,
                    inputs,
                    m: *m,
                    product,
                    precision: args.dtype.precision(),
                };
                let gflops = weights.best_rate(&context, &case, args.seconds);
                let product = format!("{product:?}");
                let apart = line_passes_in(20_000);
                println!(
                    "{}",
                    json!({"product": product, "shape": shape, "m": m, "gflops": gflops, "line_passes_in_ns": apart})
                );
            }
        }
    }
}

/// Races.
pub(crate) fn race(race: &Race) -> Result<()> {
    let [dtype, peer_dtype] = race.dtypes([Dtype::Bf16; 2]);
    let peak = dtype.peak(&race.machine()?).context("no peak")?;
    let (rows, seconds) = if race.smoke {
        ("1,16", "0.01")
    } else {
        (ROWS, "0.3")
    };
    let options = ["--rows", rows, "--seconds", seconds];
    let peer = || {
        let mut command = race.peer("bench_gemm.py");
        command.args(["--json", "--shapes", "qkv,dense,up,down"]);
        command.args(options).args(["--dtype", peer_dtype.name()]);
        command
    };
    let ours = || {
        let mut command = race.side("gemm");
        command.args(options).args(["--dtype", dtype.name()]);
        command
    };
    let lines = lines::run(race.runs, peer, ours, &["product", "shape", "m"])?;
    println!(
        "\nNt: `y = x·Wᵀ`, Nn: `dx = dy·W`; GFLOP/s; ours in {} with weights stored in bf16, torch's all in {}\n",
        dtype.short(),
        peer_dtype.short()
    );
    println!(
        "| product, shape, M | ours: median (min–max) | torch | ratio, pair by pair | of peak | reach |"
    );
    println!("|---|---|---|---|---|---|");
    for line in &lines {
        let m = line.ours[0]["m"].as_u64().unwrap_or(0);
        let [ours, peer] = line.figures("gflops");
        print_line(&line.name, m, &ours, &peer, peak);
    }
    Ok(())
}

fn print_line(name: &str, m: u64, ours: &[f64], peer: &[f64], peak: f64) {
    let ratios = ratios(ours, peer);
    let share = median(ours) / peak;
    let least = if m <= 64 { 1.3 } else { 1.0 };
    let ratio = format!("≥ {least:.1}×: {}", said(median(&ratios) >= least));
    let of_peak = if m >= 512 {
        format!("; ≥ 85 %: {}", said(share >= 0.85))
    } else {
        String::new()
    };
    println!(
        "| {name} | {} | {} | {}× | {:.0} % | {ratio}{of_peak} |",
        spread(ours),
        spread(peer),
        spread(&ratios),
        100.0 * share
    );
}
