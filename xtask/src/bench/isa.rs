//! What each instruction set reaches in the frozen products and in attention.

use anyhow::Result;
use clap::Args;
use kernels::{Context, Isa, Precision, Product, peak};

use super::Race;
use super::gemm::{Case, Weights, best_seconds};
use super::kernels::{Attention, HEAD_DIM, HEADS};
use crate::run::{output, root};

/// Prints the table.
#[derive(Args)]
pub(crate) struct IsaArgs {
    /// Tokens.
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Output and input features of the product.
    #[arg(long, default_value_t = 2048)]
    width: usize,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

/// Runs it.
pub(crate) fn run(args: &IsaArgs) {
    let weights = Weights::new(args.width * args.width * 2 * 8);
    println!(
        "\n{} tokens, products with {2} × {2} weights stored in bf16, attention of {HEADS} heads of {HEAD_DIM}; {1} threads; GFLOP/s\n",
        args.tokens,
        Context::default().threads().count(),
        args.width
    );
    println!(
        "| | peak f32 / bf16 | `x·Wᵀ` f32 | `dy·W` f32 | `x·Wᵀ` bf16 | `dy·W` bf16 | attention forward f32 | backward f32 | forward bf16 | backward bf16 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for isa in Isa::available() {
        let context = Context::new(None, Some(isa));
        let peak = peak(&context);
        let cases = [Precision::F32, Precision::Bf16].map(|precision| {
            [Product::Nt, Product::Nn].map(|product| Case {
                out: args.width,
                inputs: args.width,
                m: args.tokens,
                product,
                precision,
            })
        });
        let products = cases
            .iter()
            .flatten()
            .map(|case| weights.best_rate(&context, case, args.seconds));
        let attentions = [Precision::F32, Precision::Bf16]
            .map(|precision| attention(&context, args.tokens, precision, args.seconds));
        let rates: Vec<String> = products
            .chain(attentions.into_iter().flatten())
            .map(|rate| format!("{rate:.1}"))
            .collect();
        println!(
            "| {isa:?} | {:.0} / {:.0} | {} |",
            peak.f32_gflops,
            peak.bf16_gflops,
            rates.join(" | ")
        );
    }
}

/// GFLOP/s forward and backward of one causal row; products of half a square, two and five of them.
fn attention(context: &Context, tokens: usize, precision: Precision, seconds: f64) -> [f64; 2] {
    let mut attention = Attention::new(tokens, precision);
    let ahead = best_seconds(seconds, || attention.forward(context));
    let back = best_seconds(seconds, || attention.backward(context));
    let half_square = (tokens * tokens * HEADS * HEAD_DIM) as f64 * 1e-9;
    [2.0 * half_square / ahead, 5.0 * half_square / back]
}

/// Prints what the side prints.
pub(crate) fn race(race: &Race) -> Result<()> {
    let mut command = race.side("isa");
    if race.smoke {
        command.args(["--tokens", "16", "--width", "128", "--seconds", "0.01"]);
    }
    print!("{}", output(command.current_dir(root()))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_of_this_machine_runs() {
        for isa in Isa::available() {
            let context = Context::new(Some(2), Some(isa));
            let rates = [Precision::F32, Precision::Bf16]
                .map(|precision| attention(&context, 5, precision, 0.0));
            assert!(
                rates
                    .as_flattened()
                    .iter()
                    .all(|rate| rate.is_finite() && *rate > 0.0),
                "{isa:?}"
            );
        }
    }
}
