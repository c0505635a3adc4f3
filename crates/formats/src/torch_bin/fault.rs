//! Why a torch file is refused.

/// Why a file is not a torch checkpoint that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TorchFault {
    /// No end of a zip's directory in the file.
    #[error("the file is not a zip, or was cut")]
    NotAZip,
    /// The format of torch before 1.6.
    #[error("the file is in torch's format from before 1.6, which is not a zip")]
    Legacy,
    /// A zip whose own structure does not hold together.
    #[error("the zip does not hold together: {0}")]
    Zip(&'static str),
    /// An entry that we do not read.
    #[error("zip entry `{name}` {why}")]
    Entry {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than [`super::MAX_ENTRIES`].
    #[error("the zip has more than {} entries", super::MAX_ENTRIES)]
    TooManyEntries,
    /// Not one `data.pkl`.
    #[error("the zip has {0} entries named data.pkl, a checkpoint has one")]
    Pickles(usize),
    /// More than [`super::MAX_PICKLE_BYTES`].
    #[error("data.pkl has {0} bytes, more than {max}", max = super::MAX_PICKLE_BYTES)]
    PickleTooLarge(usize),
    /// A big-endian machine wrote it.
    #[error("the numbers are not little-endian")]
    ByteOrder,
    /// The pickle ends inside an instruction, or lacks its last.
    #[error("data.pkl ends too early")]
    PickleEnd,
    /// An instruction that a state dict does not need.
    #[error("data.pkl uses opcode {name} (0x{code:02x}) at byte {at}, which is not allowed")]
    Opcode {
        /// The opcode.
        code: u8,
        /// Its name, where it has one.
        name: &'static str,
        /// Where in the pickle.
        at: usize,
    },
    /// A name that the pickle wants imported and a state dict does not need.
    #[error("data.pkl asks for `{0}`, which is not allowed")]
    Global(String),
    /// An instruction whose operands are not what it needs.
    #[error("data.pkl does not hold together at byte {at}: {why}")]
    Pickle {
        /// Where in the pickle.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// More values than a state dict has.
    #[error("data.pkl makes more than {0} values")]
    TooManyValues(usize),
    /// The pickle holds something else than names and tensors.
    #[error("the checkpoint holds {0}, not a state dict of named tensors")]
    NotAStateDict(&'static str),
    /// A key whose value is not a tensor.
    #[error("`{key}` of the checkpoint is {found}, not a tensor")]
    NotATensor {
        /// The key.
        key: String,
        /// What it is.
        found: &'static str,
    },
    /// A key that is there twice.
    #[error("tensor `{0}` is there twice")]
    DuplicateKey(String),
    /// A storage that the zip lacks.
    #[error("tensor `{tensor}` needs storage {storage}, which is not in the file")]
    MissingStorage {
        /// Name of the tensor.
        tensor: String,
        /// Key of the storage.
        storage: String,
    },
    /// A storage that is not as long as the pickle says.
    #[error("storage {storage} of tensor `{tensor}` has {found} bytes: it should have {want}")]
    StorageSize {
        /// Name of the tensor.
        tensor: String,
        /// Key of the storage.
        storage: String,
        /// What the pickle says.
        want: usize,
        /// Size of the entry.
        found: usize,
    },
    /// A shape that reaches beyond the storage, or overflows.
    #[error(
        "tensor `{tensor}` reaches beyond its storage: shape {shape:?}, strides {strides:?}, offset {offset}"
    )]
    Beyond {
        /// Name of the tensor.
        tensor: String,
        /// Its sides.
        shape: Vec<usize>,
        /// Elements between neighbours along each side.
        strides: Vec<usize>,
        /// First element.
        offset: usize,
    },
    /// A view that repeats elements, or one too many that is not row-major.
    #[error("tensor `{tensor}` is not contiguous: shape {shape:?}, strides {strides:?}")]
    NotContiguous {
        /// Name of the tensor.
        tensor: String,
        /// Its sides.
        shape: Vec<usize>,
        /// Elements between neighbours along each side.
        strides: Vec<usize>,
    },
}

impl TorchFault {
    /// How to mend it, where we know.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotAZip | Self::Zip(_) | Self::PickleEnd | Self::StorageSize { .. } => {
                "fetch the file again; a broken download or a git-lfs pointer looks like this"
            }
            Self::Legacy | Self::ByteOrder | Self::NotContiguous { .. } => {
                "save the model again as safetensors with a current torch"
            }
            Self::Opcode { .. } | Self::Global(_) => {
                "nothing was run; use the model's safetensors files, or do not trust this one"
            }
            Self::NotAStateDict(_) | Self::NotATensor { .. } => {
                "a whole checkpoint or a scripted model is not read, only a model's state dict"
            }
            _ => "do not trust this file: no known writer makes it",
        };
        Some(hint.to_owned())
    }
}
