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
        for r in 0..rows {
            let row: Vec<f64> = x[r * cols..][..cols].iter().map(|x| f64::from(*x)).collect();
            let size = cols as f64;
            let mean = if centred { row.iter().sum::<f64>() / size } else { 0.0 };
            let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / size;
            let rstd = 1.0 / (variance + f64::from(1e-5f32)).sqrt();
            prop_assert!((f64::from(want.stats[2 * r]) - mean).abs() <= 1e-5);
            for (c, x) in row.iter().enumerate() {
                let y = (x - mean) * rstd * f64::from(0.5 + (c as f32).sin()) + f64::from((c as f32).cos());
                // The mean's rounding, at size 23, spread by rstd.
                let bound = 2e-6 * (1.0 + 4.0 * rstd);
                prop_assert!((f64::from(want.y[r * cols + c]) - y).abs() <= bound, "{r} {c}");
            }
        }
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
