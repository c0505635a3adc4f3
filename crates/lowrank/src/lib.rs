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
mod evaluation;
mod generation;
mod merging;
mod peft_model;
mod trainer;

pub use causal_lm::{CausalLm, Compute, LoadOptions};
pub use data::{Example, IGNORE_INDEX, Report, SpecialTokens, Template, TextStream, Tokenizer};
pub use dataset::{Dataset, TokenizedDataset};
pub use engine::shapes::ComputeDtype;
pub use error::{LowrankError, Result};
pub use evaluation::{Evaluation, RowLoss};
pub use generation::Generated;
pub use merging::{MergeProof, PromptProof, prove_merge};
pub use model::GenerationConfig;
pub use peft::report::grouped;
pub use peft::{LoraConfig, MergeReport};
pub use peft_model::{PeftModel, get_peft_model};
pub use train::{
    Banner, Ending, Event, FIELDS, Field, LogEntry, Observer, StopFlag, TrainOutput, TrainingArguments, UpdateDone,
    nearest_name,
};
pub use trainer::Trainer;
