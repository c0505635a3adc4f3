//! One writer per folder.

use std::fmt;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::{DurableError, Result};
use crate::fs::{FsFile, Kind};

const LOCK_NAME: &str = ".lock";
const MAX_HOLDER_BYTES: u64 = 4096;

/// Who holds a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// Process id; 0 where unknown.
    pub pid: u32,
    /// Host name; empty where unknown.
    pub host: String,
    /// Start, in seconds since 1970.
    pub start_unix_s: u64,
}

impl Holder {
    fn this_process() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH);
        let start_unix_s = start.map_or(0, |since| since.as_secs());
        Self {
            pid: std::process::id(),
            host: host_name(),
            start_unix_s,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("an unknown process");
        }
        write!(f, "process {}", self.pid)?;
        if !self.host.is_empty() {
            write!(f, " on {}", self.host)?;
        }
        write!(f, ", since {}", utc(self.start_unix_s))
    }
}

/// Seconds since 1970 as date and time; days to date as in Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms": years start in March, so that the leap day comes last.
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The right to write to a folder, until dropped or until the process dies, however it dies.
///
/// The lock is the operating system's, on `.lock` in the folder: what a dead process held is free at once, and
/// a reused process id means nothing. The file stays (removing it would let two processes lock two files).
#[derive(Debug)]
pub struct FolderLock {
    file: Box<dyn FsFile>,
    path: PathBuf,
}

impl FolderLock {
    /// Takes the lock of a folder on the real disk.
    ///
    /// # Errors
    /// [`DurableError::Locked`] names the holder; else as [`Disk::write_atomic`].
    pub fn take(folder: impl AsRef<Path>) -> Result<Self> {
        Self::take_on(&Disk::real(), folder)
    }

    /// As [`FolderLock::take`], on another disk.
    ///
    /// # Errors
    /// As [`FolderLock::take`].
    pub fn take_on(disk: &Disk, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join(LOCK_NAME);
        if let Some(stat) = disk.stat_link(&path)?
            && stat.kind != Kind::File
        {
            return Err(DurableError::NotAFile {
                path,
                found: stat.kind,
            });
        }
        let tried = disk.fs().try_lock(&path);
        let (file, locked) = tried.map_err(|source| disk.write_error("lock", &path, 0, source))?;
        if !locked {
            let holder = read_holder(file);
            return Err(DurableError::Locked {
                path: folder.to_owned(),
                holder,
            });
        }
        let mut lock = Self { file, path };
        lock.write_holder(disk)?;
        Ok(lock)
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write_holder(&mut self, disk: &Disk) -> Result<()> {
        let text = serde_json::to_string(&Holder::this_process()).expect("plain fields serialise");
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)).map(drop))
            .and_then(|()| self.file.write_all(format!("{text}\n").as_bytes()));
        let needed = text.len() as u64;
        written.map_err(|source| disk.write_error("write", &self.path, needed, source))
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0); // the name of a holder that is none would mislead
    }
}

/// Unreadable or half-written text is an unknown holder: the lock itself is what counts.
fn read_holder(mut file: Box<dyn FsFile>) -> Holder {
    let mut text = String::new();
    let _ = file
        .as_mut()
        .take(MAX_HOLDER_BYTES)
        .read_to_string(&mut text);
    serde_json::from_str(&text).unwrap_or_default()
}

#[cfg(unix)]
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(not(unix))]
fn host_name() -> String {
    String::new()
}

#[cfg(test)]
mod tests {
    use super::{Holder, utc};

    #[test]
    fn dates_are_those_of_the_calendar() {
        let known = [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_200, "2024-03-01 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ];
        for (unix_s, text) in known {
            assert_eq!(utc(unix_s), text);
        }
    }

    #[test]
    fn holder_names_what_it_knows() {
        assert_eq!(Holder::default().to_string(), "an unknown process");
        let holder = Holder {
            pid: 7,
            host: "h".into(),
            start_unix_s: 60,
        };
        assert_eq!(
            holder.to_string(),
            "process 7 on h, since 1970-01-01 00:01:00 UTC"
        );
    }
}
