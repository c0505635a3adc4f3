//! The handle through which everything is read and written.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::digest::Hasher;
use crate::error::{DurableError, Result};
use crate::fs::{Fs, FsFile, Kind, Point, Stat};
use crate::mapped::Mapped;
use crate::real::RealFs;

/// Bytes moved at once when a file is streamed.
pub(crate) const PIECE_BYTES: usize = 1 << 18;

/// A file system behind a cheap handle. [`Disk::real`] is the machine's.
#[derive(Debug, Clone)]
pub struct Disk {
    fs: Arc<dyn Fs>,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; bytes that are not UTF-8 show as U+FFFD.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// What it is; links are not followed.
    pub kind: Kind,
}

/// A file open for reading.
#[derive(Debug)]
pub struct ReadFile {
    file: Box<dyn FsFile>,
    size_bytes: u64,
}

impl ReadFile {
    /// Size when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Read for ReadFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for ReadFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::real()
    }
}

impl Disk {
    /// The machine's file system.
    pub fn real() -> Self {
        static REAL: OnceLock<Arc<RealFs>> = OnceLock::new();
        Self {
            fs: REAL.get_or_init(|| Arc::new(RealFs)).clone(),
        }
    }

    /// Another file system, as tests use.
    pub fn with(fs: Arc<dyn Fs>) -> Self {
        Self { fs }
    }

    /// Asked anew for each operation.
    pub(crate) fn fs(&self) -> &dyn Fs {
        crate::faults::operate();
        &*self.fs
    }

    pub(crate) fn point(&self, point: Point) {
        self.fs.point(point);
    }

    /// What a path is, links followed; `None` where nothing is there.
    ///
    /// # Errors
    /// [`DurableError::Io`], for example where a parent may not be searched.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Option<Stat>> {
        let path = path.as_ref();
        self.fs()
            .stat(path)
            .map_err(|source| DurableError::io("look at", path, source))
    }

    pub(crate) fn stat_link(&self, path: &Path) -> Result<Option<Stat>> {
        self.fs()
            .stat_link(path)
            .map_err(|source| DurableError::io("look at", path, source))
    }

    /// As [`Disk::exists`], where "cannot tell" must not be taken for "is not there".
    pub(crate) fn present(&self, path: &Path) -> Result<bool> {
        Ok(self.stat_link(path)?.is_some())
    }

    /// Whether anything (also a dangling link) has this path; `false` too where that cannot be told.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        matches!(self.stat_link(path.as_ref()), Ok(Some(_)))
    }

    /// Of a path and its parents those that are not there, deepest first.
    pub(crate) fn absent(&self, path: &Path) -> Vec<PathBuf> {
        let absent = |folder: &&Path| {
            !folder.as_os_str().is_empty() && matches!(self.stat_link(folder), Ok(None))
        };
        path.ancestors()
            .take_while(absent)
            .map(Path::to_owned)
            .collect()
    }

    /// Whether this path is a file, links followed.
    pub fn is_file(&self, path: impl AsRef<Path>) -> bool {
        matches!(
            self.stat(path),
            Ok(Some(Stat {
                kind: Kind::File,
                ..
            }))
        )
    }

    /// Whether this path is a folder, links followed.
    pub fn is_dir(&self, path: impl AsRef<Path>) -> bool {
        matches!(
            self.stat(path),
            Ok(Some(Stat {
                kind: Kind::Folder,
                ..
            }))
        )
    }

    /// Asked before a file is opened, because opening a pipe would wait for ever.
    fn expect_file(&self, path: &Path) -> Result<Stat> {
        match self.stat(path)? {
            Some(stat) if stat.kind == Kind::File => Ok(stat),
            Some(stat) => Err(DurableError::NotAFile {
                path: path.to_owned(),
                found: stat.kind,
            }),
            None => Err(DurableError::NotFound {
                path: path.to_owned(),
            }),
        }
    }

    pub(crate) fn expect_folder(&self, path: &Path) -> Result<()> {
        match self.stat(path)? {
            Some(stat) if stat.kind == Kind::Folder => Ok(()),
            Some(stat) => Err(DurableError::NotAFolder {
                path: path.to_owned(),
                found: stat.kind,
            }),
            None => Err(DurableError::NotFound {
                path: path.to_owned(),
            }),
        }
    }

    /// Opens a file for reading in pieces.
    ///
    /// # Errors
    /// [`DurableError::NotFound`], [`DurableError::NotAFile`] or [`DurableError::Io`].
    pub fn open_read(&self, path: impl AsRef<Path>) -> Result<ReadFile> {
        let path = path.as_ref();
        let size_bytes = self.expect_file(path)?.size_bytes;
        let file = self
            .fs()
            .open_read(path)
            .map_err(|source| DurableError::io("open", path, source))?;
        Ok(ReadFile { file, size_bytes })
    }

    /// Reads a whole file of at most `max_bytes`. Memory grows as bytes arrive, never by what is claimed.
    ///
    /// # Errors
    /// [`DurableError::NotFound`], [`DurableError::NotAFile`] (pipes and devices too),
    /// [`DurableError::TooLarge`] or [`DurableError::Io`].
    pub fn read_capped(&self, path: impl AsRef<Path>, max_bytes: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let file = self.open_read(path)?;
        let too_large = |size_bytes| DurableError::TooLarge {
            path: path.to_owned(),
            size_bytes,
            limit: max_bytes,
        };
        if file.size_bytes > max_bytes {
            return Err(too_large(file.size_bytes));
        }
        let size_bytes = file.size_bytes;
        // Growing by doubling would take three times the file. A size that cannot be had is refused by the reading.
        let mut bytes = Vec::new();
        let _ = bytes.try_reserve_exact(usize::try_from(size_bytes).unwrap_or_default());
        file.take(max_bytes.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| DurableError::io("read", path, source))?;
        // The file may have grown since it was looked at, and files of /proc claim to be empty.
        if bytes.len() as u64 > max_bytes {
            return Err(too_large(size_bytes.max(bytes.len() as u64)));
        }
        Ok(bytes)
    }

    /// Reads a whole UTF-8 file of at most `max_bytes`.
    ///
    /// # Errors
    /// As [`Disk::read_capped`], and [`DurableError::NotUtf8`].
    pub fn read_text_capped(&self, path: impl AsRef<Path>, max_bytes: u64) -> Result<String> {
        let path = path.as_ref();
        String::from_utf8(self.read_capped(path, max_bytes)?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            DurableError::NotUtf8 {
                path: path.to_owned(),
                at,
            }
        })
    }

    /// Maps a file read-only. An empty file gives empty bytes.
    ///
    /// # Errors
    /// [`DurableError::NotFound`], [`DurableError::NotAFile`] or [`DurableError::Io`].
    pub fn map(&self, path: impl AsRef<Path>) -> Result<Mapped> {
        let path = path.as_ref();
        self.expect_file(path)?;
        self.fs()
            .map(path)
            .map_err(|source| DurableError::io("map", path, source))
    }

    /// The entries of a folder, sorted by name.
    ///
    /// # Errors
    /// [`DurableError::NotFound`], [`DurableError::NotAFolder`] or [`DurableError::Io`].
    pub fn list_dir(&self, path: impl AsRef<Path>) -> Result<Vec<Entry>> {
        let folder = path.as_ref();
        self.expect_folder(folder)?;
        let names = self
            .fs()
            .list(folder)
            .map_err(|source| DurableError::io("list", folder, source))?;
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let path = folder.join(&name);
            // What vanished since it was listed was not there.
            if let Some(stat) = self.stat_link(&path)? {
                let name = name.to_string_lossy().into_owned();
                entries.push(Entry {
                    name,
                    path,
                    kind: stat.kind,
                });
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// SHA-256 of a file as lower-case hex, read in pieces.
    ///
    /// # Errors
    /// [`DurableError::NotFound`], [`DurableError::NotAFile`] or [`DurableError::Io`].
    pub fn sha256_file(&self, path: impl AsRef<Path>) -> Result<String> {
        let mut hasher = Hasher::new();
        self.each_piece(path.as_ref(), |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        Ok(hasher.finish())
    }

    /// Hands a file's bytes over in pieces.
    pub(crate) fn each_piece(
        &self,
        path: &Path,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut file = self.open_read(path)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => take(&piece[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(DurableError::io("read", path, source)),
            }
        }
    }

    pub(crate) fn sync_folder(&self, path: &Path) -> Result<()> {
        self.fs()
            .sync_folder(path)
            .map_err(|source| DurableError::Sync {
                path: path.to_owned(),
                source,
            })
    }

    /// Bytes free for this user on the file system of `path` or of its nearest parent that is there; `None`
    /// where the platform does not say.
    ///
    /// # Errors
    /// [`DurableError::Io`].
    pub fn free_space(&self, path: impl AsRef<Path>) -> Result<Option<u64>> {
        let path = self.nearest_folder(path.as_ref())?;
        self.fs()
            .free_space(path)
            .map_err(|source| DurableError::io("ask the free space of", path, source))
    }

    /// Refuses where fewer than `needed_bytes` are free.
    ///
    /// # Errors
    /// [`DurableError::NoSpace`] with both figures, or [`DurableError::Io`].
    pub fn need_space(&self, path: impl AsRef<Path>, needed_bytes: u64) -> Result<()> {
        let path = path.as_ref();
        match self.free_space(path)? {
            Some(free) if free < needed_bytes => Err(DurableError::NoSpace {
                path: path.to_owned(),
                needed_bytes,
                free_bytes: Some(free),
            }),
            _ => Ok(()),
        }
    }

    fn nearest_folder<'a>(&self, path: &'a Path) -> Result<&'a Path> {
        let mut path = path;
        while self.stat(path)?.is_none() && parent_of(path) != path {
            path = parent_of(path);
        }
        Ok(path)
    }
}

/// The parent, with `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

pub(crate) fn bad_name(path: &Path) -> DurableError {
    DurableError::BadName {
        name: path.display().to_string(),
    }
}

/// A suffix that no living process uses at the same time.
pub(crate) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Accepts a name that can only mean an entry of its own folder: no separator of any system, no drive, no
/// `.` or `..`, no control character.
///
/// # Errors
/// [`DurableError::BadName`].
pub fn plain_name(name: &str) -> Result<&str> {
    let bad = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    let dots = name.is_empty() || name == "." || name == "..";
    if dots || name.len() > 255 || name.contains(bad) {
        return Err(DurableError::BadName {
            name: name.to_owned(),
        });
    }
    Ok(name)
}
