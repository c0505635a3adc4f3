//! The file system of the machine.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::fs::{Fs, FsFile, Hold, Kind, Point, Stat};
use crate::mapped::Mapped;

/// The real disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

impl FsFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
}

impl Fs for RealFs {
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        found(fs::metadata(path))
    }

    fn stat_link(&self, path: &Path) -> io::Result<Option<Stat>> {
        found(fs::symlink_metadata(path))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(create_new(path)?))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn create_large(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(crate::direct::DirectFile::new(create_new(path)?)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(
            OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(path)?,
        ))
    }

    fn try_lock(&self, path: &Path) -> io::Result<(Box<dyn FsFile>, bool)> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let locked = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        Ok((Box::new(file), locked))
    }

    fn hold_folder(&self, path: &Path) -> io::Result<Hold> {
        system::hold_folder(path)
    }

    fn map(&self, path: &Path) -> io::Result<Mapped> {
        Mapped::of_file(File::open(path)?, path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        system::rename_new(from, to)
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn swap(&self, one: &Path, other: &Path) -> io::Result<()> {
        system::swap(one, other)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        system::sync_folder(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<Option<u64>> {
        system::free_space(path)
    }

    fn point(&self, point: Point) {
        crate::faults::pass(point);
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
}

fn found(metadata: io::Result<fs::Metadata>) -> io::Result<Option<Stat>> {
    use io::ErrorKind::{NotADirectory, NotFound};
    match metadata {
        Ok(metadata) => Ok(Some(stat_of(&metadata))),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn stat_of(metadata: &fs::Metadata) -> Stat {
    let kind = match metadata.file_type() {
        found if found.is_file() => Kind::File,
        found if found.is_dir() => Kind::Folder,
        found if found.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    let size_bytes = if kind == Kind::File {
        metadata.len()
    } else {
        0
    };
    Stat {
        kind,
        size_bytes,
        modified: metadata.modified().ok(),
    }
}

/// The renames as every system has them: not one step, but the folder lock keeps other writers out.
mod plain {
    use super::{fs, io};
    use std::ffi::OsString;
    use std::path::Path;

    pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
            Err(error) => Err(error),
        }
    }

    pub(super) fn swap(one: &Path, other: &Path) -> io::Result<()> {
        let mut name = OsString::from(one.as_os_str());
        name.push("-swap");
        let middle = Path::new(&name);
        rename_new(other, middle)?;
        if let Err(error) = fs::rename(one, other) {
            fs::rename(middle, other)?; // as it was
            return Err(error);
        }
        fs::rename(middle, one)
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
mod one_step {
    use super::{io, plain};
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    use std::path::Path;

    pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(error) if not_built(error) => plain::rename_new(from, to),
            other => Ok(other?),
        }
    }

    pub(super) fn swap(one: &Path, other: &Path) -> io::Result<()> {
        match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Err(error) if not_built(error) => plain::swap(one, other),
            other => Ok(other?),
        }
    }

    /// Old kernels and some network file systems know rename but not its flags.
    fn not_built(error: Errno) -> bool {
        error == Errno::INVAL || error == Errno::NOSYS || error == Errno::OPNOTSUPP
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
use plain as one_step;

#[cfg(unix)]
mod system {
    pub(super) use super::one_step::{rename_new, swap};
    use super::{File, Hold, TryLockError, io};
    use std::path::Path;

    pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    pub(super) fn hold_folder(path: &Path) -> io::Result<Hold> {
        let folder = File::open(path)?;
        match folder.try_lock() {
            Ok(()) => Ok(Hold::Mine(Box::new(folder))),
            Err(TryLockError::WouldBlock) => Ok(Hold::Theirs),
            // Some network file systems have no locks.
            Err(TryLockError::Error(_)) => Ok(Hold::Unknown),
        }
    }

    pub(super) fn free_space(path: &Path) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }
}

#[cfg(not(unix))]
mod system {
    pub(super) use super::one_step::{rename_new, swap};
    use super::{Hold, io};
    use std::path::Path;

    /// Elsewhere a folder cannot be opened, so that it cannot be locked either.
    pub(super) fn hold_folder(_path: &Path) -> io::Result<Hold> {
        Ok(Hold::Unknown)
    }

    /// Elsewhere a folder cannot be opened for syncing; the file system's own journal has to do.
    pub(super) fn sync_folder(_path: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn free_space(_path: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}
