//! Does attention cost little beside the products? BLOOM-1b4's shape: 16 heads of 128, `ALiBi`, one segment
//! of M tokens forward and backward, and one token over a cache of M.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lowrank_kernels::attention::{Layout, Segment, Shape, backward, cached, forward};
use lowrank_kernels::elementwise::uniform;
use lowrank_kernels::gemm::Precision;
use lowrank_kernels::{Context, Mat, MatMut};
use std::hint::black_box;

const HEADS: usize = 16;
const SIZE: usize = 128;
const D: usize = HEADS * SIZE;

fn random(len: usize) -> Vec<f32> {
    (0..len).map(|i| 2.0 * uniform(7, i as u64) - 1.0).collect()
}

/// Queries, keys and values of a head side by side, as BLOOM has them.
fn shape(slopes: &[f32], precision: Precision) -> Shape<'_> {
    let at = |kind: usize| Layout {
        offset: kind * SIZE,
        stride: 3 * SIZE,
    };
    Shape {
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: SIZE,
        scale: 0.088,
        query: at(0),
        key: at(1),
        value: at(2),
        alibi_slopes: Some(slopes),
        sliding_window: None,
        precision,
    }
}

fn bench(criterion: &mut Criterion) {
    let context = Context::default();
    let slopes: Vec<f32> = (1..=HEADS as i32).map(|h| 0.7f32.powi(h)).collect();
    for m in [1, 16, 64, 256, 1024] {
        let qkv = random(m * 3 * D);
        let qkv = Mat::dense(&qkv, m, 3 * D);
        let segments = [Segment {
            start: 0,
            len: m,
            prefix: None,
        }];
        let mut out = vec![0.0; m * D];
        let dout = random(m * D);
        let mut dqkv = vec![0.0; m * 3 * D];
        let mut group = criterion.benchmark_group("attention");
        for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            let shape = shape(&slopes, precision);
            // Two products of half a square.
            group.throughput(Throughput::Elements((2 * m * m * D) as u64));
            group.bench_function(BenchmarkId::new(format!("{name} forward"), m), |b| {
                b.iter(|| {
                    let out = MatMut::dense(black_box(&mut out), m, D);
                    forward(&context, &shape, qkv, &segments, out);
                });
            });
            group.throughput(Throughput::Elements((5 * m * m * D) as u64));
            group.bench_function(BenchmarkId::new(format!("{name} backward"), m), |b| {
                b.iter(|| {
                    let dout = Mat::dense(&dout, m, D);
                    let dqkv = MatMut::dense(black_box(&mut dqkv), m, 3 * D);
                    backward(&context, &shape, qkv, &segments, dout, dqkv);
                });
            });
        }
        let shape = shape(&slopes, Precision::F32);
        let (mut keys, mut values) = (random(m * D), random(m * D));
        // Bytes of the cache that one token reads.
        group.throughput(Throughput::Bytes((2 * m * D * 4) as u64));
        group.bench_function(BenchmarkId::new("decode", m), |b| {
            b.iter(|| {
                let token = Mat::dense(qkv.row(0), 1, 3 * D);
                let out = MatMut::dense(&mut out[..D], 1, D);
                let past = m - 1;
                cached(&context, &shape, token, &mut keys, &mut values, past, out);
            });
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
