//! Writing, replacing and removing: every change is synced before its effect is relied on.

use std::io;
use std::path::{Path, PathBuf};

use crate::behind::WriteBehind;
use crate::digest::Hasher;
use crate::disk::{Disk, PIECE_BYTES, bad_name, parent_of, unique};
use crate::error::{DurableError, Result, means_no_space};
use crate::fs::{FsFile, Kind, Point};

impl Disk {
    /// Creates a folder and its parents, and syncs each parent. A link to a folder counts as one.
    ///
    /// # Errors
    /// [`DurableError::NotAFolder`] where something else is in the way (a dangling link too), or
    /// [`DurableError::Io`].
    pub fn create_dir_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match self.stat(path)? {
            Some(stat) if stat.kind == Kind::Folder => return Ok(()),
            Some(stat) => {
                return Err(DurableError::NotAFolder {
                    path: path.to_owned(),
                    found: stat.kind,
                });
            }
            None => {}
        }
        if let Some(link) = self.stat_link(path)? {
            return Err(DurableError::NotAFolder {
                path: path.to_owned(),
                found: link.kind,
            });
        }
        let parent = parent_of(path);
        if parent == path {
            return Err(bad_name(path)); // the empty path: no folder, and its own parent
        }
        self.create_dir_all(parent)?;
        match self.fs().create_folder(path) {
            Ok(()) => self.sync_folder(parent),
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.expect_folder(path),
            Err(source) => Err(self.write_error("create the folder", path, 0, source)),
        }
    }

    /// Replaces or creates a file: staged beside it, synced, renamed over it, folder synced. A link at `path`
    /// is replaced, what it points at is not touched.
    ///
    /// # Errors
    /// [`DurableError::NoSpace`], [`DurableError::Sync`] or [`DurableError::Io`]; the old file is untouched,
    /// unless it was the last sync, of the folder, that failed.
    pub fn write_atomic(&self, path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        self.replace(path.as_ref(), |file| file.put(bytes))
    }

    /// Copies a file's bytes to a new or replaced file, as [`Disk::write_atomic`] does; returns its size.
    ///
    /// # Errors
    /// As [`Disk::write_atomic`] for `to`, as [`Disk::open_read`] for `from`.
    pub fn copy_file(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<u64> {
        let mut size_bytes = 0;
        self.replace(to.as_ref(), |file| {
            self.each_piece(from.as_ref(), |piece| {
                size_bytes += piece.len() as u64;
                file.put(piece)
            })
        })?;
        Ok(size_bytes)
    }

    fn replace(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut NewFile<'_>) -> Result<()>,
    ) -> Result<()> {
        let name = path
            .file_name()
            .ok_or_else(|| bad_name(path))?
            .to_string_lossy();
        if let Some(stat) = self.stat_link(path)?
            && !matches!(stat.kind, Kind::File | Kind::Link)
        {
            return Err(DurableError::NotAFile {
                path: path.to_owned(),
                found: stat.kind,
            });
        }
        let staged = path.with_file_name(format!(".{name}.tmp-{}", unique()));
        let done = self.fill_and_rename(&staged, path, fill);
        if done.is_err() {
            let _ = self.fs().remove_file(&staged); // the first error is the one to tell
        }
        done?;
        self.sync_folder(parent_of(path))
    }

    fn fill_and_rename(
        &self,
        staged: &Path,
        path: &Path,
        fill: impl FnOnce(&mut NewFile<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut file = NewFile::create(self, staged)?;
        fill(&mut file)?;
        file.finish()?;
        self.fs()
            .rename_over(staged, path)
            .map_err(|source| self.write_error("replace", path, 0, source))
    }

    /// Removes a file or link. What is not there counts as removed.
    ///
    /// # Errors
    /// [`DurableError::Io`].
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match self.fs().remove_file(path) {
            Ok(()) => self.sync_folder(parent_of(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(DurableError::io("remove", path, source)),
        }
    }

    /// Removes a folder with all that is in it (links as links): first renamed to `.trash-NAME-…` beside it
    /// and the parent synced, then deleted, so that a crash never leaves half of it under its name.
    ///
    /// # Errors
    /// [`DurableError::NotFound`], [`DurableError::NotAFolder`], [`DurableError::Sync`] or
    /// [`DurableError::Io`]; what is left may have its trash name.
    pub fn remove_folder(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match self.stat_link(path)? {
            Some(stat) if stat.kind == Kind::Folder => {}
            Some(stat) => {
                return Err(DurableError::NotAFolder {
                    path: path.to_owned(),
                    found: stat.kind,
                });
            }
            None => {
                return Err(DurableError::NotFound {
                    path: path.to_owned(),
                });
            }
        }
        let name = path
            .file_name()
            .ok_or_else(|| bad_name(path))?
            .to_string_lossy();
        let trash = path.with_file_name(format!(".trash-{name}-{}", unique()));
        self.fs()
            .rename_new(path, &trash)
            .map_err(|source| DurableError::io("rename for removal", path, source))?;
        self.point(Point::VictimRenamed);
        self.sync_folder(parent_of(path))?;
        self.point(Point::TrashSynced);
        self.remove_tree(&trash)?;
        self.point(Point::TrashRemoved);
        Ok(())
    }

    /// Gives a name beside it to what must not keep its own, so that nobody loses it. Returns where it is.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<PathBuf> {
        let name = path
            .file_name()
            .ok_or_else(|| bad_name(path))?
            .to_string_lossy();
        // Such names stay for ever, and where process ids repeat, as in containers, so do the suffixes.
        let aside = loop {
            let aside = path.with_file_name(format!("{name}.replaced-{}", unique()));
            match self.fs().rename_new(path, &aside) {
                Ok(()) => break aside,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(DurableError::io("set aside", path, source)),
            }
        };
        self.sync_folder(parent_of(path))?;
        Ok(aside)
    }

    /// Deletes a folder in place; only for what already has a name that means nothing.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<()> {
        for entry in self.list_dir(path)? {
            if entry.kind == Kind::Folder {
                self.remove_tree(&entry.path)?;
            } else {
                self.fs()
                    .remove_file(&entry.path)
                    .map_err(|source| DurableError::io("remove", &entry.path, source))?;
            }
            self.point(Point::TrashHalfRemoved);
        }
        self.fs()
            .remove_folder(path)
            .map_err(|source| DurableError::io("remove", path, source))
    }

    /// Makes sure that a folder is there and takes files, by writing and removing one; so a run into a
    /// read-only place is refused before its first step. What a dead process staged for it beside it is removed.
    ///
    /// # Errors
    /// As [`Disk::create_dir_all`] and [`Disk::write_atomic`].
    pub fn prepare_folder(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.sweep_beside(path);
        self.create_dir_all(path)?;
        // A run that died may have made folders without making their names safe. A parent that may be searched
        // but not read cannot be synced; it is not ours then, and no reason to refuse.
        let mut folder = path;
        while parent_of(folder) != folder && folder != Path::new(".") {
            folder = parent_of(folder);
            let _ = self.sync_folder(folder);
        }
        let probe = path.join(format!(".probe.tmp-{}", unique()));
        NewFile::create(self, &probe)?;
        self.fs()
            .remove_file(&probe)
            .map_err(|source| DurableError::io("remove", &probe, source))
    }

    /// An error of writing: a full disk is told with the bytes that were needed.
    pub(crate) fn write_error(
        &self,
        action: &'static str,
        path: &Path,
        needed_bytes: u64,
        source: io::Error,
    ) -> DurableError {
        if !means_no_space(&source) {
            return DurableError::io(action, path, source);
        }
        let free_bytes = self.fs().free_space(parent_of(path)).ok().flatten();
        DurableError::NoSpace {
            path: path.to_owned(),
            needed_bytes,
            free_bytes,
        }
    }
}

/// A new file being filled: buffered, synced once.
#[derive(Debug)]
pub(crate) struct NewFile<'a> {
    disk: &'a Disk,
    path: PathBuf,
    out: Out,
    /// Nothing asks for the digest of a large file, and it would take as long as writing it.
    hasher: Option<Hasher>,
    size_bytes: u64,
}

#[derive(Debug)]
enum Out {
    Buffered {
        file: Box<dyn FsFile>,
        buffer: Vec<u8>,
    },
    Behind(WriteBehind),
}

impl<'a> NewFile<'a> {
    pub(crate) fn create(disk: &'a Disk, path: &Path) -> Result<Self> {
        let buffered = |file| Out::Buffered {
            file,
            buffer: Vec::new(),
        };
        let created = disk.fs().create_new(path).map(buffered);
        Self::with(disk, path, created, Some(Hasher::new()))
    }

    /// A file of any size, without a digest.
    pub(crate) fn create_large(disk: &'a Disk, path: &Path) -> Result<Self> {
        let created = disk.fs().create_large(path);
        let created = created.map(|file| Out::Behind(WriteBehind::new(file)));
        Self::with(disk, path, created, None)
    }

    fn with(
        disk: &'a Disk,
        path: &Path,
        created: io::Result<Out>,
        hasher: Option<Hasher>,
    ) -> Result<Self> {
        let out = created.map_err(|source| disk.write_error("create", path, 0, source))?;
        disk.point(Point::FileCreated);
        Ok(Self {
            disk,
            path: path.to_owned(),
            out,
            hasher,
            size_bytes: 0,
        })
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.size_bytes += bytes.len() as u64;
        let (disk, path, size_bytes) = (self.disk, &self.path, self.size_bytes);
        let done = self.out.put(bytes);
        done.map_err(|source| disk.write_error("write", path, size_bytes, source))
    }

    /// Writes what is left and syncs; returns size and digest. After a failed sync the file must go.
    pub(crate) fn finish(self) -> Result<(u64, Option<String>)> {
        let (disk, path, size_bytes) = (self.disk, self.path, self.size_bytes);
        let written = self.out.finish();
        let mut file =
            written.map_err(|source| disk.write_error("write", &path, size_bytes, source))?;
        disk.point(Point::FileWritten);
        if let Err(source) = file.sync() {
            return Err(DurableError::Sync { path, source });
        }
        disk.point(Point::FileSynced);
        Ok((size_bytes, self.hasher.map(Hasher::finish)))
    }
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Behind(behind) => behind.write_all(bytes),
            Self::Buffered { file, buffer } => {
                if buffer.len() + bytes.len() > PIECE_BYTES {
                    file.write_all(buffer)?;
                    buffer.clear();
                }
                if bytes.len() > PIECE_BYTES {
                    return file.write_all(bytes);
                }
                buffer.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn finish(self) -> io::Result<Box<dyn FsFile>> {
        match self {
            Self::Behind(behind) => behind.finish(),
            Self::Buffered { mut file, buffer } => {
                file.write_all(&buffer)?;
                Ok(file)
            }
        }
    }
}
