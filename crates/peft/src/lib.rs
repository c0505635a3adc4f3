//! Low-rank adapters in PEFT's own terms: configuration, targets, files, merge.
//!
//! A [`LoraConfig`] on a model gives an [`AdapterPlan`]: every trained value with its name in the decoder, in
//! PEFT's memory and on disk. The plan fills the decoder's slots, writes and reads adapter folders, folds deltas
//! into base weights and answers `inspect`; a merge is proved by what both models say. Knows nothing of a training step (see `train`).

#![forbid(unsafe_code)]

mod adapted;
mod base;
mod card;
mod comparison;
mod condense;
pub mod config;
mod defaults;
mod error;
mod init;
mod inject;
mod inspection;
mod load;
pub mod matching;
mod merge;
mod names;
mod pattern;
mod plan;
pub mod report;
mod save;
mod saved;
mod scaling;

/// PEFT's `LoraConfig`: fields, defaults and file form.
pub use formats::adapter_config::AdapterConfig as LoraConfig;

pub use card::{CARD_NAME, may_replace_card};
pub use comparison::comparable_fields;
pub use defaults::default_targets;
pub use error::{Misshapen, PeftError, Result};
pub use inject::{apply_adapter, get_peft_model, load_adapter};
pub use inspection::{InspectedParameter, InspectedTarget, Inspection, inspect, named_parameters};
pub use load::{BASE_DIGEST, BaseModel, LoadedAdapter, read_adapter};
pub use merge::{
    MAX_SHARD_BYTES, MergeProof, MergeReport, MergeWitness, ModelFolder, PromptProof, ProofPrompt,
    merge_folder, merge_weights, merged_config, save_model,
};
pub use plan::{AdapterPlan, LoraTarget, PlannedParameter, Role};
pub use save::{WEIGHTS_NAME, planned_config, save_adapter, stage_adapter, trained_values};
