//! LoRA fine-tuning of Hugging Face causal language models, natively.
//!
//! The words are Hugging Face's: [`Dataset::load_from_disk`], [`Tokenizer::from_pretrained`],
//! [`CausalLm::from_pretrained`], [`LoraConfig`], [`get_peft_model`], [`TrainingArguments`], [`Trainer`],
//! [`PeftModel::from_pretrained`], `generate`, `merge_and_unload`, `save_pretrained`. The files that it writes open in
//! the Python stack, and the other way round.
#![doc = include_str!("../../../docs/LIBRARY.md")]

mod causal_lm;
mod dataset;
mod error;
mod generation;
mod inspection;
mod merging;
mod peft_model;
mod trainer;
mod trainer_verify;

pub use causal_lm::{CausalLm, LoadOptions};
pub use data::{
    CacheUse, Example, IGNORE_INDEX, Report, SpecialTokens, Template, TextStream, Tokenizer,
};
pub use dataset::{Dataset, TokenizedDataset};
pub use engine::shapes::ComputeDtype;
pub use error::{LowrankError, Result, hint};
pub use generation::Generated;
pub use inspection::inspect;
pub use merging::{merge_folder, prove_merge};
pub use model::near::nearest_name;
pub use model::{Compute, GenerationConfig};
pub use peft::report::grouped;
pub use peft::{
    InspectedParameter, InspectedTarget, Inspection, LoraConfig, MAX_SHARD_BYTES, MergeProof,
    MergeReport, PeftError, PromptProof, comparable_fields,
};
pub use peft_model::{PeftModel, get_peft_model};
pub use train::{
    Banner, Ending, Evaluation, Event, FIELDS, Field, LogEntry, Observer, Plan, ResumeProof,
    RowLoss, StopFlag, TOKEN_CACHE, TrainError, TrainOutput, TrainingArguments, UpdateDone,
    unsupported_arguments,
};
pub use trainer::{Trainer, check_output};
pub use trainer_verify::{ResumeCheck, verify_resume};

/// The file formats under the words above, for programs that need a file as it is.
pub use formats;
/// Values of [`LoraConfig`]'s fields.
pub use formats::adapter_config::{Bias, InitLoraWeights, Number, OneOrMany};

/// Reads a text file of a user's own, such as a run file.
///
/// # Errors
/// A file that is missing, not UTF-8, or larger than 4 MiB.
pub fn read_text(path: &std::path::Path) -> Result<String> {
    Ok(durable::read_text_capped(path, 4 << 20)?)
}

/// An instruction set by its name: `scalar`, `avx2`, `avx512`, `avx512bf16`.
///
/// # Errors
/// The names there are.
pub fn isa_named(name: &str) -> std::result::Result<kernels::Isa, String> {
    kernels::Isa::named(name)
        .ok_or_else(|| format!("no instruction set `{name}`: scalar, avx2, avx512, avx512bf16"))
}
