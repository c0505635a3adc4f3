//! Low-rank deltas against their formula in f64.

use super::Values;
use crate::Context;
use crate::gemm::{LoraFactors, LoraGradients, Mat, MatMut, gemm_tn, lora_backward, lora_forward};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn lora_agrees_with_its_formula(
        t in 1usize..30, d in 1usize..80, o in 1usize..80, rank in 1usize..20, seed: u64,
    ) {
        lora_is_its_formula((t, d, o), rank, seed);
    }
}

/// Its transpositions are cut into tasks of 512 rows and columns.
#[test]
fn a_large_lora_agrees_with_its_formula() {
    for rank in [8, 24] {
        lora_is_its_formula((600, 530, 1100), rank, 3);
    }
}

/// `x·Wᵀ` in f64.
fn times(x: &[f64], w: &[f64], (rows, depth, cols): (usize, usize, usize)) -> Vec<f64> {
    let element = |i: usize| {
        let (x, w) = (&x[i / cols * depth..], &w[i % cols * depth..]);
        x.iter().zip(w).take(depth).map(|(x, w)| x * w).sum()
    };
    (0..rows * cols).map(element).collect()
}

fn turned(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols)
        .map(|i| x[i % rows * cols + i / rows])
        .collect()
}

fn lora_is_its_formula((t, d, o): (usize, usize, usize), rank: usize, seed: u64) {
    let mut values = Values(seed);
    let [x, a, b, dy] = [t * d, rank * d, o * rank, t * o].map(|len| values.vec(len, 0));
    let [mut y, mut da, mut db, mut dx] =
        [t * o, rank * d, o * rank, t * d].map(|len| values.vec(len, 0));
    let old = [&y, &da, &db, &dx].map(Vec::clone);
    let mut xa = vec![0.0; t * rank];
    let lora = LoraFactors {
        a: Mat::dense(&a, rank, d),
        b: Mat::dense(&b, o, rank),
        scaling: 1.7,
    };
    let ctx = Context::new(Some(2), None);
    let (x_mat, dy_mat) = (Mat::dense(&x, t, d), Mat::dense(&dy, t, o));
    let (xa_mat, y_mat) = (MatMut::dense(&mut xa, t, rank), MatMut::dense(&mut y, t, o));
    lora_forward(&ctx, x_mat, lora, xa_mat, y_mat);
    let gradients = LoraGradients {
        da: MatMut::dense(&mut da, rank, d),
        db: MatMut::dense(&mut db, o, rank),
        dx: Some(MatMut::dense(&mut dx, t, d)),
    };
    lora_backward(
        &ctx,
        x_mat,
        Mat::dense(&xa, t, rank),
        dy_mat,
        lora,
        gradients,
    );

    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
    let scaled = |x: Vec<f64>| -> Vec<f64> { x.iter().map(|x| f64::from(1.7f32) * x).collect() };
    let [x, a, b, dy] = [x, a, b, dy].map(|x| wide(&x));
    let want_xa = times(&x, &a, (t, d, rank));
    let want_y = scaled(times(&want_xa, &b, (t, rank, o)));
    let g = scaled(times(&dy, &turned(&b, o, rank), (t, o, rank)));
    let g_t = turned(&g, t, rank);
    let want_da = times(&g_t, &turned(&x, t, d), (rank, t, d));
    let want_db = times(&turned(&dy, t, o), &turned(&want_xa, t, rank), (o, t, rank));
    let want_dx = times(&g, &turned(&a, rank, d), (t, rank, d));
    let got = [y, da, db, dx];
    let want = [want_y, want_da, scaled(want_db), want_dx];
    // Two sums after each other, of random terms up to 1.
    let most = 1e-5 * ((d + t) as f64 * (o + t) as f64).sqrt();
    for (what, ((got, want), old)) in got.iter().zip(&want).zip(&old).enumerate() {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*got) - f64::from(old[i]) - want).abs();
            assert!(error < most, "output {what}, element {i}: {error:e}");
        }
    }
}

#[test]
fn sums_over_tokens_and_low_rank_products_have_the_same_bits_for_any_threads() {
    let (t, d, o) = (260, 700, 1100);
    for rank in [8, 24] {
        let run = |num_threads: usize| {
            let mut values = Values(5);
            let (x, a) = (values.vec(t * d, 0), values.vec(rank * d, 0));
            let (b, dy) = (values.vec(o * rank, 0), values.vec(t * o, 0));
            let mut xa = vec![0.0; t * rank];
            let [mut y, mut da, mut db] = [t * o, rank * d, o * rank].map(|len| values.vec(len, 0));
            let (mut dx, mut dw) = (values.vec(t * d, 0), values.vec(o * d, 0));
            let lora = LoraFactors {
                a: Mat::dense(&a, rank, d),
                b: Mat::dense(&b, o, rank),
                scaling: 1.7,
            };
            let ctx = Context::new(Some(num_threads), None);
            let (x, dy) = (Mat::dense(&x, t, d), Mat::dense(&dy, t, o));
            let y_mat = MatMut::dense(&mut y, t, o);
            lora_forward(&ctx, x, lora, MatMut::dense(&mut xa, t, rank), y_mat);
            let gradients = LoraGradients {
                da: MatMut::dense(&mut da, rank, d),
                db: MatMut::dense(&mut db, o, rank),
                dx: Some(MatMut::dense(&mut dx, t, d)),
            };
            lora_backward(&ctx, x, Mat::dense(&xa, t, rank), dy, lora, gradients);
            gemm_tn(&ctx, dy, x, 0.7, MatMut::dense(&mut dw, o, d));
            [y, xa, da, db, dx, dw]
        };
        let one = run(1);
        for num_threads in 2..=4 {
            assert!(
                one == run(num_threads),
                "rank {rank}, {num_threads} threads"
            );
        }
    }
}
