//! What can go wrong with files, in words.

use std::io;
use std::path::{Path, PathBuf};

use crate::fs::Kind;
use crate::lock::Holder;

/// This crate's result.
pub type Result<T, E = DurableError> = std::result::Result<T, E>;

/// A checkpoint folder that was passed over, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The folder.
    pub path: PathBuf,
    /// Why it was not used.
    pub reason: String,
}

/// Every way in which this crate fails.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the text of each variant says what its fields are"
)]
pub enum DurableError {
    #[error("no such file or folder: `{}`", .path.display())]
    NotFound { path: PathBuf },
    #[error("not a file but {found}: `{}`", .path.display())]
    NotAFile { path: PathBuf, found: Kind },
    #[error("not a folder but {found}: `{}`", .path.display())]
    NotAFolder { path: PathBuf, found: Kind },
    #[error("file is larger than the limit of {limit} bytes: `{}` has {size_bytes}", .path.display())]
    TooLarge {
        path: PathBuf,
        size_bytes: u64,
        limit: u64,
    },
    #[error("file is not UTF-8 at byte {at}: `{}`", .path.display())]
    NotUtf8 { path: PathBuf, at: usize },
    #[error("already there: `{}`", .path.display())]
    AlreadyExists { path: PathBuf },
    #[error("not a plain file name: `{}`", .name.escape_debug())]
    BadName { name: String },
    #[error("file `{name}` of `{}` was not finished, nothing was published", .path.display())]
    Unfinished { path: PathBuf, name: String },
    #[error(
        "no space to write `{}`: {needed_bytes} bytes needed, {} free",
        .path.display(), space(.free_bytes)
    )]
    NoSpace {
        path: PathBuf,
        needed_bytes: u64,
        free_bytes: Option<u64>,
    },
    #[error("cannot sync `{}` to disk: {source}", .path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("cannot {action} `{}`: {source}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("another run is writing to `{}`: {holder}", .path.display())]
    Locked { path: PathBuf, holder: Holder },
    #[error("file changed while it was mapped: `{}`", .path.display())]
    Changed { path: PathBuf },
    #[error("no manifest in `{}`: not a complete folder of ours", .path.display())]
    NoManifest { path: PathBuf },
    #[error("damaged folder `{}`: {}", .path.display(), .reasons.join("; "))]
    Damaged { path: PathBuf, reasons: Vec<String> },
    #[error(
        "manifest of `{}` has format_version {found}, this build reads up to {ours}",
        .path.display()
    )]
    NewerFormat {
        path: PathBuf,
        found: u64,
        ours: u64,
    },
    #[error("no usable checkpoint in `{}`{}", .path.display(), list(.skipped))]
    NoCheckpoint {
        path: PathBuf,
        skipped: Vec<Skipped>,
    },
}

impl DurableError {
    /// How to mend it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotFound { .. } => "check the path",
            Self::NotAFile { .. } => "give the path of a regular file",
            Self::NotAFolder { .. } => "give the path of a folder, or move what is there away",
            Self::TooLarge { .. } => "check that this is the file you mean",
            Self::NotUtf8 { .. } => "convert the file to UTF-8",
            Self::AlreadyExists { .. } => "choose another path, or move what is there away",
            Self::BadName { .. } => "use a name without separators, `..` or control characters",
            Self::Unfinished { .. } => "this is a bug in the writer, please report it",
            Self::NoSpace { .. } => {
                "free some space or choose another disk; earlier checkpoints are untouched"
            }
            Self::Sync { .. } => {
                "the disk may be failing: check the system log; earlier checkpoints are untouched"
            }
            Self::Io { source, .. } => io_hint(source),
            Self::Locked { .. } => "wait for that run to end, or give another output folder",
            Self::Changed { .. } => "do not change a model folder while it is in use; start again",
            Self::NoManifest { .. } => "choose a folder that this program saved",
            Self::Damaged { .. } => "use an earlier checkpoint",
            Self::NewerFormat { .. } => "update this program, or use an earlier checkpoint",
            Self::NoCheckpoint { .. } => "start without resuming, or name a checkpoint folder",
        };
        Some(text.to_owned())
    }

    /// Whether the disk is full (or a quota or file size limit is reached).
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// Whether nothing has the path.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// An error of the operating system, with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

fn io_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "check the permissions of the file and its folder",
        io::ErrorKind::Unsupported => "the file system lacks this: use a folder on a local disk",
        io::ErrorKind::ReadOnlyFilesystem => "choose a folder on a disk that can be written",
        _ => "check that the path can be reached, and the system log for its disk",
    }
}

/// Whether the system says that there is no room: full disk, quota, or RLIMIT_FSIZE (EFBIG).
pub(crate) fn means_no_space(source: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn space(free_bytes: &Option<u64>) -> String {
    free_bytes.map_or_else(|| "an unknown number".to_owned(), |bytes| bytes.to_string())
}

fn list(skipped: &[Skipped]) -> String {
    skipped
        .iter()
        .map(|one| format!("\n  {}: {}", one.path.display(), one.reason))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{DurableError as E, Skipped};
    use crate::fs::Kind;
    use crate::lock::Holder;
    use std::io::ErrorKind;

    fn about_paths() -> Vec<(E, &'static str)> {
        let path = || "d/a".into();
        vec![
            (
                E::NotFound { path: path() },
                "no such file or folder: `d/a`",
            ),
            (
                E::NotAFile {
                    path: path(),
                    found: Kind::Folder,
                },
                "not a file but a folder: `d/a`",
            ),
            (
                E::NotAFolder {
                    path: path(),
                    found: Kind::Link,
                },
                "not a folder but a link: `d/a`",
            ),
            (
                E::TooLarge {
                    path: path(),
                    size_bytes: 9,
                    limit: 8,
                },
                "file is larger than the limit of 8 bytes: `d/a` has 9",
            ),
            (
                E::NotUtf8 {
                    path: path(),
                    at: 3,
                },
                "file is not UTF-8 at byte 3: `d/a`",
            ),
            (E::AlreadyExists { path: path() }, "already there: `d/a`"),
            (
                E::BadName { name: "x\n".into() },
                "not a plain file name: `x\\n`",
            ),
            (
                E::Changed { path: path() },
                "file changed while it was mapped: `d/a`",
            ),
        ]
    }

    fn about_the_disk() -> Vec<(E, &'static str)> {
        let path = || "d/a".into();
        let failed = || ErrorKind::PermissionDenied.into();
        vec![
            (
                E::NoSpace {
                    path: path(),
                    needed_bytes: 5,
                    free_bytes: Some(4),
                },
                "no space to write `d/a`: 5 bytes needed, 4 free",
            ),
            (
                E::NoSpace {
                    path: path(),
                    needed_bytes: 5,
                    free_bytes: None,
                },
                "no space to write `d/a`: 5 bytes needed, an unknown number free",
            ),
            (
                E::Sync {
                    path: path(),
                    source: failed(),
                },
                "cannot sync `d/a` to disk: permission denied",
            ),
            (
                E::Io {
                    action: "read",
                    path: path(),
                    source: failed(),
                },
                "cannot read `d/a`: permission denied",
            ),
        ]
    }

    fn about_folders() -> Vec<(E, &'static str)> {
        let path = || "d/a".into();
        let skipped = vec![Skipped {
            path: "d/b".into(),
            reason: "why".into(),
        }];
        let holder = Holder {
            pid: 7,
            ..Holder::default()
        };
        vec![
            (
                E::Unfinished {
                    path: path(),
                    name: "x".into(),
                },
                "file `x` of `d/a` was not finished, nothing was published",
            ),
            (
                E::Locked {
                    path: path(),
                    holder,
                },
                "another run is writing to `d/a`: process 7, since",
            ),
            (
                E::NoManifest { path: path() },
                "no manifest in `d/a`: not a complete folder of ours",
            ),
            (
                E::Damaged {
                    path: path(),
                    reasons: vec!["x".into(), "y".into()],
                },
                "damaged folder `d/a`: x; y",
            ),
            (
                E::NewerFormat {
                    path: path(),
                    found: 3,
                    ours: 1,
                },
                "manifest of `d/a` has format_version 3, this build reads up to 1",
            ),
            (
                E::NoCheckpoint {
                    path: path(),
                    skipped,
                },
                "no usable checkpoint in `d/a`\n  d/b: why",
            ),
        ]
    }

    #[test]
    fn every_error_says_what_where_and_how_to_mend() {
        let all = [about_paths(), about_the_disk(), about_folders()];
        for (error, want) in all.into_iter().flatten() {
            let text = error.to_string();
            assert!(text.starts_with(want), "{text}");
            assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{text}");
        }
    }
}
