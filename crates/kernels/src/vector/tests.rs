//! Against f64, and the instruction sets against each other.

use super::*;
use proptest::prelude::*;

/// What a test runs: one function of a vector.
struct Apply<'a> {
    x: &'a [f32],
    f: Function,
}

#[derive(Debug, Clone, Copy)]
enum Function {
    Exp,
    Cumulative,
    Density,
    Round,
    Max,
    Less,
}

const ALL: [Function; 6] = [
    Function::Exp,
    Function::Cumulative,
    Function::Density,
    Function::Round,
    Function::Max,
    Function::Less,
];

impl Kernel for Apply<'_> {
    type Output = (Vec<f32>, f32, f32);

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> Self::Output {
        let mut y = vec![0.0; self.x.len()];
        map!(v, self.x, y, |x| match self.f {
            Function::Exp => exp(v, x),
            Function::Cumulative => gelu_parts(v, x).0,
            Function::Density => gelu_parts(v, x).1,
            Function::Round => v.sqrt(v.round(x)),
            Function::Max => v.min(v.splat(3.0), v.max(x, v.splat(-2.0))),
            Function::Less => v.select(v.less(x, v.zero()), v.splat(1.0), x),
        });
        let head = v.load_part(&self.x[..self.x.len().min(LANES)], 0.5);
        (y, v.sum(head), v.highest(head))
    }
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Any bits, and more of those that matter.
fn any_f32() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -100.0f32..100.0,
        2 => any::<u32>().prop_map(f32::from_bits),
        1 => prop::sample::select(vec![
            0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -1e-40, f32::MAX, f32::MIN,
            f32::MIN_POSITIVE, 88.72284, -87.33655, -103.97208, 0.5, 1.5, 2.5,
        ]),
    ]
}

/// Pairs of bf16, and a sum of their products.
#[derive(Clone, Copy)]
struct Pairs {
    first: Lanes,
    second: Lanes,
    sum: Lanes,
}

impl Kernel for Pairs {
    type Output = ([u32; LANES], [u32; LANES], Lanes);

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> Self::Output {
        let (first, second) = (v.load(&self.first), v.load(&self.second));
        let (neighbours, stacked) = (v.neighbours(first, second), v.stacked(first, second));
        let sum = v.dot_pairs(stacked[3], &neighbours, v.load(&self.sum));
        (neighbours, stacked, v.to_lanes(sum))
    }
}

/// A square, how many of its columns are wanted, and how far apart.
struct Turn {
    square: [[u32; LANES]; LANES],
    columns: usize,
    stride: usize,
}

impl Kernel for &Turn {
    type Output = Vec<u32>;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> Self::Output {
        let mut to = vec![u32::MAX; (self.columns - 1) * self.stride + LANES];
        v.turn(&self.square, &mut to, self.stride);
        to
    }
}

proptest! {
    #[test]
    fn columns_are_those_of_the_square_and_nothing_between_them_is_touched(
        columns in 1..=LANES,
        stride in LANES..40,
    ) {
        let square = std::array::from_fn(|i| std::array::from_fn(|j| (100 * i + j) as u32));
        let turn = Turn { square, columns, stride };
        for isa in Isa::available() {
            for (at, got) in dispatch(isa, &turn).into_iter().enumerate() {
                let (column, row) = (at / stride, at % stride);
                let want = if row < LANES { square[row][column] } else { u32::MAX };
                prop_assert_eq!(got, want, "{:?}: column {}, row {}", isa, column, row);
            }
        }
    }

    #[test]
    fn pairs_are_neighbours_or_lanes_and_multiply_odd_first(
        first in prop::array::uniform16(any_f32()),
        second in prop::array::uniform16(any_f32()),
        sum in prop::array::uniform16(-9.0f32..9.0),
    ) {
        let pairs = Pairs { first, second, sum };
        let value = |pair: u32| [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)];
        for isa in Isa::available() {
            let (neighbours, stacked, sums) = dispatch(isa, pairs);
            for i in 0..LANES {
                let (two, in_lane) = (value(neighbours[i]), value(stacked[i]));
                let on_end = [first, second].concat();
                for (got, want) in [
                    (two[0], on_end[2 * i]),
                    (two[1], on_end[2 * i + 1]),
                    (in_lane[0], first[i]),
                    (in_lane[1], second[i]),
                ] {
                    prop_assert!(same(got, to_bf16(want)), "{isa:?}: {got} for {want}");
                }
                let [even, odd] = value(stacked[3]);
                let want = even.mul_add(two[0], odd.mul_add(two[1], sum[i]));
                // The instruction takes a subnormal sum as zero.
                let near = (sums[i] - want).abs() <= 2.0 * f32::MIN_POSITIVE;
                prop_assert!(same(sums[i], want) || near, "{isa:?}: {} for {want}", sums[i]);
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits(x in prop::collection::vec(any_f32(), 1..70), skew in 0usize..4) {
        let x = &x[skew.min(x.len() - 1)..];
        for f in ALL {
            let want = Apply { x, f }.run(Scalar);
            for isa in Isa::available() {
                let got = dispatch(isa, Apply { x, f });
                prop_assert_eq!(got.0.len(), want.0.len());
                for (i, (got, want)) in got.0.iter().zip(&want.0).enumerate() {
                    prop_assert!(same(*got, *want), "{f:?} {isa:?} of {}: {got} {want}", x[i]);
                }
                prop_assert!(same(got.1, want.1) && same(got.2, want.2));
            }
        }
    }
}

/// Every 3001st f32, both signs, all exponents.
fn sweep() -> Vec<f32> {
    (0..=u32::MAX / 3001)
        .map(|i| f32::from_bits(i * 3001))
        .filter(|x| x.is_finite())
        .collect()
}

/// The largest error in units of the last place of the true value.
fn worst(f: Function, truth: impl Fn(f64) -> f64, counts: impl Fn(f64) -> bool) -> (f64, f32) {
    let x = sweep();
    let got = dispatch(Isa::detect(), Apply { x: &x, f }).0;
    assert_eq!(x.len(), got.len());
    let mut worst = (0.0, 0.0);
    for (x, got) in x.into_iter().zip(got) {
        let want = truth(f64::from(x));
        if !counts(want) {
            continue;
        }
        // Above the range, inf is the right rounding.
        if want > f64::from(f32::MAX) {
            assert!(
                got == f32::INFINITY || want < f64::from(f32::MAX) * 1.000_001,
                "{x}"
            );
            continue;
        }
        let size = want.abs().max(f64::from(f32::MIN_POSITIVE));
        let ulp = size.log2().floor().exp2() * 2f64.powi(-23);
        let error = (f64::from(got) - want).abs() / ulp;
        if error > worst.0 {
            worst = (error, x);
        }
    }
    worst
}

#[test]
fn exp_is_within_its_stated_error_over_all_f32() {
    let (ulps, at) = worst(Function::Exp, f64::exp, |_| true);
    assert!(ulps <= 1.1, "{ulps} ulp at {at}");
}

/// `Φ(x)` by the error function's series near zero and its continued fraction beyond.
fn cumulative(x: f64) -> f64 {
    let z = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
    let above = if z < 2.5 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term > sum * 1e-18 {
            n += 1.0;
            term *= 2.0 * z * z / (2.0 * n + 1.0);
            sum += term;
        }
        1.0 - std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * sum
    } else {
        let mut fraction = z;
        for k in (1..120).rev() {
            fraction = z + f64::from(k) * 0.5 / fraction;
        }
        (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    if x < 0.0 {
        0.5 * above
    } else {
        1.0 - 0.5 * above
    }
}

#[test]
fn the_normal_distribution_is_within_its_stated_error() {
    let x = sweep();
    let got = dispatch(
        Isa::detect(),
        Apply {
            x: &x,
            f: Function::Cumulative,
        },
    )
    .0;
    assert_eq!(x.len(), got.len());
    for (x, got) in x.iter().zip(&got) {
        let error = (f64::from(*got) - cumulative(f64::from(*x))).abs();
        assert!(error <= 8e-8, "Φ({x}) = {got}, off by {error}");
        let small = cumulative(f64::from(*x));
        if small >= f64::from(f32::MIN_POSITIVE) {
            assert!(error <= 4e-6 * small, "Φ({x}) = {got}, truth {small}");
        }
    }
    let density = dispatch(
        Isa::detect(),
        Apply {
            x: &x,
            f: Function::Density,
        },
    )
    .0;
    assert_eq!(x.len(), density.len());
    for (x, got) in x.iter().zip(&density) {
        let x = f64::from(*x);
        let want = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        assert!((f64::from(*got) - want).abs() <= 6e-8, "φ({x}) = {got}");
    }
}
