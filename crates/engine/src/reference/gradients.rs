//! Every gradient against central differences of its forward, in f64.

use super::grid::{Grid, dot};
use super::{activation, attention, lora, loss, norm};
use crate::shapes::{
    Activation, AttentionShape, Dropout, HeadLayout, LoraShape, Norm, Prefix, Rotation, Segment,
    uniform,
};

/// Values in about [-1.5, 1.5], none of them round.
fn random(rows: usize, cols: usize, key: u64) -> Grid {
    let values = (0..rows * cols)
        .map(|i| 3.0 * f64::from(uniform(key, i as u64)) - 1.5)
        .collect();
    Grid { rows, cols, values }
}

/// The scalar whose gradient is taken: a sum of the outputs with fixed random weights.
fn weighted(y: &Grid, weights: &Grid) -> f64 {
    dot(&y.values, &weights.values)
}

/// Compares `gradient` with `(f(x+h) - f(x-h)) / 2h` for every element of `x`.
fn check(what: &str, x: &Grid, gradient: &Grid, f: impl Fn(&Grid) -> f64) {
    assert_eq!((x.rows, x.cols), (gradient.rows, gradient.cols), "{what}");
    let step = 1e-5;
    let mut moved = x.clone();
    for i in 0..x.values.len() {
        moved.values[i] = x.values[i] + step;
        let above = f(&moved);
        moved.values[i] = x.values[i] - step;
        let below = f(&moved);
        moved.values[i] = x.values[i];
        let want = (above - below) / (2.0 * step);
        let got = gradient.values[i];
        // Truncation is of order step², cancellation of order 1e-16 / step.
        assert!(
            (got - want).abs() <= 1e-8 * (1.0 + want.abs()),
            "{what}[{i}]: got {got}, differences say {want}"
        );
    }
    assert!(
        gradient.values.iter().any(|g| g.abs() > 1e-3),
        "{what}: nothing was tested"
    );
}

#[test]
fn projection_gradients_are_those_of_the_product() {
    let (x, w, dy) = (random(3, 5, 1), random(4, 5, 2), random(3, 4, 3));
    check("dx", &x, &dy.times(&w), |x| {
        weighted(&x.times_transposed(&w), &dy)
    });
    check("dw", &w, &dy.transposed().times(&x), |w| {
        weighted(&x.times_transposed(w), &dy)
    });
}

#[test]
fn lora_gradients_hold_with_dropout() {
    let shape = LoraShape {
        rank: 2,
        scaling: 1.7,
        dropout: Some(Dropout {
            probability: 0.3,
            key: 42,
            first_row: 5,
        }),
    };
    let (x, a, b) = (random(4, 5, 1), random(2, 5, 2), random(3, 2, 3));
    let dy = random(4, 3, 4);
    let dropped = lora::dropped(&x, shape.dropout);
    assert!(dropped.values.contains(&0.0) && dropped.values.iter().any(|x| *x != 0.0));
    let forward = |x: &Grid, a: &Grid, b: &Grid| {
        weighted(&lora::delta(&lora::reduced(x, a, shape), b, shape), &dy)
    };
    let xa = lora::reduced(&x, &a, shape);
    let got = lora::backward(&x, &xa, &dy, &a, &b, shape);
    check("dx", &x, &got.dx, |x| forward(x, &a, &b));
    check("da", &a, &got.da, |a| forward(&x, a, &b));
    check("db", &b, &got.db, |b| forward(&x, &a, b));
}

#[test]
fn norm_gradients_hold_for_layer_and_rms() {
    for kind in [Norm::Layer { eps: 1e-2 }, Norm::Rms { eps: 1e-2 }] {
        let (x, w, b) = (random(3, 7, 1), random(1, 7, 2), random(1, 7, 3));
        let dy = random(3, 7, 4);
        let forward = |x: &Grid, w: &Grid, b: &Grid| {
            let stats = norm::statistics(kind, x);
            weighted(&norm::norm(x, &stats, &w.values, Some(&b.values)), &dy)
        };
        let stats = norm::statistics(kind, &x);
        let dx = norm::backward(kind, &x, &stats, &w.values, &dy);
        check("dx", &x, &dx, |x| forward(x, &w, &b));
        let dw = norm::normalised(&x, &stats)
            .zip(&dy, |x, d| x * d)
            .column_sums();
        check("dweight", &w, &dw, |w| forward(&x, w, &b));
        check("dbias", &b, &dy.column_sums(), |b| forward(&x, &w, b));
    }
}

const ACTIVATIONS: [Activation; 4] = [
    Activation::GeluTanh,
    Activation::Gelu,
    Activation::Silu,
    Activation::Relu,
];

#[test]
fn activation_gradients_are_the_derivatives() {
    for f in ACTIVATIONS {
        let (x, dy) = (random(4, 9, 1).scaled(3.0), random(4, 9, 2));
        let dx = x
            .clone()
            .zip(&dy, |x, dy| activation::derivative(f, x) * dy);
        check(&format!("{f:?}"), &x, &dx, |x| {
            weighted(&x.clone().map(|x| activation::value(f, x)), &dy)
        });
    }
}

#[test]
fn gated_gradients_reach_gate_and_up() {
    for f in ACTIVATIONS {
        let (x, dy) = (random(3, 10, 1), random(3, 5, 2));
        let dx = activation::gated_backward(f, &x, &dy);
        check(&format!("{f:?}"), &x, &dx, |x| {
            weighted(&activation::gated(f, x), &dy)
        });
    }
}

#[test]
fn loss_gradient_holds_with_and_without_smoothing() {
    for smoothing in [0.0, 0.13] {
        let logits = random(1, 11, 1).scaled(2.0);
        let gradient = Grid {
            rows: 1,
            cols: 11,
            values: loss::gradient(&logits.values, 4, smoothing, 0.7),
        };
        check("dlogits", &logits, &gradient, |x| {
            0.7 * loss::loss(&x.values, 4, smoothing)
        });
    }
}

#[test]
fn loss_of_uniform_logits_is_the_log_of_the_vocabulary() {
    assert!((loss::loss(&[0.3; 20], 7, 0.1) - 20f64.ln()).abs() < 1e-14);
    let masked = [1.0, f64::NEG_INFINITY, 1.0];
    assert!((loss::loss(&masked, 0, 0.0) - 2f64.ln()).abs() < 1e-14);
}

/// BLOOM's row: `q, k, v` of head h at `3hE`.
fn interleaved() -> AttentionShape {
    let at = |i: usize| HeadLayout {
        offset: 4 * i,
        stride: 12,
    };
    AttentionShape {
        heads: 2,
        kv_heads: 2,
        head_dim: 4,
        scale: 0.5,
        query: at(0),
        key: at(1),
        value: at(2),
        alibi_slopes: Some(vec![0.5, 0.125]),
        sliding_window: None,
    }
}

/// GPT-2's and Llama's row: all q, all k, all v.
fn consecutive(heads: usize, kv_heads: usize) -> AttentionShape {
    let at = |head: usize| HeadLayout {
        offset: 4 * head,
        stride: 4,
    };
    AttentionShape {
        heads,
        kv_heads,
        query: at(0),
        key: at(heads),
        value: at(heads + kv_heads),
        alibi_slopes: None,
        ..interleaved()
    }
}

fn shapes() -> Vec<AttentionShape> {
    let windowed = AttentionShape {
        sliding_window: Some(3),
        ..consecutive(4, 2)
    };
    let slopes = Some(vec![0.7, 0.3, 0.2, 0.1]);
    let all = AttentionShape {
        alibi_slopes: slopes,
        ..windowed.clone()
    };
    vec![
        interleaved(),
        consecutive(3, 3),
        consecutive(4, 1),
        windowed,
        all,
    ]
}

fn width(shape: &AttentionShape) -> usize {
    (shape.heads + 2 * shape.kv_heads) * shape.head_dim
}

fn own(start: usize, len: usize) -> Segment {
    Segment {
        start,
        len,
        prefix: None,
    }
}

fn after(prefix: Prefix, start: usize, len: usize) -> Segment {
    Segment {
        prefix: Some(prefix),
        ..own(start, len)
    }
}

/// A shared beginning, two rows after it, and one row of its own.
fn segments() -> Vec<Segment> {
    let prefix = Prefix { start: 0, len: 3 };
    vec![
        own(0, 3),
        after(prefix, 3, 4),
        after(prefix, 7, 2),
        own(9, 5),
    ]
}

#[test]
fn attention_gradients_hold_for_every_layout() {
    for (i, shape) in shapes().iter().enumerate() {
        let qkv = random(14, width(shape), i as u64);
        let dout = random(14, shape.heads * shape.head_dim, 99);
        let dqkv = attention::backward(shape, &qkv, &segments(), &dout);
        check(&format!("shape {i}"), &qkv, &dqkv, |qkv| {
            weighted(&attention::attention(shape, qkv, &segments()), &dout)
        });
    }
}

/// The rows of `x` in the order of `rows`.
fn gathered(x: &Grid, rows: &[usize]) -> Grid {
    let mut y = Grid::zeros(rows.len(), x.cols);
    for (i, row) in rows.iter().enumerate() {
        y.row_mut(i).copy_from_slice(x.row(*row));
    }
    y
}

#[test]
fn a_shared_prefix_equals_rows_that_repeat_it() {
    for shape in &shapes() {
        let qkv = random(14, width(shape), 5);
        let shared = attention::attention(shape, &qkv, &segments());
        // The rows 0..3 before each of the two rows that share them.
        let rows: Vec<usize> = (0..7).chain(0..3).chain(7..14).collect();
        let apart = [own(0, 7), own(7, 5), own(12, 5)];
        let want = attention::attention(shape, &gathered(&qkv, &rows), &apart);
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(shared.row(*row), want.row(i), "token {i}");
        }
    }
}

#[test]
fn turning_back_is_the_transpose_of_turning() {
    let shape = consecutive(4, 2);
    // Half of each head turns: partial rotary.
    let table = random(6, 2, 8);
    let positions = [0, 5, 2, 3];
    let turned = |x: &Grid, rotation| {
        let mut y = x.clone();
        attention::rotate(&shape, &mut y, &positions, &table, rotation);
        y
    };
    let (x, dy) = (random(4, width(&shape), 1), random(4, width(&shape), 2));
    let dx = turned(&dy, Rotation::Backward);
    check("dqkv", &x, &dx, |x| {
        weighted(&turned(x, Rotation::Forward), &dy)
    });
}

#[test]
fn rotary_scores_depend_on_distance_only() {
    let shape = consecutive(1, 1);
    let angle = |p: usize, i: usize| p as f64 * [0.9, 0.07][i];
    let mut table = Grid::zeros(12, 4);
    for p in 0..12 {
        let row = [
            angle(p, 0).cos(),
            angle(p, 1).cos(),
            angle(p, 0).sin(),
            angle(p, 1).sin(),
        ];
        table.row_mut(p).copy_from_slice(&row);
    }
    let x = random(2, width(&shape), 3);
    let score = |positions: [u32; 2]| {
        let mut y = x.clone();
        attention::rotate(&shape, &mut y, &positions, &table, Rotation::Forward);
        dot(
            &y.row(0)[attention::head(&shape, shape.query, 0)],
            &y.row(1)[attention::head(&shape, shape.key, 0)],
        )
    };
    assert!((score([7, 3]) - score([11, 7])).abs() < 1e-12);
    assert!((score([7, 3]) - score([7, 4])).abs() > 1e-3);
}
