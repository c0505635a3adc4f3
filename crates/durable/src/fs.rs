//! The operations that this crate needs of a file system, so that tests can give it a bad one.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::SystemTime;

use crate::mapped::Mapped;

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link (only where links are not followed).
    Link,
    /// A pipe, socket or device.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a file",
            Self::Folder => "a folder",
            Self::Link => "a link",
            Self::Other => "a pipe or device",
        })
    }
}

/// What the file system says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File, folder, link or other.
    pub kind: Kind,
    /// Size in bytes; 0 for what is not a file.
    pub size_bytes: u64,
    /// Time of the last change, where known. Never used to order checkpoints.
    pub modified: Option<SystemTime>,
}

/// The named points of the commit protocol, where crash tests stop a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The staging folder is there, empty.
    StagingCreated,
    /// A file of it is there, empty.
    FileCreated,
    /// Its bytes are written but not synced.
    FileWritten,
    /// It is synced.
    FileSynced,
    /// All files but the manifest are synced.
    FilesDone,
    /// The manifest is synced.
    ManifestSynced,
    /// The staging folder is synced.
    StagingSynced,
    /// It has its final name, the parent is not synced.
    Renamed,
    /// The parent is synced: from here on the save is acknowledged.
    Published,
    /// Retention has chosen its victim.
    VictimChosen,
    /// The victim has its trash name, the parent is not synced.
    VictimRenamed,
    /// The parent is synced.
    TrashSynced,
    /// The first file of the trash is removed.
    TrashHalfRemoved,
    /// The trash is gone.
    TrashRemoved,
}

impl Point {
    /// All points, in the order in which a save with retention passes them.
    pub const ALL: [Point; 14] = [
        Self::StagingCreated,
        Self::FileCreated,
        Self::FileWritten,
        Self::FileSynced,
        Self::FilesDone,
        Self::ManifestSynced,
        Self::StagingSynced,
        Self::Renamed,
        Self::Published,
        Self::VictimChosen,
        Self::VictimRenamed,
        Self::TrashSynced,
        Self::TrashHalfRemoved,
        Self::TrashRemoved,
    ];

    /// Whether every file of a folder passes it, so that one save has it many times.
    pub fn comes_for_each_file(self) -> bool {
        matches!(
            self,
            Self::FileCreated | Self::FileWritten | Self::FileSynced
        )
    }
}

impl FromStr for Point {
    type Err = String;

    /// Reads the name that `Debug` prints.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = |point: &Point| format!("{point:?}") == name;
        Self::ALL
            .into_iter()
            .find(named)
            .ok_or_else(|| format!("no such point: {name}"))
    }
}

/// An open file.
pub trait FsFile: Read + Write + Seek + Send + Sync + fmt::Debug {
    /// Makes content and size survive a power cut.
    ///
    /// # Errors
    /// As the system says. After one the state of the file is unknown: it must never be synced again.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// As the system says.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}

/// Who fills a folder.
#[derive(Debug)]
pub enum Hold {
    /// Nobody did; from now on this process does, for as long as it keeps this.
    Mine(Box<dyn FsFile>),
    /// A process that lives.
    Theirs,
    /// The system does not say.
    Unknown,
}

/// A file system. [`crate::RealFs`] is the real one.
#[expect(missing_docs, reason = "each is the system's operation of that name")]
#[allow(clippy::missing_errors_doc, reason = "each fails as the system says")]
pub trait Fs: Send + Sync + fmt::Debug {
    /// `None` where nothing has this path; links are followed.
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>>;
    /// As `stat`, of the link itself.
    fn stat_link(&self, path: &Path) -> io::Result<Option<Stat>>;
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>>;
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// Fails where anything has this path.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// As `create_new`, for a file of gigabytes that is written once, in large pieces.
    fn create_large(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        self.create_new(path)
    }
    /// Opens for reading and writing, created where absent; every write goes to the end.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// Opens for reading and writing, created where absent, and locks for as long as the file is open, or
    /// until the process dies. The flag says whether the lock was had; if not, the file can only be read.
    fn try_lock(&self, path: &Path) -> io::Result<(Box<dyn FsFile>, bool)>;
    /// Locks a folder, where nobody else has; as a file's, the lock ends with its process.
    fn hold_folder(&self, path: &Path) -> io::Result<Hold>;
    fn map(&self, path: &Path) -> io::Result<Mapped>;
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Fails with `AlreadyExists` where anything has the new path.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Replaces a file at the new path, in one step.
    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Exchanges two paths, in one step where the system can.
    fn swap(&self, one: &Path, other: &Path) -> io::Result<()>;
    /// Removes a file or link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in this folder survive a power cut.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// `None` where the platform does not say.
    fn free_space(&self, path: &Path) -> io::Result<Option<u64>>;
    /// Passing a named point of the protocol; only crash tests do something here.
    fn point(&self, _point: Point) {}
}
