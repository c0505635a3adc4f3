//! Do the non-linearities run at the speed of memory? M rows of BLOOM-1b4's MLP.
//! With slopes in bytes, as training runs them, and against torch: `cargo xtask bench --row kernels`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lowrank_kernels::activation::{Activation, backward, forward};
use lowrank_kernels::elementwise::uniform;
use lowrank_kernels::{Context, Mat, MatMut};
use std::hint::black_box;

const I: usize = 8192;

fn random(len: usize) -> Vec<f32> {
    (0..len).map(|i| 8.0 * uniform(7, i as u64) - 4.0).collect()
}

fn bench(criterion: &mut Criterion) {
    let context = Context::default();
    for f in [Activation::GeluTanh, Activation::Gelu, Activation::Silu] {
        let mut group = criterion.benchmark_group(format!("{f:?}"));
        for m in [1, 16, 64, 256, 1024] {
            let (x, dy) = (random(m * I), random(m * I));
            let (x, dy) = (Mat::dense(&x, m, I), Mat::dense(&dy, m, I));
            let mut y = vec![0.0; m * I];
            group.throughput(Throughput::Bytes((2 * m * I * 4) as u64));
            group.bench_function(BenchmarkId::new("forward", m), |b| {
                b.iter(|| forward(&context, f, x, MatMut::dense(black_box(&mut y), m, I)));
            });
            group.throughput(Throughput::Bytes((3 * m * I * 4) as u64));
            group.bench_function(BenchmarkId::new("backward", m), |b| {
                b.iter(|| backward(&context, f, x, dy, MatMut::dense(black_box(&mut y), m, I)));
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
