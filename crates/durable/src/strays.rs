//! Staging folders: who fills them, and those that nobody fills any more.
//!
//! Whoever fills one holds the system's lock on it, which ends with the process, however it dies. So one whose lock is free
//! is a stray, and the next writer to the same target removes it. A reused process id means nothing here.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Entry, bad_name, parent_of, unique};
use crate::error::{DurableError, Result, Skipped};
use crate::fs::{FsFile, Hold, Kind};

/// Names tried before a staging folder is given up: each is taken by somebody else's.
const ATTEMPTS: usize = 16;

impl Disk {
    /// A new staging folder beside `target`, never in the system's temporary folder: a rename must stay on one file system.
    pub(crate) fn create_staging(
        &self,
        target: &Path,
    ) -> Result<(PathBuf, Option<Box<dyn FsFile>>)> {
        let name = target.file_name().ok_or_else(|| bad_name(target))?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let staging =
                target.with_file_name(format!(".staging-{}-{}", name.to_string_lossy(), unique()));
            match self.fs().create_folder(&staging) {
                Ok(()) => {}
                // Of a process with this one's id: on another machine, or in another container.
                Err(error) if taken(&error) && attempt < ATTEMPTS => continue,
                Err(source) => {
                    return Err(self.write_error("create the folder", &staging, 0, source));
                }
            }
            match self.fs().hold_folder(&staging) {
                // One that sweeps may have been between the two steps, and have removed it.
                Ok(Hold::Mine(held)) if self.exists(&staging) => return Ok((staging, Some(held))),
                Ok(Hold::Mine(_) | Hold::Theirs) if attempt < ATTEMPTS => {
                    let _ = self.fs().remove_folder(&staging);
                }
                // A lock that cannot be had is no reason not to save; nobody will sweep it without one.
                _ => return Ok((staging, None)),
            }
        }
    }

    /// Removes what dead processes staged for `target`. What cannot be removed stays, and what cannot be told to be dead:
    /// neither is a reason not to write.
    pub(crate) fn sweep_beside(&self, target: &Path) {
        let staged = self.staged_for(target).unwrap_or_default();
        if staged.is_empty() || self.sync_folder(parent_of(target)).is_err() {
            return;
        }
        for entry in staged {
            let _ = self.remove_staged(&entry.path, false);
        }
    }

    /// What was staged for `target` and is not published: by a process that is at work, or by one that was killed.
    ///
    /// # Errors
    /// [`DurableError::Io`] on the folder that `target` is in.
    pub fn staged_beside(&self, target: impl AsRef<Path>) -> Result<Vec<Skipped>> {
        let staged = self.staged_for(target.as_ref())?;
        let told = staged.into_iter().map(|entry| Skipped {
            reason: self.state_of_staged(&entry.path).to_owned(),
            path: entry.path,
        });
        Ok(told.collect())
    }

    fn staged_for(&self, target: &Path) -> Result<Vec<Entry>> {
        let Some(name) = target.file_name() else {
            return Ok(Vec::new());
        };
        let prefix = format!(".staging-{}-", name.to_string_lossy());
        let mut entries = match self.list_dir(parent_of(target)) {
            Err(DurableError::NotFound { .. } | DurableError::NotAFolder { .. }) => Vec::new(),
            listed => listed?,
        };
        entries.retain(|entry| {
            let rest = entry.name.strip_prefix(&prefix);
            let numbers = rest.and_then(|rest| rest.split_once('-'));
            let numbered = numbers.is_some_and(|(pid, count)| is_number(pid) && is_number(count));
            numbered && entry.kind == Kind::Folder
        });
        Ok(entries)
    }

    /// Removes a folder unless a living process fills it; where nobody can tell, only if told to.
    pub(crate) fn remove_staged(&self, path: &Path, where_unknown: bool) -> Result<bool> {
        let _held = match self.fs().hold_folder(path) {
            Ok(Hold::Mine(held)) => Some(held),
            Ok(Hold::Theirs) => return Ok(false),
            _ if !where_unknown => return Ok(false),
            _ => None,
        };
        self.remove_tree(path)?;
        Ok(true)
    }

    /// In words.
    pub(crate) fn state_of_staged(&self, path: &Path) -> &'static str {
        match self.fs().hold_folder(path) {
            Ok(Hold::Theirs) => "a process that is at work fills it",
            _ => "left by a process that was killed; the next one that writes there removes it",
        }
    }
}

fn taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}

fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}
