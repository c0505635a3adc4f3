//! Why a `config.json` is refused.

use std::path::PathBuf;

/// A config that this program cannot, or should not, build a decoder from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file says nothing of its family.
    #[error("key `model_type` is missing in `{}`", .path.display())]
    NoModelType {
        /// The config.
        path: PathBuf,
    },
    /// A family that has no table here.
    #[error("model_type of `{}` is not supported: `{found}`", .path.display())]
    UnknownFamily {
        /// The config.
        path: PathBuf,
        /// What it says.
        found: String,
        /// Every family with a table.
        known: Vec<&'static str>,
        /// Those spelled alike.
        near: Vec<String>,
    },
    /// A size without which nothing can be built.
    #[error("key {} is missing in `{}`", spelled(.keys), .path.display())]
    Missing {
        /// The config.
        path: PathBuf,
        /// Its accepted spellings.
        keys: Vec<&'static str>,
    },
    /// A value of another JSON type.
    #[error("key `{key}` in `{}` must be {want}: {found}", .path.display())]
    WrongType {
        /// The config.
        path: PathBuf,
        /// The key as the file spells it.
        key: String,
        /// What belongs there.
        want: &'static str,
        /// What is there.
        found: String,
    },
    /// A number that is no possible size.
    #[error("key `{key}` in `{}` must be {want}: {found}", .path.display())]
    OutOfRange {
        /// The config.
        path: PathBuf,
        /// The key as the file spells it.
        key: String,
        /// The range.
        want: String,
        /// What is there.
        found: String,
    },
    /// A possible value that the decoder cannot compute.
    #[error("`{key}` of `{}` is not supported, {why}: {found}", .path.display())]
    Unsupported {
        /// The config.
        path: PathBuf,
        /// The key as the file spells it.
        key: String,
        /// What is there.
        found: String,
        /// What is supported instead.
        why: String,
    },
}

fn spelled(keys: &[&'static str]) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    quoted.join(" or ")
}

impl ConfigError {
    /// How to mend it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoModelType { .. } => Some(
                "give the folder of a Transformers model; its config.json names the family, \
                 as \"model_type\": \"bloom\""
                    .into(),
            ),
            Self::UnknownFamily { known, near, .. } if near.is_empty() => {
                Some(format!("supported are {}", known.join(", ")))
            }
            Self::UnknownFamily { known, near, .. } => Some(format!(
                "did you mean {}? Supported are {}",
                near.join(" or "),
                known.join(", ")
            )),
            Self::Missing { .. } => Some("copy config.json again from the model's source".into()),
            Self::WrongType { .. } | Self::OutOfRange { .. } => {
                Some("compare the key with the config.json of the model's source".into())
            }
            Self::Unsupported { .. } => None,
        }
    }
}
