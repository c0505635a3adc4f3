//! Merging folders, and the proof of it.

use std::path::Path;

use data::Tokenizer;
use model::Compute;
use peft::{MergeProof, MergeReport, MergeWitness, ProofPrompt};

use crate::causal_lm::{CausalLm, LoadOptions};
use crate::error::Result;
use crate::peft_model::PeftModel;

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

/// Runs `prompts` through base + adapter and through the merged folder, in f32, and compares.
///
/// # Errors
/// Folders that do not load; [`peft::PeftError::MergeDiffers`] above the bound. The merged folder stays as it is.
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
    let encoded = |text: &String| {
        Ok(ProofPrompt {
            text: text.clone(),
            input_ids: tokenizer.encode(text, true)?,
        })
    };
    let prompts = prompts.iter().map(encoded).collect::<Result<_>>()?;
    let witness = MergeWitness::hear(adapted.decoder(), prompts)?;
    drop(adapted);
    let merged = CausalLm::load(merged, options)?;
    Ok(witness.prove(merged.decoder(), &merged.weights)?)
}
