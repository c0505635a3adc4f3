//! Bytes to typed values and back: weights, configurations, logs, rows.
//!
//! Every file here may come from a stranger. A parser reads under caps, keeps what it understood, and answers
//! with a typed error for the rest: no panic, no code of the file's run, no memory that a file merely claims.
//! Knows nothing of what a tensor is for (see `model`, `peft`).

pub mod adapter_config;
pub mod dtype;
mod error;
mod fields;
pub mod fuzzing;
pub mod hf_config;
pub mod pyjson;
pub mod rows;
pub mod safetensors;
pub mod sharding;
pub mod torch_bin;
pub mod trainer_state;
pub mod weights;

pub use dtype::Dtype;
pub use error::FormatsError;
pub use fields::MAX_CONFIG_BYTES;
pub use rows::{Rows, RowsError};
