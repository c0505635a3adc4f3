//! What can be wrong with a file of a model or an adapter.

use std::path::PathBuf;

use durable::DurableError;

use crate::pyjson::JsonFault;
use crate::safetensors::SafetensorsFault;
use crate::torch_bin::TorchFault;

/// Why a file could not be read or written. Rows have their own, `rows::RowsError`.
#[derive(Debug, thiserror::Error)]
pub enum FormatsError {
    /// A file could not be opened, read or written.
    #[error(transparent)]
    File(#[from] DurableError),
    /// A file is not JSON, or beyond our limits.
    #[error("`{}` is not json that we read: {fault}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What and where.
        fault: JsonFault,
    },
    /// A JSON file whose value is not an object.
    #[error("`{}` must hold an object: found {found}", .path.display())]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: &'static str,
    },
    /// A key has a value that it cannot have.
    #[error("`{key}` in `{}` must be {want}: found {found}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, as the file spells it.
        key: String,
        /// What it may be.
        want: String,
        /// What it is.
        found: String,
    },
    /// A key is missing.
    #[error("`{}` has no `{}`", .path.display(), .keys.join("` or `"))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The spellings looked for.
        keys: Vec<String>,
    },
    /// Two keys that PEFT does not take together, or one without the other.
    #[error("`{}`: {why}", .path.display())]
    Conflict {
        /// The file.
        path: PathBuf,
        /// Which keys, and why.
        why: String,
    },
    /// An adapter of another method than LoRA.
    #[error("`{}` is not a LoRA adapter, its peft_type is: {found}", .path.display())]
    NotLora {
        /// The file.
        path: PathBuf,
        /// The `peft_type` found.
        found: String,
    },
    /// A file is not a safetensors file that we read.
    #[error("`{}`: {fault}", .path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: SafetensorsFault,
    },
    /// A file is not a torch checkpoint that we read.
    #[error("`{}`: {fault}", .path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: TorchFault,
    },
    /// A folder without weights.
    #[error("`{}` has no weights, looked for: {}", .folder.display(), .looked_for.join(", "))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The file names.
        looked_for: Vec<String>,
    },
    /// A shard name that is more than a file name.
    #[error("`{}` names a shard that is not a plain file name: {name:?}", .index.display())]
    ShardName {
        /// The index.
        index: PathBuf,
        /// As it stands there.
        name: String,
    },
    /// A shard that is a link to a file elsewhere.
    #[error("`{}` names a shard that is a link out of its folder: {name}", .index.display())]
    ShardLink {
        /// The index.
        index: PathBuf,
        /// The file's name.
        name: String,
    },
    /// A shard that the index names and the folder lacks.
    #[error("`{}` names a shard that is not there: {name}", .index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The file's name.
        name: String,
    },
    /// A tensor that two shards hold.
    #[error("tensor `{tensor}` is in two shards: {first}, {second}")]
    TensorTwice {
        /// Its name.
        tensor: String,
        /// A file.
        first: String,
        /// Another.
        second: String,
    },
    /// Tensors that their shard lacks.
    #[error("{} tensors are not in the shard that `{}` names, the first is `{}`: {}", .tensors.len(), .index.display(), .tensors.first().map_or("", |t| &t.0), .tensors.first().map_or("", |t| &t.1))]
    TensorAbsent {
        /// The index.
        index: PathBuf,
        /// Name and shard of each.
        tensors: Vec<(String, String)>,
    },
    /// Tensors of a shard that the index does not list.
    #[error("shard `{}` holds tensors that the index does not list: {}", .shard.display(), .tensors.join(", "))]
    TensorUnlisted {
        /// The shard.
        shard: PathBuf,
        /// Their names.
        tensors: Vec<String>,
    },
    /// A tensor cannot be written under its name.
    #[error("tensor name {name:?} cannot be written: it is {why}")]
    TensorNamed {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A tensor whose size does not fit in 64 bits.
    #[error("tensor `{name}` is too large to write")]
    TensorTooLarge {
        /// Its name.
        name: String,
    },
    /// Bytes that are not the shape's.
    #[error("tensor `{name}` needs {want} bytes to write: found {found}")]
    TensorBytes {
        /// Its name.
        name: String,
        /// Bytes of its shape.
        want: usize,
        /// Bytes given.
        found: usize,
    },
    /// More names than a header holds.
    #[error("the header of the file to write would have {0} bytes, more than readers take")]
    HeaderTooLong(usize),
    /// The file being written failed.
    #[error("tensors could not be written")]
    Write {
        /// What the file system said.
        source: std::io::Error,
    },
}

impl FormatsError {
    /// How to mend it, where we know.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::File(source) => return source.hint(),
            Self::Json { .. } | Self::NotAnObject { .. } => {
                "fetch the file again; a page of a web site or a git-lfs pointer looks like this"
            }
            Self::MissingKey { .. } => "is this the right folder? a model's config.json has it",
            Self::NotLora { .. } => "only LoRA adapters are read",
            Self::Safetensors { fault, .. } => return fault.hint(),
            Self::Torch { fault, .. } => return fault.hint(),
            Self::NoWeights { looked_for, .. } => {
                let of_adapter = looked_for.iter().any(|name| name.starts_with("adapter"));
                if of_adapter {
                    "give the folder that holds the weights beside adapter_config.json"
                } else {
                    "give the folder that holds the weights beside config.json"
                }
            }
            Self::MissingShard { .. } => "fetch the missing file into the folder",
            Self::ShardName { .. } => "do not trust this folder: shards lie beside their index",
            Self::ShardLink { .. } => {
                "put the file itself there; only the hub's cache may keep its files elsewhere"
            }
            Self::TensorTwice { .. } | Self::TensorAbsent { .. } | Self::TensorUnlisted { .. } => {
                "index and shards are of different models or versions: fetch both again"
            }
            Self::TensorTooLarge { .. } | Self::HeaderTooLong(_) => "write it as several shards",
            Self::Key { .. }
            | Self::Conflict { .. }
            | Self::TensorNamed { .. }
            | Self::TensorBytes { .. }
            | Self::Write { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
