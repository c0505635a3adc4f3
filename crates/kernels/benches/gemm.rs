//! How near the frozen products come to the cores' peak, at bloom-1b4's shapes.
//!
//! Prints GFLOP/s and the share of the peak that a register loop reached in the same run; for one
//! row, where memory is the bound, GB/s of weights. `cargo bench -p lowrank-kernels --bench gemm`.
#![allow(
    clippy::print_stdout,
    missing_docs,
    reason = "a bench is a program that prints"
)]

use criterion::{BenchmarkId, Criterion, Throughput};
use lowrank_kernels::{
    Context, Mat, MatMut, Peak, Precision, Product, Stored, StoredDtype, gemm, peak,
};
use std::time::{Duration, Instant};

/// Name, output and input features.
const SHAPES: [(&str, usize, usize); 5] = [
    ("qkv", 6144, 2048),
    ("dense", 2048, 2048),
    ("up", 8192, 2048),
    ("down", 2048, 8192),
    ("head", 46145, 2048),
];
const ROWS: [usize; 5] = [1, 16, 64, 256, 1024];
/// Larger than any cache: a layer's weights are cold when their turn comes.
const WEIGHTS: usize = 256 << 20;

struct Bench {
    ctx: Context,
    weights: Vec<u8>,
    peak: Peak,
    lines: Vec<String>,
}

#[derive(Clone, Copy)]
struct Run {
    shape: (&'static str, usize, usize),
    m: usize,
    product: Product,
    dtype: StoredDtype,
    precision: Precision,
}

impl Run {
    fn flops(&self) -> usize {
        2 * self.m * self.shape.1 * self.shape.2
    }

    fn weight_bytes(&self) -> usize {
        self.shape.1 * self.shape.2 * self.dtype.size()
    }
}

impl Bench {
    fn new() -> Self {
        let ctx = Context::default();
        let peak = peak(&ctx);
        // Any bf16 between 2⁻⁷ and 2⁻⁶ twice over is also an f32 of that size.
        let weights = (0..WEIGHTS / 2)
            .flat_map(|i: usize| {
                (0x3c00 + (i.wrapping_mul(2_654_435_761) >> 9 & 0x7f) as u16).to_le_bytes()
            })
            .collect();
        Self {
            ctx,
            weights,
            peak,
            lines: Vec::new(),
        }
    }

    fn run(&mut self, criterion: &mut Criterion, run: Run) {
        let (name, out, input) = run.shape;
        let (k, n) = run.product.sizes(out, input);
        let x: Vec<f32> = (0..run.m * k)
            .map(|i| (i % 977) as f32 / 488.0 - 1.0)
            .collect();
        let mut y = vec![0.0f32; run.m * n];
        let mut best = Duration::MAX;
        let mut first = 0;
        let mut group =
            criterion.benchmark_group(format!("{:?}/{:?}/{name}", run.precision, run.product));
        group.throughput(Throughput::Elements(run.flops() as u64));
        group.bench_function(BenchmarkId::from_parameter(run.m), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    first = if first + 2 * run.weight_bytes() > WEIGHTS {
                        0
                    } else {
                        first + run.weight_bytes()
                    };
                    let bytes = &self.weights[first..][..run.weight_bytes()];
                    let w = Stored::new(bytes, run.dtype, out, input);
                    let (x, y) = (Mat::dense(&x, run.m, k), MatMut::dense(&mut y, run.m, n));
                    let start = Instant::now();
                    gemm(&self.ctx, x, w, run.product, None, y, false, run.precision);
                    let took = start.elapsed();
                    best = best.min(took);
                    total += took;
                }
                total
            });
        });
        group.finish();
        self.report(run, best);
    }

    fn report(&mut self, run: Run, best: Duration) {
        let seconds = best.as_secs_f64();
        let rate = run.flops() as f64 / seconds * 1e-9;
        let peak = match run.precision {
            Precision::F32 => self.peak.f32_gflops,
            Precision::Bf16 => self.peak.bf16_gflops,
        };
        self.lines.push(format!(
            "{:?} {:?} {:6} M {:4}: {rate:6.1} GFLOP/s, {:3.0} % of peak, {:5.1} GB/s",
            run.precision,
            run.product,
            run.shape.0,
            run.m,
            100.0 * rate / peak,
            run.weight_bytes() as f64 / seconds * 1e-9,
        ));
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    let mut bench = Bench::new();
    for (precision, dtype) in [
        (Precision::Bf16, StoredDtype::Bf16),
        (Precision::F32, StoredDtype::F32),
    ] {
        for product in [Product::Nt, Product::Nn] {
            for shape in SHAPES {
                let rows = ROWS.into_iter().filter(|m| shape.0 != "head" || *m <= 256);
                for m in rows {
                    // A head of 46145 × 2048 in f32 does not fit the pool.
                    if shape.1 * shape.2 * dtype.size() <= WEIGHTS {
                        bench.run(
                            &mut criterion,
                            Run {
                                shape,
                                m,
                                product,
                                dtype,
                                precision,
                            },
                        );
                    }
                }
            }
        }
    }
    println!(
        "threads {}, peak f32 {:.0}, bf16 {:.0} GFLOP/s",
        bench.ctx.threads().count(),
        bench.peak.f32_gflops,
        bench.peak.bf16_gflops
    );
    for line in &bench.lines {
        println!("{line}");
    }
}
