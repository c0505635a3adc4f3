use super::*;
use crate::Isa;
use proptest::prelude::*;

struct Results {
    y: Vec<f32>,
    stats: Vec<f32>,
    dx: Vec<f32>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

fn run(context: &Context, norm: Norm, x: &[f32], dy: &[f32], cols: usize) -> Results {
    let rows = x.len() / cols;
    let weight: Vec<f32> = (0..cols).map(|c| 0.5 + (c as f32).sin()).collect();
    let bias: Vec<f32> = (0..cols).map(|c| (c as f32).cos()).collect();
    let (x, dy) = (Mat::dense(x, rows, cols), Mat::dense(dy, rows, cols));
    let mut results = Results {
        y: vec![9.0; rows * cols],
        stats: vec![9.0; 2 * rows],
        dx: vec![0.5; rows * cols],
        dweight: vec![0.0; cols],
        dbias: vec![0.0; cols],
    };
    let Results {
        y,
        stats,
        dx,
        dweight,
        dbias,
    } = &mut results;
    forward(
        context,
        norm,
        x,
        &weight,
        Some(&bias),
        MatMut::dense(y, rows, cols),
        stats,
    );
    backward(
        context,
        norm,
        x,
        stats,
        &weight,
        dy,
        MatMut::dense(dx, rows, cols),
        true,
    );
    backward_parameters(context, x, stats, dy, Some(dweight), Some(dbias));
    results
}

fn bits(results: &Results) -> Vec<u32> {
    let Results {
        y,
        stats,
        dx,
        dweight,
        dbias,
    } = results;
    [y, stats, dx, dweight, dbias]
        .into_iter()
        .flatten()
        .map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() })
        .collect()
}

proptest! {
    #[test]
    fn results_are_those_of_f64_in_the_same_bits_everywhere(
        values in prop::collection::vec((-3.0f32..3.0, -1.0f32..1.0), 1..600),
        cols in 1usize..150,
        centred: bool,
        offset in -20.0f32..20.0,
    ) {
        let rows = values.len() / cols;
        let (x, dy): (Vec<f32>, Vec<f32>) = values[..rows * cols].iter().map(|(x, d)| (x + offset, *d)).unzip();
        let norm = Norm { centred, eps: 1e-5 };
        let want = run(&Context::new(Some(1), Some(Isa::Scalar)), norm, &x, &dy, cols);
        for isa in Isa::available() {
            let got = run(&Context::new(Some(3), Some(isa)), norm, &x, &dy, cols);
            prop_assert_eq!(bits(&got), bits(&want), "{:?}", isa);
        }
        let mut sums = vec![(0.0, 0.0, 0.0); cols];
        for r in 0..rows {
            let row = |values: &[f32]| -> Vec<f64> { values[r * cols..][..cols].iter().map(|x| f64::from(*x)).collect() };
            let truth = truth(norm, &row(&x), &row(&dy));
            let rstd = truth.rstd;
            prop_assert!((f64::from(want.stats[2 * r]) - truth.mean).abs() <= 1e-5);
            // The mean's rounding, at size 23, spread by rstd.
            let bound = 2e-6 * (1.0 + 4.0 * rstd);
            for c in 0..cols {
                prop_assert!((f64::from(want.y[r * cols + c]) - truth.y[c]).abs() <= bound, "y {r} {c}");
                let dx = f64::from(want.dx[r * cols + c]);
                prop_assert!((dx - 0.5 - truth.dx[c]).abs() <= 1e-6 + 4.0 * bound * rstd, "dx {r} {c}");
                sums[c].0 += truth.normed[c] * f64::from(dy[r * cols + c]);
                sums[c].1 += f64::from(dy[r * cols + c]);
                sums[c].2 += bound;
            }
        }
        for (c, (dweight, dbias, bound)) in sums.into_iter().enumerate() {
            prop_assert!((f64::from(want.dweight[c]) - dweight).abs() <= bound, "dweight {c}");
            prop_assert!((f64::from(want.dbias[c]) - dbias).abs() <= bound, "dbias {c}");
        }
    }
}

/// One row in f64.
struct Truth {
    mean: f64,
    rstd: f64,
    normed: Vec<f64>,
    y: Vec<f64>,
    dx: Vec<f64>,
}

fn truth(norm: Norm, x: &[f64], dy: &[f64]) -> Truth {
    let size = x.len() as f64;
    let mean_of = |values: &dyn Fn(usize) -> f64| (0..x.len()).map(values).sum::<f64>() / size;
    let mean = if norm.centred {
        mean_of(&|c| x[c])
    } else {
        0.0
    };
    let variance = mean_of(&|c| (x[c] - mean) * (x[c] - mean));
    let rstd = 1.0 / (variance + f64::from(norm.eps)).sqrt();
    let normed: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
    let weight = |c: usize| f64::from(0.5 + (c as f32).sin());
    let gradient = |c: usize| dy[c] * weight(c);
    let along_mean = if norm.centred {
        mean_of(&gradient)
    } else {
        0.0
    };
    let along_normed = mean_of(&|c| gradient(c) * normed[c]);
    let each = 0..x.len();
    Truth {
        y: each
            .clone()
            .map(|c| normed[c] * weight(c) + f64::from((c as f32).cos()))
            .collect(),
        dx: each
            .map(|c| rstd * (gradient(c) - along_mean - normed[c] * along_normed))
            .collect(),
        mean,
        rstd,
        normed,
    }
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    let context = Context::new(Some(1), None);
    let mut x = vec![0.5; 3 * 20];
    x[25] = f32::NAN;
    x[41] = f32::INFINITY;
    let results = run(
        &context,
        Norm {
            centred: true,
            eps: 1e-5,
        },
        &x,
        &vec![1.0; 60],
        20,
    );
    assert!(results.y[..20].iter().all(|y| y.is_finite()));
    assert!(results.y[20..].iter().all(|y| y.is_nan()));
}
