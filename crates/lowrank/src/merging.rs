//! Merging with a proof: the adapter and the merged model must say the same.

use std::ops::ControlFlow;
use std::path::Path;

use data::Tokenizer;
use engine::cpu::Cpu;
use formats::Dtype;
use model::{Decoder, GenerationConfig};
use peft::MergeReport;
use serde::Serialize;

use crate::causal_lm::{CausalLm, Compute, LoadOptions};
use crate::error::{LowrankError, Result};
use crate::peft_model::PeftModel;

/// New tokens that adapter and merged model are compared over.
const PROOF_TOKENS: usize = 24;
/// Largest logit difference allowed, as a share of the largest logit, where the merged weights are f32: both sides
/// compute the same sums in another order.
const EXACT_BOUND: f32 = 1e-3;
/// The same where the merged weights are rounded once to 16 bits, as `merge_and_unload` does too: half a unit in the
/// last place of bf16 is 2^-9 of a weight, and it adds up over layers.
const ROUNDED_BOUND: f32 = 5e-2;

/// Folds an adapter into its base and writes a plain model folder, which must not exist.
///
/// # Errors
/// Folders that do not load or do not fit each other; a disk that fails. Nothing is at `output` then.
pub fn merge_folder(
    base: impl AsRef<Path>,
    adapter: impl AsRef<Path>,
    output: impl AsRef<Path>,
    max_shard_bytes: u64,
) -> Result<MergeReport> {
    Ok(peft::merge_folder(
        base.as_ref(),
        adapter.as_ref(),
        output.as_ref(),
        max_shard_bytes,
    )?)
}

/// How adapter and merged model compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergeProof {
    /// One entry a prompt.
    pub prompts: Vec<PromptProof>,
    /// Largest logit difference, as a share of the largest logit.
    pub largest_difference: f32,
    /// The most that is allowed.
    pub bound: f32,
}

/// One prompt's part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptProof {
    /// The prompt.
    pub prompt: String,
    /// The adapter's greedy tokens.
    pub adapter_ids: Vec<u32>,
    /// The merged model's.
    pub merged_ids: Vec<u32>,
    /// Index of the first token that differs.
    pub first_difference: Option<usize>,
    /// Largest logit difference over the prompt and the adapter's tokens.
    pub max_logit_difference: f32,
    /// Largest logit there.
    pub max_logit: f32,
}

/// Runs `prompts` through base + adapter and through the merged folder, in f32, and compares.
///
/// # Errors
/// Folders that do not load; [`LowrankError::MergeDiffers`] above the bound.
pub fn prove_merge(
    base: impl AsRef<Path>,
    adapter: impl AsRef<Path>,
    merged: impl AsRef<Path>,
    prompts: &[String],
    options: LoadOptions,
) -> Result<MergeProof> {
    let options = LoadOptions {
        compute_dtype: Compute::F32,
        ..options
    };
    let tokenizer = Tokenizer::from_pretrained(base.as_ref())?;
    let adapted = PeftModel::from_pretrained(CausalLm::load(base, options)?, adapter)?;
    let ids = prompts.iter().map(|prompt| tokenizer.encode(prompt, true));
    let ids = ids.collect::<std::result::Result<Vec<_>, _>>()?;
    let with_adapter = ids
        .iter()
        .map(|ids| run(adapted.decoder(), ids))
        .collect::<Result<Vec<_>>>()?;
    drop(adapted);
    let merged = CausalLm::load(merged, options)?;
    let exact = merged
        .weights
        .iter()
        .all(|tensor| tensor.dtype == Dtype::F32);
    let bound = if exact { EXACT_BOUND } else { ROUNDED_BOUND };
    let mut proofs = Vec::with_capacity(prompts.len());
    for ((prompt, ids), adapter) in prompts.iter().zip(&ids).zip(with_adapter) {
        proofs.push(compare(merged.decoder(), prompt, ids, adapter)?);
    }
    judge(proofs, bound)
}

/// Greedy tokens, and the logits at every position of prompt and tokens.
struct Run {
    new_ids: Vec<u32>,
    logits: Vec<f32>,
}

fn run(decoder: &Decoder<Cpu>, prompt: &[u32]) -> Result<Run> {
    let config = GenerationConfig {
        max_new_tokens: Some(PROOF_TOKENS),
        ..GenerationConfig::default()
    };
    let new_ids = decoder.generate(prompt, &config, |_| ControlFlow::Continue(()))?;
    let logits = logits(decoder, prompt, &new_ids)?;
    Ok(Run { new_ids, logits })
}

fn logits(decoder: &Decoder<Cpu>, prompt: &[u32], new_ids: &[u32]) -> Result<Vec<f32>> {
    let ids = [prompt, new_ids].concat();
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    Ok(decoder.logits(&ids, &rows)?)
}

fn compare(merged: &Decoder<Cpu>, prompt: &str, ids: &[u32], adapter: Run) -> Result<PromptProof> {
    let config = GenerationConfig {
        max_new_tokens: Some(PROOF_TOKENS),
        ..GenerationConfig::default()
    };
    let merged_ids = merged.generate(ids, &config, |_| ControlFlow::Continue(()))?;
    let merged_logits = logits(merged, ids, &adapter.new_ids)?;
    let gaps = adapter
        .logits
        .iter()
        .zip(&merged_logits)
        .map(|(one, other)| (one - other).abs());
    let pairs = adapter.new_ids.iter().zip(&merged_ids);
    Ok(PromptProof {
        prompt: prompt.to_owned(),
        first_difference: pairs.clone().position(|(one, other)| one != other),
        // `f32::max` passes over NaN; a NaN must not pass for agreement.
        max_logit_difference: gaps.fold(0.0, |most, gap| {
            if gap > most || gap.is_nan() {
                gap
            } else {
                most
            }
        }),
        max_logit: adapter
            .logits
            .iter()
            .fold(0.0, |most, logit| most.max(logit.abs())),
        adapter_ids: adapter.new_ids,
        merged_ids,
    })
}

fn judge(prompts: Vec<PromptProof>, bound: f32) -> Result<MergeProof> {
    let share =
        |proof: &PromptProof| proof.max_logit_difference / proof.max_logit.max(f32::MIN_POSITIVE);
    let largest_difference = prompts.iter().map(share).fold(0.0, |most: f32, share| {
        if share > most || share.is_nan() {
            share
        } else {
            most
        }
    });
    // Written so that NaN fails.
    if largest_difference <= bound {
        return Ok(MergeProof {
            prompts,
            largest_difference,
            bound,
        });
    }
    let reason =
        format!("logits differ by {largest_difference:e} of the largest, the bound is {bound:e}");
    Err(LowrankError::MergeDiffers { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(max_logit_difference: f32) -> PromptProof {
        PromptProof {
            prompt: String::new(),
            adapter_ids: vec![1],
            merged_ids: vec![1],
            first_difference: None,
            max_logit_difference,
            max_logit: 10.0,
        }
    }

    #[test]
    fn a_difference_above_the_bound_or_nan_fails() {
        assert!(judge(vec![proof(0.0), proof(0.009)], 1e-3).is_ok());
        assert!(judge(vec![proof(0.0), proof(0.011)], 1e-3).is_err());
        assert!(judge(vec![proof(f32::NAN), proof(0.0)], 1e-3).is_err());
    }
}
