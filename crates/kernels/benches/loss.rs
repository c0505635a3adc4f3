//! What does cross-entropy with its gradient cost? M label positions over the vocabulary of
//! `bloom-1b4-zh`. Logits are overwritten by their gradient, so from the second round on they are small: the work
//! is the same. Against torch: `cargo xtask bench --row kernels`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lowrank_kernels::elementwise::uniform;
use lowrank_kernels::loss::{CrossEntropy, cross_entropy};
use lowrank_kernels::{Context, MatMut};

const V: usize = 46_145;

fn bench(criterion: &mut Criterion) {
    let context = Context::default();
    let mut group = criterion.benchmark_group("cross_entropy");
    for m in [1, 16, 64, 256, 1024] {
        let mut logits: Vec<f32> = (0..m * V).map(|i| 9.0 * uniform(7, i as u64)).collect();
        let targets: Vec<u32> = (0..m).map(|r| (r * 977 % V) as u32).collect();
        let (weights, mut losses) = (vec![0.5; m], vec![0.0; m]);
        group.throughput(Throughput::Bytes((2 * m * V * 4) as u64));
        group.bench_function(BenchmarkId::new("loss and gradient", m), |b| {
            b.iter(|| {
                let work = CrossEntropy {
                    targets: &targets,
                    weights: &weights,
                    label_smoothing: 0.0,
                    gradient: true,
                };
                let logits = MatMut::dense(&mut logits, m, V);
                cross_entropy(&context, logits, work, &mut losses);
            });
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
