//! Do the norms run at the speed of memory? `LayerNorm` of M rows of BLOOM-1b4's hidden size, forward and
//! backward. Against torch: `cargo xtask bench --row kernels`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lowrank_kernels::elementwise::uniform;
use lowrank_kernels::norm::{Norm, backward, forward};
use lowrank_kernels::{Context, Mat, MatMut};
use std::hint::black_box;

const D: usize = 2048;

fn random(len: usize) -> Vec<f32> {
    (0..len).map(|i| 2.0 * uniform(7, i as u64) - 1.0).collect()
}

fn bench(criterion: &mut Criterion) {
    let context = Context::default();
    let norm = Norm {
        centred: true,
        eps: 1e-5,
    };
    let (weight, bias) = (random(D), random(D));
    let mut group = criterion.benchmark_group("norm");
    for m in [1, 16, 64, 256, 1024] {
        let (x, dy) = (random(m * D), random(m * D));
        let (x, dy) = (Mat::dense(&x, m, D), Mat::dense(&dy, m, D));
        let (mut y, mut stats) = (vec![0.0; m * D], vec![0.0; 2 * m]);
        group.throughput(Throughput::Bytes((2 * m * D * 4) as u64));
        group.bench_function(BenchmarkId::new("forward", m), |b| {
            b.iter(|| {
                let y = MatMut::dense(black_box(&mut y), m, D);
                forward(&context, norm, x, &weight, Some(&bias), y, &mut stats);
            });
        });
        group.throughput(Throughput::Bytes((4 * m * D * 4) as u64));
        group.bench_function(BenchmarkId::new("backward", m), |b| {
            b.iter(|| {
                let dx = MatMut::dense(black_box(&mut y), m, D);
                backward(&context, norm, x, &stats, &weight, dy, dx, true);
            });
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
