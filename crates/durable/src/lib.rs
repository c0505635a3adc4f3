//! Everything that touches files: the one door to the disk.
//!
//! A published folder is complete or it is not there; a file is old or new, never half; what was
//! acknowledged survives a power cut. The protocol (stage, sync each file, manifest last, sync the folder,
//! rename without replacing, sync the parent) is the one that databases use; nothing here knows a tensor.
//!
//! All access goes through [`Fs`], so that tests can put a file system in its place which fails, tears or
//! loses any operation (see [`faults`]). [`Disk`] is the handle; the free functions use the real disk.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the room that the list points at"
)]

pub mod faults;
pub mod fuzzing;

mod behind;
mod digest;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod direct;
mod disk;
mod error;
mod fs;
mod links;
mod lock;
mod log;
mod manifest;
mod mapped;
mod real;
mod staged;
mod store;
mod strays;
mod writing;

use std::path::Path;

pub use digest::{Hasher, sha256_hex};
pub use disk::{Disk, Entry, ReadFile, plain_name};
pub use error::{DurableError, Result, Skipped};
pub use fs::{Fs, FsFile, Hold, Kind, Point, Stat};
pub use links::{leads_out, same_place};
pub use lock::{FolderLock, Holder};
pub use log::AppendLog;
pub use manifest::{FORMAT_VERSION, FileRecord, MANIFEST_NAME, Manifest};
pub use mapped::{Mapped, MappedSlice};
pub use real::RealFs;
pub use staged::{StagedFile, StagedFolder};
pub use store::{Checkpoint, CheckpointStore, Listing, Newest};

/// Reads a whole file of at most `max_bytes`; see [`Disk::read_capped`].
///
/// # Errors
/// As [`Disk::read_capped`].
pub fn read_capped(path: impl AsRef<Path>, max_bytes: u64) -> Result<Vec<u8>> {
    Disk::real().read_capped(path, max_bytes)
}

/// Reads a whole UTF-8 file of at most `max_bytes`.
///
/// # Errors
/// As [`Disk::read_capped`], and [`DurableError::NotUtf8`].
pub fn read_text_capped(path: impl AsRef<Path>, max_bytes: u64) -> Result<String> {
    Disk::real().read_text_capped(path, max_bytes)
}

/// The entries of a folder, sorted by name.
///
/// # Errors
/// [`DurableError::NotFound`], [`DurableError::NotAFolder`] or [`DurableError::Io`].
pub fn list_dir(path: impl AsRef<Path>) -> Result<Vec<Entry>> {
    Disk::real().list_dir(path)
}

/// Whether anything (also a dangling link) has this path.
pub fn exists(path: impl AsRef<Path>) -> bool {
    Disk::real().exists(path)
}

/// Whether this path is a file, links followed.
pub fn is_file(path: impl AsRef<Path>) -> bool {
    Disk::real().is_file(path)
}

/// Whether this path is a folder, links followed.
pub fn is_dir(path: impl AsRef<Path>) -> bool {
    Disk::real().is_dir(path)
}

/// Replaces or creates a file in one step; see [`Disk::write_atomic`].
///
/// # Errors
/// As [`Disk::write_atomic`]; the old file is then untouched.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    Disk::real().write_atomic(path, bytes)
}

/// Creates a folder and its parents, durably.
///
/// # Errors
/// [`DurableError::NotAFolder`] where something else is in the way, or [`DurableError::Io`].
pub fn create_dir_all(path: impl AsRef<Path>) -> Result<()> {
    Disk::real().create_dir_all(path)
}

/// Copies a file's bytes to a new or replaced file, atomically; returns its size.
///
/// # Errors
/// As [`Disk::copy_file`].
pub fn copy_file(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<u64> {
    Disk::real().copy_file(from, to)
}

/// Opens a file for reading in pieces.
///
/// # Errors
/// As [`Disk::open_read`].
pub fn open_read(path: impl AsRef<Path>) -> Result<ReadFile> {
    Disk::real().open_read(path)
}

/// Makes sure that a folder is there and can be written; see [`Disk::prepare_folder`].
///
/// # Errors
/// As [`Disk::prepare_folder`].
pub fn prepare_folder(path: impl AsRef<Path>) -> Result<()> {
    Disk::real().prepare_folder(path)
}

/// Refuses where fewer than `needed_bytes` are free.
///
/// # Errors
/// As [`Disk::need_space`].
pub fn need_space(path: impl AsRef<Path>, needed_bytes: u64) -> Result<()> {
    Disk::real().need_space(path, needed_bytes)
}

/// Removes a file or link. What is not there counts as removed.
///
/// # Errors
/// As [`Disk::remove_file`].
pub fn remove_file(path: impl AsRef<Path>) -> Result<()> {
    Disk::real().remove_file(path)
}

/// Removes a folder so that a crash never leaves half of it under its name; see [`Disk::remove_folder`].
///
/// # Errors
/// As [`Disk::remove_folder`].
pub fn remove_folder(path: impl AsRef<Path>) -> Result<()> {
    Disk::real().remove_folder(path)
}

/// What was staged for a path and not published; see [`Disk::staged_beside`].
///
/// # Errors
/// As [`Disk::staged_beside`].
pub fn staged_beside(target: impl AsRef<Path>) -> Result<Vec<Skipped>> {
    Disk::real().staged_beside(target)
}

/// Bytes free for this user on the file system of `path`; `None` where the platform does not say.
///
/// # Errors
/// [`DurableError::Io`].
pub fn free_space(path: impl AsRef<Path>) -> Result<Option<u64>> {
    Disk::real().free_space(path)
}

/// SHA-256 of a file as lower-case hex, read in pieces.
///
/// # Errors
/// [`DurableError::NotFound`], [`DurableError::NotAFile`] or [`DurableError::Io`].
pub fn sha256_file(path: impl AsRef<Path>) -> Result<String> {
    Disk::real().sha256_file(path)
}
