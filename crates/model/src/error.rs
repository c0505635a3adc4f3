//! What can go wrong between a model folder and a decoder that runs.

use std::path::PathBuf;

use engine::backend::EngineError;

/// Errors of this crate, but for those of reading a config (see `families`).
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The weights are not those that the config describes. Everything wrong is listed at once.
    #[error("the weights in `{}` are not those of its config{}", .folder.display(), list(.problems))]
    Weights {
        /// The model folder.
        folder: PathBuf,
        /// One line each.
        problems: Vec<String>,
    },
    /// A stored tensor could not be read.
    #[error(transparent)]
    Format(#[from] formats::FormatsError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A module path that the model lacks, or that cannot take a low-rank delta.
    #[error("`{path}` can take no low-rank delta: {reason}")]
    NoSlot {
        /// What was asked for.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// A parameter name that the model lacks.
    #[error("the model has no parameter `{name}`")]
    NoParameter {
        /// What was asked for.
        name: String,
    },
    /// Values of the wrong number.
    #[error("parameter `{name}` has {want} elements: given {found}")]
    Size {
        /// The parameter.
        name: String,
        /// Its elements.
        want: usize,
        /// Values given.
        found: usize,
    },
    /// A sequence longer than the model's learned positions.
    #[error("a sequence of {len} tokens is longer than the model's {max} positions")]
    TooLong {
        /// Tokens of the sequence.
        len: usize,
        /// Rows of the position table.
        max: usize,
    },
    /// A token id outside the embedding.
    #[error("token id {id} is outside the model's vocabulary of {vocab_size}")]
    TokenId {
        /// The id.
        id: u32,
        /// V.
        vocab_size: usize,
    },
    /// Generation settings that contradict each other.
    #[error("generation setting `{name}` {reason}: {value}")]
    Generation {
        /// The setting.
        name: &'static str,
        /// What it must be.
        reason: &'static str,
        /// What it is.
        value: String,
    },
}

impl ModelError {
    /// How to mend it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Weights { .. } => {
                Some("take config.json and the weight files from the same model".into())
            }
            Self::NoSlot { .. } | Self::NoParameter { .. } => {
                Some("`lowrank inspect --model DIR --names` lists modules and parameters".into())
            }
            Self::TooLong { max, .. } => Some(format!("cut at max_length {max} or less")),
            Self::TokenId { .. } => Some("use the tokenizer that belongs to this model".into()),
            Self::Format(error) => error.hint(),
            Self::Generation {
                name: "max_length", ..
            } => {
                Some("raise max_length, or give max_new_tokens, which leaves the prompt out".into())
            }
            Self::Engine(_) | Self::Size { .. } | Self::Generation { .. } => None,
        }
    }
}

/// At most this many problems are shown: a foreign checkpoint has thousands.
const SHOWN: usize = 12;

fn list(problems: &[String]) -> String {
    let mut text: String = problems
        .iter()
        .take(SHOWN)
        .map(|problem| format!("\n  {problem}"))
        .collect();
    if problems.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", problems.len() - SHOWN));
    }
    text
}
