//! Does dropout run at the speed of memory? M rows of BLOOM-1b4's hidden size, set and added.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lowrank_kernels::dropout::{Dropout, dropout};
use lowrank_kernels::{Context, Mat, MatMut};
use std::hint::black_box;

const D: usize = 2048;

fn bench(criterion: &mut Criterion) {
    let context = Context::default();
    let mask = Dropout {
        probability: 0.05,
        key: 7,
        first_row: 0,
    };
    let mut group = criterion.benchmark_group("dropout");
    for m in [1, 16, 64, 256, 1024] {
        let (x, mut y) = (vec![1.0; m * D], vec![0.0; m * D]);
        let x = Mat::dense(&x, m, D);
        group.throughput(Throughput::Elements((m * D) as u64));
        for (name, add) in [("set", false), ("add", true)] {
            group.bench_function(BenchmarkId::new(name, m), |b| {
                b.iter(|| {
                    let y = MatMut::dense(black_box(&mut y), m, D);
                    dropout(&context, x, mask, y, add);
                });
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
