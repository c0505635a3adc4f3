//! `pytorch_model.bin` and its like: a zip with one pickle and one entry a storage, as `torch.save` writes.
//!
//! Nothing of the file is run. The pickle goes through a small machine of our own that knows the opcodes and
//! the six kinds of globals a state dict needs (`torch._utils._rebuild_tensor_v2` and `_rebuild_parameter`,
//! `torch.<Type>Storage`, `collections.OrderedDict`); anything else is refused by its name. Tensors are views
//! of the mapped file. Refused too: the format before torch 1.6 (no zip), compressed or encrypted entries,
//! big-endian files, overlapping entries, tensors beyond their storage. Checksums of entries are not verified.

mod allowed;
mod fault;
mod pickle;
mod tensor;
mod zip;

use std::ops::Range;

use durable::{Mapped, MappedSlice};

use crate::dtype::Dtype;
pub use fault::TorchFault;

/// Largest `data.pkl`: it holds names and shapes, not numbers.
pub const MAX_PICKLE_BYTES: usize = 16 << 20;
/// Most entries of the zip.
pub const MAX_ENTRIES: usize = 1_000_000;

/// A tensor of the file.
#[derive(Debug, Clone)]
pub struct TorchTensor {
    /// Its key in the state dict.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its sides, slowest first.
    pub shape: Vec<usize>,
    /// Its bytes, row-major.
    pub bytes: MappedSlice,
}

/// What a file holds.
#[derive(Debug, Clone)]
pub struct TorchFile {
    /// In the order of the state dict.
    pub tensors: Vec<TorchTensor>,
    /// Where the pickle lies in the file.
    pub pickle: Range<usize>,
}

impl TorchFile {
    /// Reads the state dict of a whole file.
    ///
    /// A tensor that is not row-major (saved from a transposed view) is copied into order; all such copies
    /// together are at most as large as the file.
    ///
    /// # Errors
    /// [`TorchFault`].
    pub fn parse(file: &Mapped) -> Result<Self, TorchFault> {
        let archive = zip::Archive::parse(file)?;
        let (prefix, pickle) = archive.pickle()?;
        if pickle.len() > MAX_PICKLE_BYTES {
            return Err(TorchFault::PickleTooLarge(pickle.len()));
        }
        check_byte_order(file, &archive, prefix)?;
        let bytes = file.as_ref().get(pickle.clone()).unwrap_or_default();
        let records = pickle::state_dict(bytes)?;
        let mut gather = tensor::Gather::new(file, &archive, prefix);
        let tensors = records.into_iter().map(|record| gather.tensor(record));
        Ok(Self {
            tensors: tensors.collect::<Result<_, _>>()?,
            pickle,
        })
    }
}

/// Files without the entry are from before torch 2.1, and little-endian.
fn check_byte_order(
    file: &Mapped,
    archive: &zip::Archive<'_>,
    prefix: &str,
) -> Result<(), TorchFault> {
    let Some(range) = archive.get(&format!("{prefix}/byteorder")) else {
        return Ok(());
    };
    match file.as_ref().get(range) {
        Some(b"little") => Ok(()),
        _ => Err(TorchFault::ByteOrder),
    }
}
