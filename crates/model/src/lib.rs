//! One decoder for every family.
//!
//! A family is a table in [`families`]: `config.json` becomes a [`spec::DecoderSpec`] (what to compute, and
//! under which names the weights lie) and a [`tree::ModuleTree`] (what torch would print). The decoder reads
//! the spec and knows no family. It has slots for low-rank deltas and trainable values; who fills them, and from
//! which files, is the business of `peft`.

mod batch;
mod block;
mod cache;
mod compute;
mod decoder;
mod embedding;
mod error;
pub mod families;
pub mod fuzzing;
mod generate;
mod generation_config;
mod head;
mod load;
pub mod near;
mod norm;
mod parameter;
mod projection;
mod rope;
mod sampler;
mod slots;
pub mod spec;
mod tie;
pub mod tree;

pub use batch::{DROPOUT_MASKS, PassKey, Target, TokenBatch};
pub use cache::KvCache;
pub use compute::Compute;
pub use decoder::Decoder;
pub use error::ModelError;
pub use generation_config::GenerationConfig;
pub use load::stored_tensor;
pub use parameter::{LoraInit, Parameter, stored_values};
pub use tie::{config_as_stored, untied};
