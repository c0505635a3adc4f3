//! Every operation of the CPU backend against the oracle on random shapes and strided views, and its bits
//! for one to four threads and every instruction set.

mod ops;

use kernels::Isa;
use lowrank_engine::cpu::Cpu;
use lowrank_engine::reference::Reference;
use lowrank_engine::shapes::ComputeDtype;
use ops::{Attention, Elements, Lora, Losses, Op, Output, Projection};
use proptest::prelude::*;
use std::sync::OnceLock;

/// Half a unit of the last place of f32.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

/// One backend for each number of threads, and one for each instruction set.
fn cpus(compute: ComputeDtype) -> &'static [(String, Cpu)] {
    static F32: OnceLock<Vec<(String, Cpu)>> = OnceLock::new();
    static BF16: OnceLock<Vec<(String, Cpu)>> = OnceLock::new();
    let made = match compute {
        ComputeDtype::F32 => &F32,
        ComputeDtype::Bf16 => &BF16,
    };
    made.get_or_init(|| {
        let threads = (1..=4).map(|threads| (threads, None));
        let isas = Isa::available().into_iter().map(|isa| (2, Some(isa)));
        threads
            .chain(isas)
            .map(|(threads, isa)| {
                let cpu = Cpu::new(Some(threads), compute, isa);
                (format!("{threads} threads, {isa:?}"), cpu)
            })
            .collect()
    })
}

fn bits(outputs: &[Output]) -> Vec<Vec<u32>> {
    outputs
        .iter()
        .map(|output| output.values.iter().map(|x| x.to_bits()).collect())
        .collect()
}

/// What an error may depend on.
struct Element {
    name: &'static str,
    /// Of the output that it is one of, at least 1.
    largest: f64,
    /// The sum of the sizes of its terms, where it is a sum of products.
    size: f64,
}

fn largest(output: &Output) -> f64 {
    let sizes = output.values.iter().map(|x| f64::from(x.abs()));
    sizes.fold(1.0, f64::max)
}

/// `bound` gives the largest error allowed.
fn check(
    op: &dyn Op,
    compute: ComputeDtype,
    oracle: ComputeDtype,
    bound: impl Fn(&Element) -> f64,
) -> Result<(), TestCaseError> {
    let want = op.reference(&Reference::new(oracle));
    let mut first: Option<Vec<Vec<u32>>> = None;
    for (setting, cpu) in cpus(compute) {
        let got = op.cpu(cpu);
        prop_assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            prop_assert_eq!(got.values.len(), want.values.len(), "{}", got.name);
            let (name, largest) = (got.name, largest(want));
            for (i, (x, y)) in got.values.iter().zip(&want.values).enumerate() {
                let size = want.sizes.as_ref().map_or(0.0, |sizes| f64::from(sizes[i]));
                let error = (f64::from(*x) - f64::from(*y)).abs();
                let most = bound(&Element {
                    name,
                    largest,
                    size,
                });
                prop_assert!(
                    error <= most,
                    "{name}[{i}] with {setting}: {x}, oracle {y}, error {error:e} over {most:e}"
                );
            }
        }
        let got = bits(&got);
        let first = first.get_or_insert_with(|| got.clone());
        prop_assert!(*first == got, "{setting} has other bits");
    }
    Ok(())
}

/// Sums of `depth` terms, each fused into the sum, and a few roundings more.
fn of_sums(depth: usize) -> impl Fn(&Element) -> f64 {
    move |of| ROUNDING * (depth as f64 + 6.0) * of.size + 1e-30
}

/// So many roundings of values of the output's size.
fn of_size(roundings: f64) -> impl Fn(&Element) -> f64 {
    move |of| ROUNDING * roundings * of.largest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn projections_in_f32_are_within_the_rounding_of_their_sums(case in Projection::any()) {
        check(&case, ComputeDtype::F32, ComputeDtype::F32, of_sums(case.depth()))?;
    }

    #[test]
    fn projections_in_bf16_differ_from_rounded_inputs_by_the_order_of_sums(case in Projection::any()) {
        check(&case, ComputeDtype::Bf16, ComputeDtype::Bf16, of_sums(case.depth()))?;
    }

    #[test]
    fn projections_in_bf16_are_within_the_rounding_of_their_inputs(case in Projection::any()) {
        // Two inputs, each within 2⁻⁸ of itself.
        let sums = of_sums(case.depth());
        check(&case, ComputeDtype::Bf16, ComputeDtype::F32, |of| {
            sums(of) + of.size * (2.0 + 1.0 / 256.0) / 256.0
        })?;
    }

    #[test]
    fn deltas_with_dropout_are_within_the_rounding_of_their_sums(case in Lora::any()) {
        check(&case, ComputeDtype::Bf16, ComputeDtype::Bf16, of_size(case.roundings()))?;
    }

    #[test]
    fn norms_activations_embeddings_and_steps_agree(case in Elements::any()) {
        check(&case, ComputeDtype::F32, ComputeDtype::F32, of_size(64.0))?;
    }

    #[test]
    fn what_is_kept_in_bf16_is_what_the_oracle_keeps(case in Elements::any()) {
        // A slope at the middle between two steps may go either way.
        let rounding = of_size(64.0);
        check(&case, ComputeDtype::Bf16, ComputeDtype::Bf16, |of| {
            let step = if of.name == "kept slopes dx" { 1.0 / 200.0 } else { 0.0 };
            rounding(of) + step * 1.001
        })?;
    }

    #[test]
    fn attention_of_every_layout_agrees_forward_backward_and_cached(case in Attention::any()) {
        check(&case, ComputeDtype::F32, ComputeDtype::F32, of_size(96.0))?;
    }

    #[test]
    fn attention_in_bf16_is_within_the_rounding_of_what_it_multiplies(case in Attention::any()) {
        // Queries, keys, values, weights, their gradients and the outputs', 2⁻⁹ each.
        let roundings = 6.0 / 512.0 / ROUNDING;
        check(&case, ComputeDtype::Bf16, ComputeDtype::F32, of_size(roundings))?;
        let [f32, bf16] = [ComputeDtype::F32, ComputeDtype::Bf16].map(|compute| bits(&case.cpu(&cpus(compute)[0].1)));
        let [rotated, attended, dqkv, cached] = [0, 1, 2, 3].map(|output| f32[output] == bf16[output]);
        prop_assert!(rotated && cached && !attended && !dqkv, "{rotated} {cached} {attended} {dqkv}");
        for outputs in [f32, bf16] {
            prop_assert!(outputs[1] == outputs[4], "what was kept gives other bits");
        }
    }

    #[test]
    fn losses_and_their_gradients_agree(case in Losses::any()) {
        check(&case, ComputeDtype::F32, ComputeDtype::F32, of_size(16.0))?;
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused_before_anything_is_written() {
    use lowrank_engine::backend::Backend;
    use lowrank_engine::shapes::{View, ViewMut, Write};
    let cpu = Cpu::new(Some(1), ComputeDtype::F32, None);
    let x = cpu.upload(&[1.0; 6]);
    let mut y = cpu.zeros(6);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cpu.copy(
            View::dense(&x, 2, 3),
            ViewMut::dense(&mut y, 3, 2),
            Write::Set,
        );
    }));
    assert!(refused.is_err());
    assert_eq!(cpu.download(&y).unwrap(), [0.0; 6]);
}
