//! The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes.
//!
//! The reader is stricter than the crate of that name (whose caps it shares): spaces before the header, repeated keys, keys beside
//! `dtype`, `shape` and `data_offsets`, empty names and names with control characters are refused too. It reads
//! in one pass and keeps only what the header says, so that memory stays below twice the file.
//! The writer gives the bytes of Python's `safetensors.torch.save_file(…, metadata={"format": "pt"})`.

mod read;
mod write;

pub use read::{Header, SafetensorsFault, TensorInfo};
pub use write::{Contents, TensorToWrite, write};

/// Largest header, as upstream.
pub const MAX_HEADER_BYTES: usize = 100_000_000;
/// Levels of JSON; a well-formed header has three.
pub const MAX_DEPTH: usize = 64;
/// Tensors in one file; the largest published models have some tens of thousands.
pub const MAX_TENSORS: usize = 1_000_000;
/// Longest tensor name.
pub const MAX_NAME_BYTES: usize = 4_096;
/// Most sides of a tensor.
pub const MAX_RANK: usize = 16;
/// Entries of `__metadata__`; writers of long training logs there reach some hundreds.
pub const MAX_METADATA: usize = 10_000;
