//! Values and slopes against f64, and the instruction sets against each other.

use super::*;
use crate::Isa;
use proptest::prelude::*;

const ALL: [Activation; 4] = [
    Activation::GeluTanh,
    Activation::Gelu,
    Activation::Silu,
    Activation::Relu,
];

fn bits(x: &[f32]) -> Vec<u32> {
    // One NaN for all.
    x.iter()
        .map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() })
        .collect()
}

fn any_f32() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -12.0f32..12.0,
        1 => any::<u32>().prop_map(f32::from_bits),
        1 => prop::sample::select(vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-41, -1e-45, f32::MAX]),
    ]
}

/// All five operations, on rows of `cols` at a stride of one more than the widest.
fn run(context: &Context, f: Activation, x: &[f32], dy: &[f32], cols: usize) -> [Vec<u32>; 5] {
    let rows = x.len() / (2 * cols + 1);
    let stride = 2 * cols + 1;
    let mat = |data, cols| Mat {
        data,
        stride,
        rows,
        cols,
    };
    let out = |cols: usize, work: &dyn Fn(MatMut<'_>)| {
        let mut y = vec![7.0; rows * cols];
        work(MatMut::dense(&mut y, rows, cols));
        bits(&y)
    };
    // What lies between rows stays.
    let over = |data: &[f32], cols: usize, work: &dyn Fn(MatMut<'_>)| {
        let mut data = data.to_vec();
        work(MatMut {
            data: &mut data,
            stride,
            rows,
            cols,
        });
        bits(&data[..rows * stride])
    };
    [
        out(cols, &|y| forward(context, f, mat(x, cols), y)),
        out(cols, &|y| {
            backward(context, f, mat(x, cols), mat(dy, cols), y)
        }),
        over(dy, cols, &|dy| {
            backward_in_place(context, f, mat(x, cols), dy)
        }),
        out(cols, &|y| gated(context, f, mat(x, 2 * cols), y)),
        over(x, 2 * cols, &|x| {
            gated_backward(context, f, x, mat(dy, cols))
        }),
    ]
}

/// The same by the scalar twin, a row at a time.
fn by_row(f: Activation, x: &[f32], dy: &[f32], cols: usize) -> [Vec<u32>; 5] {
    let context = Context::new(Some(1), Some(Isa::Scalar));
    let stride = 2 * cols + 1;
    let mut all = [const { Vec::new() }; 5];
    for (x, dy) in x.chunks_exact(stride).zip(dy.chunks_exact(stride)) {
        let row = run(&context, f, x, dy, cols);
        all.iter_mut()
            .zip(row)
            .for_each(|(all, row)| all.extend(row));
    }
    all
}

proptest! {
    #[test]
    fn every_instruction_set_and_thread_count_gives_the_same_bits(
        values in prop::collection::vec((any_f32(), -2.0f32..2.0), 3..400),
        cols in 1usize..40,
    ) {
        let (x, dy): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
        for f in ALL {
            let want = by_row(f, &x, &dy, cols);
            for isa in Isa::available() {
                let got = run(&Context::new(Some(3), Some(isa)), f, &x, &dy, cols);
                prop_assert_eq!(&got, &want, "{:?} {:?}", f, isa);
            }
        }
    }
}

#[test]
fn a_gradient_in_place_is_the_one_beside_it() {
    let (rows, cols) = (7, 37);
    let of = |key: u64| -> Vec<f32> {
        let value = |i| 8.0 * crate::elementwise::uniform(key, i) - 4.0;
        (0..rows * cols).map(|i| value(i as u64)).collect()
    };
    let (x, dy) = (of(1), of(2));
    let (x, beside) = (Mat::dense(&x, rows, cols), Mat::dense(&dy, rows, cols));
    for f in ALL {
        let context = Context::new(Some(2), None);
        let (mut dx, mut over) = (vec![7.0; rows * cols], dy.clone());
        backward(&context, f, x, beside, MatMut::dense(&mut dx, rows, cols));
        backward_in_place(&context, f, x, MatMut::dense(&mut over, rows, cols));
        assert_eq!(bits(&over), bits(&dx), "{f:?}");
    }
}

/// Value and slope in f64; the error function by its series, which is exact enough up to 5.
fn truth(f: Activation, x: f64) -> (f64, f64) {
    let weight = |s: f64, bend: f64| (x * s, s + x * bend);
    match f {
        Activation::GeluTanh => {
            let c = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let s = 1.0 / (1.0 + (-c * (x + 0.044_715 * x * x * x)).exp());
            weight(s, s * (1.0 - s) * c * (1.0 + 3.0 * 0.044_715 * x * x))
        }
        Activation::Gelu => {
            let (z, mut n) = (x / 2f64.sqrt(), 0.0);
            let (mut term, mut sum) = (z, z);
            while term.abs() > 1e-20 {
                n += 1.0;
                term *= -z * z / n * (2.0 * n - 1.0) / (2.0 * n + 1.0);
                sum += term;
            }
            let s = 0.5 + sum / std::f64::consts::PI.sqrt();
            weight(
                s,
                (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt(),
            )
        }
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            weight(s, s * (1.0 - s))
        }
        Activation::Relu => (x.max(0.0), f64::from(u8::from(x > 0.0))),
    }
}

#[test]
fn values_and_slopes_are_within_two_units_of_1e_7() {
    let context = Context::new(Some(1), None);
    let x: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 1.0e-3).collect();
    let ones = vec![1.0; x.len()];
    for f in ALL {
        let (mut y, mut slope) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let mat = |data| Mat::dense(data, 1, x.len());
        forward(&context, f, mat(&x), MatMut::dense(&mut y, 1, x.len()));
        backward(
            &context,
            f,
            mat(&x),
            mat(&ones),
            MatMut::dense(&mut slope, 1, x.len()),
        );
        for (i, x) in x.iter().enumerate() {
            let (value, derivative) = truth(f, f64::from(*x));
            let size = f64::from(x.abs()).max(1.0);
            let errors = [f64::from(y[i]) - value, f64::from(slope[i]) - derivative];
            for error in errors {
                assert!(error.abs() <= 2e-7 * size, "{f:?} at {x}: off by {error}");
            }
        }
    }
}

#[test]
fn nothing_blows_up_far_from_zero() {
    let context = Context::new(Some(1), None);
    let x = [-1e30f32, -200.0, 200.0, 1e30];
    for f in ALL {
        let (mut y, mut slope) = ([9.0; 4], [9.0; 4]);
        forward(
            &context,
            f,
            Mat::dense(&x, 1, 4),
            MatMut::dense(&mut y, 1, 4),
        );
        assert_eq!(y, [0.0, 0.0, 200.0, 1e30], "{f:?}");
        let ones = [1.0; 4];
        let mat = Mat::dense(&ones, 1, 4);
        backward(
            &context,
            f,
            Mat::dense(&x, 1, 4),
            mat,
            MatMut::dense(&mut slope, 1, 4),
        );
        for (slope, want) in slope.into_iter().zip([0.0, 0.0, 1.0, 1.0]) {
            assert!((slope - want).abs() < 1e-30, "{f:?}: {slope}");
        }
    }
}
