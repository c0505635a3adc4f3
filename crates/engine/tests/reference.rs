//! The oracle through its door: views, adding, and operations that only move values.

use lowrank_engine::backend::{Backend, EngineError, Matrix, Qkv};
use lowrank_engine::reference::Reference;
use lowrank_engine::shapes::{
    AdamW, AttentionShape, HeadLayout, Orient, Segment, Span, StoredDtype, StoredMatrix, View,
    ViewMut, Write, uniform,
};
use std::sync::Arc;

fn random(len: usize, key: u64) -> Vec<f32> {
    (0..len)
        .map(|i| 2.0 * uniform(key, i as u64) - 1.0)
        .collect()
}

fn bf16_matrix(values: &[f32], rows: usize, cols: usize) -> StoredMatrix {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
        .collect();
    StoredMatrix {
        bytes: Arc::new(bytes),
        dtype: StoredDtype::Bf16,
        rows,
        cols,
    }
}

#[test]
fn both_orientations_of_a_matrix_give_the_same_product() {
    let backend = Reference::default();
    let (x, w) = (random(3 * 5, 1), random(4 * 5, 2));
    let turned: Vec<f32> = (0..20).map(|i| w[(i % 4) * 5 + i / 4]).collect();
    let bias = random(4, 3);
    let product = |values: &[f32], rows, cols, orient| {
        let weight = backend.weight(bf16_matrix(values, rows, cols)).unwrap();
        let mut y = random(3 * 4, 9);
        backend.linear(
            View::dense(&x, 3, 5),
            Matrix::Frozen(&weight),
            orient,
            Some(&bias),
            ViewMut::dense(&mut y, 3, 4),
            Write::Add,
        );
        y
    };
    let y = product(&w, 4, 5, Orient::OutIn);
    assert_eq!(y, product(&turned, 5, 4, Orient::InOut));
    let decoded = |x: f32| half::bf16::from_f32(x).to_f64();
    let sum: f64 = (0..5)
        .map(|d| f64::from(x[5 + d]) * decoded(w[10 + d]))
        .sum();
    let want = f64::from(random(12, 9)[6]) + sum + f64::from(bias[2]);
    assert_eq!(y[6], want as f32);
}

#[test]
fn strided_views_touch_only_their_columns() {
    let backend = Reference::default();
    let x = random(4 * 7, 1);
    let mut y = vec![5.0; 4 * 9];
    let from = Span::dense(4, 7).columns(2, 3).rows(1, 2);
    let to = Span::dense(4, 9).columns(5, 3).rows(2, 2);
    backend.copy(
        View {
            buf: &x,
            span: from,
        },
        ViewMut {
            buf: &mut y,
            span: to,
        },
        Write::Add,
    );
    for (i, y) in y.iter().enumerate() {
        let (r, c) = (i / 9, i % 9);
        let inside = (2..4).contains(&r) && (5..8).contains(&c);
        let want = if inside {
            5.0 + x[(r - 1) * 7 + c - 3]
        } else {
            5.0
        };
        assert_eq!(*y, want, "row {r} column {c}");
    }
}

#[test]
fn scatter_undoes_gather_and_embedding_gradients_sum_repeats() {
    let backend = Reference::default();
    let x = random(5 * 3, 1);
    let rows = backend.upload_ids(&[4, 0, 2]);
    let mut picked = backend.alloc(9);
    backend.gather_rows(
        View::dense(&x, 5, 3),
        &rows,
        ViewMut::dense(&mut picked, 3, 3),
    );
    assert_eq!(picked[..3], x[12..]);
    let mut back = backend.zeros(15);
    backend.scatter_rows(
        View::dense(&picked, 3, 3),
        &rows,
        ViewMut::dense(&mut back, 5, 3),
    );
    assert_eq!((&back[12..], &back[3..6]), (&x[12..], [0.0; 3].as_slice()));
    let ids = backend.upload_ids(&[1, 1, 3]);
    let mut table = backend.zeros(15);
    backend.embed_backward(View::dense(&picked, 3, 3), &ids, &mut table);
    assert_eq!(table[3], picked[0] + picked[3]);
    assert_eq!(table[9..12], picked[6..]);
}

fn cached_shape() -> AttentionShape {
    let at = |head: usize| HeadLayout {
        offset: 4 * head,
        stride: 4,
    };
    AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        scale: 0.4,
        query: at(0),
        key: at(4),
        value: at(6),
        alibi_slopes: Some(vec![0.4, 0.3, 0.2, 0.1]),
        sliding_window: Some(4),
    }
}

#[test]
fn cached_attention_equals_attention_over_the_whole_row() {
    let backend = Reference::default();
    let shape = cached_shape();
    let (tokens, width) = (9, 32);
    let qkv = random(tokens * width, 1);
    let mut whole = backend.alloc(tokens * 16);
    let segment = Segment {
        start: 0,
        len: tokens,
        prefix: None,
    };
    backend.attention(
        &shape,
        Qkv::Made(View::dense(&qkv, tokens, width)),
        &[segment],
        ViewMut::dense(&mut whole, tokens, 16),
    );
    let (mut keys, mut values) = (backend.alloc(20 * 8), backend.alloc(20 * 8));
    let mut stepped = backend.alloc(tokens * 16);
    for (past, new) in [(0, 5), (5, 1), (6, 1), (7, 2)] {
        backend.attention_cached(
            &shape,
            View {
                buf: &qkv,
                span: Span::dense(tokens, width).rows(past, new),
            },
            &mut keys,
            &mut values,
            past,
            ViewMut {
                buf: &mut stepped,
                span: Span::dense(tokens, 16).rows(past, new),
            },
        );
    }
    assert_eq!(stepped, whole);
}

#[test]
fn adamws_first_step_is_decay_and_the_sign() {
    // The first step moves each value by about the learning rate against its gradient's sign, after decay.
    let backend = Reference::default();
    let mut parameter = vec![0.5, -0.25];
    let (mut m, mut v) = (backend.zeros(2), backend.zeros(2));
    let settings = AdamW {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        grad_scale: 0.5,
    };
    backend.adamw(&mut parameter, &vec![0.2, -4.0], &mut m, &mut v, settings);
    let moved = [0.5f64 * 0.999 - 1e-2, -0.25 * 0.999 + 1e-2];
    for (got, want) in parameter.iter().zip(moved) {
        assert!((f64::from(*got) - want).abs() < 5e-8, "{got} {want}");
    }
    assert!((m[0] - 0.01).abs() < 1e-9 && (v[1] - 0.004).abs() < 1e-9);
}

#[test]
fn bytes_that_are_not_the_shape_are_refused() {
    let backend = Reference::default();
    let mut stored = bf16_matrix(&random(20, 1), 4, 5);
    stored.rows = 5;
    let Err(EngineError::StoredSize { want, found, .. }) = backend.weight(stored) else {
        panic!("a short matrix was taken");
    };
    assert_eq!((want, found), (50, 40));
}
