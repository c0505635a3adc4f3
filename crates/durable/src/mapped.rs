//! Read-only memory maps that can be cut into slices which keep them alive.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;

use crate::disk::Disk;
use crate::error::{DurableError, Result};

/// The bytes of a file, mapped read-only; cheap to clone.
///
/// A file that another process cuts while it is mapped ends this process with SIGBUS where a lost page is
/// touched; a cut inside a page reads as zeros, which [`Mapped::check_unchanged`] finds. Adapters and other
/// small files are therefore read, not mapped.
#[derive(Clone)]
pub struct Mapped {
    owner: Arc<Owner>,
}

enum Owner {
    Map {
        map: Mmap,
        file: File,
        path: PathBuf,
        modified: Option<SystemTime>,
    },
    Vec(Vec<u8>),
}

impl Mapped {
    /// Maps a file of the real disk. An empty file gives empty bytes.
    ///
    /// # Errors
    /// [`DurableError::NotFound`], [`DurableError::NotAFile`] (pipes and devices too) or [`DurableError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Disk::real().map(path)
    }

    /// Bytes that come from elsewhere, in the same clothes. Unlike a map, they may start unaligned.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self {
            owner: Arc::new(Owner::Vec(bytes)),
        }
    }

    pub(crate) fn of_file(file: File, path: &Path) -> io::Result<Self> {
        let found = file.metadata()?;
        if found.len() == 0 {
            return Ok(Self::from_vec(Vec::new())); // a map of length 0 is an error on several systems
        }
        // SAFETY: the map is read-only and private to this process. Nothing in Rust can promise that no other
        // process writes to the file; model folders are documented as not to be changed while in use, and the
        // bytes are only ever read as plain numbers, for which every bit pattern is a value.
        let map = unsafe { Mmap::map(&file)? };
        let (path, modified) = (path.to_owned(), found.modified().ok());
        Ok(Self {
            owner: Arc::new(Owner::Map {
                map,
                file,
                path,
                modified,
            }),
        })
    }

    /// A part of the bytes, which keeps the map alive; `None` where it does not fit.
    pub fn get(&self, range: Range<usize>) -> Option<MappedSlice> {
        let len = range.end.checked_sub(range.start)?;
        (range.end <= self.len()).then(|| MappedSlice {
            whole: self.clone(),
            start: range.start,
            len,
        })
    }

    /// As [`Mapped::get`], for ranges that were checked.
    ///
    /// # Panics
    /// As slicing does, where the range does not fit.
    pub fn slice(&self, range: Range<usize>) -> MappedSlice {
        let (start, end, len) = (range.start, range.end, self.len());
        let found = self.get(range);
        found.unwrap_or_else(|| panic!("range {start}..{end} is outside of {len} mapped bytes"))
    }

    /// Checks that the file still has the size and time of change that it had when it was mapped.
    ///
    /// # Errors
    /// [`DurableError::Changed`] where it has not; numbers read since then cannot be trusted.
    pub fn check_unchanged(&self) -> Result<()> {
        let Owner::Map {
            map,
            file,
            path,
            modified,
        } = &*self.owner
        else {
            return Ok(());
        };
        let now = file
            .metadata()
            .map_err(|source| DurableError::io("look at", path, source))?;
        if now.len() == map.len() as u64 && now.modified().ok() == *modified {
            return Ok(());
        }
        Err(DurableError::Changed { path: path.clone() })
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        match &*self.owner {
            Owner::Map { map, .. } => map,
            Owner::Vec(bytes) => bytes,
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({} bytes)", self.len())
    }
}

/// A part of mapped bytes; cheap to clone, keeps the map alive.
#[derive(Clone)]
pub struct MappedSlice {
    whole: Mapped,
    start: usize,
    len: usize,
}

impl MappedSlice {
    /// Bytes that come from elsewhere.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self {
            whole: Mapped::from_vec(bytes),
            start: 0,
            len,
        }
    }

    /// A part of this part; `None` where it does not fit.
    pub fn get(&self, range: Range<usize>) -> Option<MappedSlice> {
        let len = range.end.checked_sub(range.start)?;
        let start = self.start.checked_add(range.start)?;
        (range.end <= self.len).then(|| MappedSlice {
            whole: self.whole.clone(),
            start,
            len,
        })
    }

    /// The whole that this is a part of.
    pub fn whole(&self) -> &Mapped {
        &self.whole
    }
}

impl AsRef<[u8]> for MappedSlice {
    fn as_ref(&self) -> &[u8] {
        &self.whole.as_ref()[self.start..self.start + self.len]
    }
}

impl Deref for MappedSlice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl fmt::Debug for MappedSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedSlice({} bytes at {})", self.len, self.start)
    }
}
