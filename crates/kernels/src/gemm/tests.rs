mod edges;
mod lora;

use super::*;
use crate::{Isa, StoredDtype};
use half::{bf16, f16};
use proptest::prelude::*;

/// A generator of test values: SplitMix64.
pub(super) struct Values(pub(super) u64);

impl Values {
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// About one in `rare` is NaN, infinite, subnormal or zero.
    pub(super) fn next(&mut self, rare: u64) -> f32 {
        let bits = self.bits();
        if rare > 0 && bits.is_multiple_of(rare) {
            let odd = [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                1e-40,
                -1e-39,
                0.0,
                -0.0,
            ];
            return odd[(bits >> 32) as usize % odd.len()];
        }
        (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(super) fn vec(&mut self, len: usize, rare: u64) -> Vec<f32> {
        (0..len).map(|_| self.next(rare)).collect()
    }
}

/// A case with gaps between rows, bytes at an odd address, and what was in y before.
struct Case {
    m: usize,
    k: usize,
    n: usize,
    product: Product,
    dtype: StoredDtype,
    precision: Precision,
    x: Vec<f32>,
    x_stride: usize,
    bytes: Vec<u8>,
    bias: Option<Vec<f32>>,
    y: Vec<f32>,
    y_stride: usize,
    add: bool,
}

impl Case {
    fn new(
        (m, k, n): (usize, usize, usize),
        seed: u64,
        rare: u64,
        (product, dtype, precision): (Product, StoredDtype, Precision),
    ) -> Self {
        let mut values = Values(seed);
        let (x_stride, y_stride) = (
            k + values.bits() as usize % 4,
            n + values.bits() as usize % 4,
        );
        let mut bytes = vec![0u8];
        for value in values.vec(k * n, rare) {
            match dtype {
                StoredDtype::F32 => bytes.extend(value.to_le_bytes()),
                StoredDtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
                StoredDtype::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
        Self {
            m,
            k,
            n,
            product,
            dtype,
            precision,
            x: values.vec(m * x_stride, rare),
            x_stride,
            bytes,
            bias: (values.bits() & 1 == 0).then(|| values.vec(n, rare)),
            y: values.vec(m * y_stride, rare),
            y_stride,
            add: values.bits() & 1 == 0,
        }
    }

    /// The product of the last `m` rows alone.
    fn last_rows(&self, m: usize) -> Self {
        Self {
            m,
            x: self.x[(self.m - m) * self.x_stride..].to_vec(),
            y: self.y[(self.m - m) * self.y_stride..].to_vec(),
            bytes: self.bytes.clone(),
            bias: self.bias.clone(),
            ..*self
        }
    }

    fn x(&self) -> Mat<'_> {
        Mat {
            data: &self.x,
            stride: self.x_stride,
            rows: self.m,
            cols: self.k,
        }
    }

    fn w(&self) -> Stored<'_> {
        let (rows, cols) = match self.product {
            Product::Nt => (self.n, self.k),
            Product::Nn => (self.k, self.n),
        };
        Stored::new(&self.bytes[1..], self.dtype, rows, cols)
    }

    fn run(&self, ctx: &Context) -> Vec<f32> {
        let mut data = self.y.clone();
        let y = MatMut {
            data: &mut data,
            stride: self.y_stride,
            rows: self.m,
            cols: self.n,
        };
        let (x, w, bias) = (self.x(), self.w(), self.bias.as_deref());
        gemm(ctx, x, w, self.product, bias, y, self.add, self.precision);
        data
    }

    fn want(&self) -> Vec<f32> {
        let mut data = self.y.clone();
        let y = MatMut {
            data: &mut data,
            stride: self.y_stride,
            rows: self.m,
            cols: self.n,
        };
        let bias = self.bias.as_deref();
        scalar::gemm(
            self.x(),
            self.w(),
            self.product,
            bias,
            y,
            self.add,
            self.precision,
        );
        data
    }
}

/// Equal bits; NaN is NaN whatever its payload. Emulated bf16 keeps subnormal sums, of which zeros can be of either sign.
fn same(got: &[f32], want: &[f32], precision: Precision) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} elements, want {}", got.len(), want.len()));
    }
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let close = precision == Precision::Bf16 && (g - w).abs() < 1e-34;
        if !(g.to_bits() == w.to_bits() || close || (g.is_nan() && w.is_nan())) {
            return Err(format!(
                "element {i}: {g:e} ({:#x}), want {w:e}",
                g.to_bits()
            ));
        }
    }
    Ok(())
}

fn products() -> impl Strategy<Value = (Product, StoredDtype, Precision)> {
    (
        prop_oneof![Just(Product::Nt), Just(Product::Nn)],
        prop_oneof![
            Just(StoredDtype::F32),
            Just(StoredDtype::F16),
            Just(StoredDtype::Bf16)
        ],
        prop_oneof![Just(Precision::F32), Just(Precision::Bf16)],
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_instruction_set_gives_the_definitions_bits(
        m in 0usize..64, k in 0usize..90, n in 0usize..110, seed: u64, rare in 0u64..40,
        kind in products(),
    ) {
        let case = Case::new((m, k, n), seed, if rare < 20 { 0 } else { rare * 8 }, kind);
        let want = case.want();
        for isa in Isa::available() {
            let got = case.run(&Context::new(Some(1), Some(isa)));
            prop_assert_eq!(same(&got, &want, case.precision), Ok(()), "{:?}", isa);
        }
    }

}

proptest! {
    // A thousand products an element are slow where a fused multiply-add is a function call.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn long_sums_run_in_blocks(
        m in 1usize..56, k in 900usize..2200, n in 1usize..60, seed: u64, kind in products(),
    ) {
        let case = Case::new((m, k, n), seed, 0, kind);
        let want = case.want();
        for isa in Isa::available() {
            let got = case.run(&Context::new(Some(1), Some(isa)));
            prop_assert_eq!(same(&got, &want, case.precision), Ok(()), "{:?}", isa);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_group_has_the_bits_of_its_products(
        m in 1usize..90, k in 0usize..2100, columns in (0usize..330, 1usize..120, 0usize..40),
        seed: u64, threads in 1usize..4, add: bool, kinds in [products(), products(), products()],
    ) {
        let [(product, _, precision), ..] = kinds;
        let columns = [columns.0, columns.1, columns.2];
        let of = |i: usize| (columns[i], (product, kinds[i].1, precision));
        let cases = group((m, k), [of(0), of(1), of(2)], seed, add);
        for isa in Isa::available() {
            let ctx = Context::new(Some(threads), Some(isa));
            prop_assert_eq!(run_group(&ctx, &cases), run_each(&ctx, &cases), "{:?}", isa);
        }
    }
}

#[test]
fn a_group_in_passes_along_k_has_the_bits_of_its_products() {
    let of = |n, dtype| (n, (Product::Nt, dtype, Precision::F32));
    let columns = [
        of(40, StoredDtype::F16),
        of(24, StoredDtype::Bf16),
        of(100, StoredDtype::F32),
    ];
    let (m, k) = (400, 8192);
    let cases = group((m, k), columns, 5, false);
    for isa in Isa::available() {
        let rows_cached = kernel::kernel(isa, Precision::F32).rows_cached;
        match isa {
            // Slow, and without such passes.
            Isa::Scalar => continue,
            Isa::Avx2 => assert!(m * k > rows_cached, "AVX2 makes passes"),
            _ => {}
        }
        let ctx = Context::new(Some(2), Some(isa));
        assert_eq!(run_group(&ctx, &cases), run_each(&ctx, &cases), "{isa:?}");
    }
}

/// Products that read the same x.
fn group(
    (m, k): (usize, usize),
    of: [(usize, (Product, StoredDtype, Precision)); 3],
    seed: u64,
    add: bool,
) -> [Case; 3] {
    let mut cases = of.map(|(n, kind)| Case::new((m, k, n), seed ^ n as u64, 0, kind));
    let (x, x_stride) = (cases[0].x.clone(), cases[0].x_stride);
    for case in &mut cases {
        (case.x, case.x_stride, case.add) = (x.clone(), x_stride, add);
    }
    cases
}

/// The bits of one product after the other.
fn run_each(ctx: &Context, cases: &[Case; 3]) -> Vec<u32> {
    bits(&beside_each_other(cases, |case| case.run(ctx)))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// One matrix of what belongs to each case: its rows without gaps, after those of the case before.
fn beside_each_other(cases: &[Case; 3], of: impl Fn(&Case) -> Vec<f32>) -> Vec<f32> {
    let parts = cases.each_ref().map(of);
    let row = |row: usize| {
        let part =
            |(case, part): (&Case, &Vec<f32>)| part[row * case.y_stride..][..case.n].to_vec();
        cases.iter().zip(&parts).flat_map(part).collect::<Vec<_>>()
    };
    (0..cases[0].m).flat_map(row).collect()
}

fn run_group(ctx: &Context, cases: &[Case; 3]) -> Vec<u32> {
    let [first, ..] = cases;
    let group = cases
        .each_ref()
        .map(|case| (case.w(), case.bias.as_deref()));
    let mut data = beside_each_other(cases, |case| case.y.clone());
    let y = MatMut::dense(&mut data, first.m, cases.iter().map(|case| case.n).sum());
    gemm_group(
        ctx,
        first.x(),
        &group,
        first.product,
        y,
        first.add,
        first.precision,
    );
    bits(&data)
}

#[test]
fn many_panels_in_groups_give_the_definitions_bits() {
    for product in [Product::Nt, Product::Nn] {
        for (dtype, precision) in [
            (StoredDtype::Bf16, Precision::Bf16),
            (StoredDtype::F32, Precision::Bf16),
            (StoredDtype::F16, Precision::F32),
        ] {
            for (m, k, n) in [
                // One row, and few: sums over several blocks, their tails, columns that fill no vector.
                (1, 1090, 599),
                (1, 2061, 7),
                (5, 1563, 21),
                (3, 4100, 900),
                (16, 1090, 600),
                (51, 1090, 1500),
                (150, 77, 590),
                // Whole vectors: all units but a thread's first are packed beside tiles.
                (136, 1104, 480),
                // Packed rows are streamed, but for a last tile of four.
                (260, 2112, 24),
                // Packed rows outgrow the third cache: passes over stored rows along k as well.
                (800, 8192, 24),
            ] {
                let case = Case::new((m, k, n), 11, 0, (product, dtype, precision));
                let want = case.want();
                for isa in Isa::available() {
                    let got = case.run(&Context::new(Some(2), Some(isa)));
                    assert_eq!(
                        same(&got, &want, precision),
                        Ok(()),
                        "{isa:?} {product:?} {dtype:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn threads_and_rows_do_not_change_the_bits() {
    for kind in [
        (Product::Nt, StoredDtype::Bf16, Precision::Bf16),
        (Product::Nt, StoredDtype::F16, Precision::F32),
        (Product::Nn, StoredDtype::Bf16, Precision::Bf16),
        (Product::Nn, StoredDtype::F16, Precision::F32),
    ] {
        let case = Case::new((70, 1200, 200), 7, 0, kind);
        let one = case.run(&Context::new(Some(1), None));
        for num_threads in 2..=4 {
            assert_eq!(one, case.run(&Context::new(Some(num_threads), None)));
        }
        let across = case
            .last_rows(few::ROWS_ACROSS)
            .run(&Context::new(Some(2), None));
        let last = (few::ROWS_ACROSS - 1) * case.y_stride;
        let alone = case.last_rows(1).run(&Context::new(Some(3), None));
        assert_eq!(alone[..case.n], across[last..][..case.n]);
        let few = case.last_rows(FEW_ROWS);
        let together = few.run(&Context::new(Some(2), None));
        let alone = few.last_rows(1).run(&Context::new(Some(2), None));
        let last = (FEW_ROWS - 1) * few.y_stride;
        assert_eq!(alone[..few.n], together[last..][..few.n]);
        let many = case
            .last_rows(FEW_ROWS + 1)
            .run(&Context::new(Some(2), None));
        let last = |m: usize| (m - 1) * case.y_stride;
        assert_eq!(
            many[last(FEW_ROWS + 1)..][..case.n],
            one[last(case.m)..][..case.n]
        );
    }
}

#[test]
fn passes_over_k_follow_each_other_whoever_takes_them() {
    let kind = (Product::Nn, StoredDtype::Bf16, Precision::Bf16);
    let case = Case::new((33, 5 * K_BLOCK + 40, 260), 3, 0, kind);
    let one = case.run(&Context::new(Some(1), None));
    for num_threads in 2..=4 {
        // More threads than processors are interrupted in the midst of a pass.
        let ctx = Context::new(Some(num_threads), None);
        for _ in 0..20 {
            assert!(one == case.run(&ctx), "{num_threads} threads");
        }
    }
}

#[test]
fn rounding_keeps_nan_and_ties_to_even() {
    assert!(scalar::to_bf16(f32::from_bits(0x7f80_0001)).is_nan());
    assert_eq!(scalar::to_bf16(f32::from_bits(0x3f80_8000)), 1.0);
    assert_eq!(
        scalar::to_bf16(f32::from_bits(0x3f81_8000)).to_bits(),
        0x3f82_0000
    );
    assert_eq!(scalar::to_bf16(f32::MAX), f32::INFINITY);
    assert_eq!(scalar::to_bf16(-1e-40).to_bits(), (-0.0f32).to_bits());
}

fn transposed(a: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; a.len()];
    for r in 0..rows {
        for c in 0..cols {
            out[c * rows + r] = a[r * cols + c];
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn outer_products_agree_with_f64(
        t in 0usize..40, m in 1usize..70, n in 1usize..70, seed: u64,
    ) {
        let mut values = Values(seed);
        let (a, b) = (values.vec(t * m, 0), values.vec(t * (n + 1), 0));
        let old = values.vec(m * n, 0);
        let b = Mat { data: &b, stride: n + 1, rows: t, cols: n };
        let at = transposed(&a, t, m);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut y = old.clone();
            let ctx = Context::new(Some(2), Some(isa));
            gemm_tn(&ctx, Mat::dense(&a, t, m), b, 0.7, MatMut::dense(&mut y, m, n));
            for (i, y) in y.iter().enumerate() {
                let (row, col) = (i / n, i % n);
                let sum: f64 = (0..t)
                    .map(|k| f64::from(at[row * t + k]) * f64::from(b.row(k)[col]))
                    .sum();
                let want = f64::from(old[i]) + 0.7f32 as f64 * sum;
                prop_assert!((f64::from(*y) - want).abs() < 1e-5 * (1.0 + t as f64).sqrt());
            }
            let first = first.get_or_insert_with(|| y.clone());
            prop_assert_eq!(same(&y, first, Precision::F32), Ok(()), "{:?}", isa);
        }
    }
}
