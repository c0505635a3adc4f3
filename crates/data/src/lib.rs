//! Dataset rows to token ids and labels, and the order in which epochs visit them.
//!
//! The order is a pure function of (seed, epoch); the ids are a pure function of rows, template, tokenizer and
//! `max_length`, so they are kept in a cache file. Knows nothing of the model that will read the ids.

pub mod encoded;
mod error;
mod example;
pub mod fuzzing;
pub mod order;
mod python_text;
pub mod template;
pub mod tokenizer;

pub use encoded::{CacheUse, EncodedDataset, Report};
pub use error::DataError;
pub use example::{Example, IGNORE_INDEX};
pub use template::Template;
pub use tokenizer::{SpecialTokens, TextStream, Tokenizer};
