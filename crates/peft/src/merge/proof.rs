//! The proof of a merge: the merged model must say what base and adapter say.
//!
//! Over each prompt and the greedy tokens behind it, the logits of both are compared position by position. The adapter
//! is heard first and can then be dropped, so that one model at a time is in memory.

use std::ops::ControlFlow;

use engine::backend::Backend;
use formats::Dtype;
use formats::weights::WeightStore;
use model::{Decoder, GenerationConfig};
use serde::Serialize;

use crate::error::{PeftError, Result};

/// New tokens that adapter and merged model are compared over.
const PROOF_TOKENS: usize = 24;
/// Largest logit difference allowed, as a share of the largest logit, where the merged weights are f32: both sides
/// compute the same sums in another order.
const EXACT_BOUND: f32 = 1e-3;
/// The same where the merged weights are rounded once to 16 bits, as `merge_and_unload` does too: half a unit in the
/// last place of bf16 is 2^-9 of a weight, and it adds up over layers.
const ROUNDED_BOUND: f32 = 5e-2;

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

/// What is put to both models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofPrompt {
    /// As a person reads it.
    pub text: String,
    /// Its ids.
    pub input_ids: Vec<u32>,
}

/// What base and adapter said to some prompts, kept for the merged model to be held against.
pub struct MergeWitness {
    answers: Vec<Answer>,
}

struct Answer {
    prompt: ProofPrompt,
    /// The greedy tokens.
    new_ids: Vec<u32>,
    /// At every position of prompt and tokens.
    logits: Vec<f32>,
}

impl MergeWitness {
    /// Hears a decoder with the adapter in its slots, which should compute in f32: rounded products would be compared
    /// with rounded products.
    ///
    /// # Errors
    /// [`PeftError::NoPrompts`] where there is none, [`PeftError::Model`] for one that does not fit the model.
    pub fn hear<B: Backend>(adapted: &Decoder<B>, prompts: Vec<ProofPrompt>) -> Result<Self> {
        if prompts.is_empty() {
            return Err(PeftError::NoPrompts);
        }
        let answer = |prompt: ProofPrompt| {
            let new_ids = greedy(adapted, &prompt.input_ids)?;
            let logits = logits(adapted, &prompt.input_ids, &new_ids)?;
            Ok(Answer {
                prompt,
                new_ids,
                logits,
            })
        };
        let answers = prompts.into_iter().map(answer).collect::<Result<_>>()?;
        Ok(Self { answers })
    }

    /// Holds the merged model, computing as the adapter's did, against what was heard.
    ///
    /// * `weights`: the merged model's, whose types decide how close it must come.
    ///
    /// # Errors
    /// [`PeftError::MergeDiffers`] above the bound, or where a logit is not a number.
    pub fn prove<B: Backend>(
        self,
        merged: &Decoder<B>,
        weights: &WeightStore,
    ) -> Result<MergeProof> {
        let exact = weights.iter().all(|tensor| tensor.dtype == Dtype::F32);
        let bound = if exact { EXACT_BOUND } else { ROUNDED_BOUND };
        let answers = self.answers.into_iter();
        let prompts = answers
            .map(|answer| answer.compare(merged))
            .collect::<Result<_>>()?;
        MergeProof::within(bound, prompts)
    }
}

impl Answer {
    fn compare<B: Backend>(self, merged: &Decoder<B>) -> Result<PromptProof> {
        let merged_ids = greedy(merged, &self.prompt.input_ids)?;
        let merged_logits = logits(merged, &self.prompt.input_ids, &self.new_ids)?;
        let logits = self.logits.iter().zip(&merged_logits);
        let mut ids = self.new_ids.iter().zip(&merged_ids);
        Ok(PromptProof {
            first_difference: ids.position(|(one, other)| one != other),
            max_logit_difference: largest(logits.map(|(one, other)| (one - other).abs())),
            max_logit: self
                .logits
                .iter()
                .fold(0.0, |most, logit| most.max(logit.abs())),
            prompt: self.prompt.text,
            adapter_ids: self.new_ids,
            merged_ids,
        })
    }
}

impl MergeProof {
    fn within(bound: f32, prompts: Vec<PromptProof>) -> Result<Self> {
        let largest_difference = largest(prompts.iter().map(PromptProof::share));
        // Written so that NaN fails.
        if largest_difference <= bound {
            return Ok(Self {
                prompts,
                largest_difference,
                bound,
            });
        }
        Err(PeftError::MergeDiffers {
            difference: largest_difference,
            bound,
        })
    }
}

impl PromptProof {
    /// Its difference as a share of its largest logit.
    fn share(&self) -> f32 {
        self.max_logit_difference / self.max_logit.max(f32::MIN_POSITIVE)
    }
}

fn greedy<B: Backend>(decoder: &Decoder<B>, prompt: &[u32]) -> Result<Vec<u32>> {
    let config = GenerationConfig {
        max_new_tokens: Some(PROOF_TOKENS),
        ..GenerationConfig::default()
    };
    Ok(decoder.generate(prompt, &config, |_| ControlFlow::Continue(()))?)
}

fn logits<B: Backend>(decoder: &Decoder<B>, prompt: &[u32], new_ids: &[u32]) -> Result<Vec<f32>> {
    let ids = [prompt, new_ids].concat();
    let every: Vec<u32> = (0..ids.len() as u32).collect();
    Ok(decoder.logits(&ids, &every)?)
}

/// The largest, or NaN where one is: `f32::max` passes over NaN, which must not pass for agreement.
fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |most, value| {
        if value > most || value.is_nan() {
            value
        } else {
            most
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differing_by(max_logit_difference: f32) -> PromptProof {
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
        let within =
            |differences: [f32; 2]| MergeProof::within(1e-3, differences.map(differing_by).into());
        assert!(within([0.0, 0.009]).is_ok());
        for differences in [[0.0, 0.011], [f32::NAN, 0.0], [0.0, f32::NAN]] {
            let refused = within(differences).unwrap_err();
            assert!(
                matches!(refused, PeftError::MergeDiffers { bound: 1e-3, .. }),
                "{refused}"
            );
        }
    }
}
