//! A log of lines that only grows, whole lines at a time.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, parent_of};
use crate::error::{DurableError, Result};
use crate::fs::{FsFile, Kind};

/// The search for the last newline goes back in steps of this.
const PIECE_BYTES: u64 = 1 << 16;

/// An append-only file of lines. A line is there whole or not at all; a failure costs that line, not the log.
#[derive(Debug)]
pub struct AppendLog {
    disk: Disk,
    path: PathBuf,
    file: Box<dyn FsFile>,
    len: u64,
    lost_lines: u64,
    condemned: bool,
}

impl AppendLog {
    /// Opens or creates a log on the real disk; a last line that a crash has cut is removed.
    ///
    /// # Errors
    /// [`DurableError::NotAFile`] or [`DurableError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::on(&Disk::real(), path)
    }

    /// As [`AppendLog::open`], on another disk.
    ///
    /// # Errors
    /// As [`AppendLog::open`].
    pub fn on(disk: &Disk, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if let Some(stat) = disk.stat(path)?
            && stat.kind != Kind::File
        {
            return Err(DurableError::NotAFile {
                path: path.to_owned(),
                found: stat.kind,
            });
        }
        let failed = |source| disk.write_error("open the log", path, 0, source);
        let mut file = disk.fs().open_append(path).map_err(failed)?;
        let len = end_of_last_line(&mut *file).map_err(failed)?;
        let (disk, path) = (disk.clone(), path.to_owned());
        let mut log = Self {
            disk,
            path,
            file,
            len,
            lost_lines: 0,
            condemned: false,
        };
        if let Err(source) = log.cut() {
            return Err(log.disk.write_error("cut the log", &log.path, 0, source));
        }
        // Lines that are synced need a name; the run that made the file may have died before it was safe.
        log.disk.sync_folder(parent_of(&log.path))?;
        Ok(log)
    }

    /// Lines that could not be written.
    pub fn lost_lines(&self) -> u64 {
        self.lost_lines
    }

    /// Adds one line, given without its newline.
    ///
    /// # Errors
    /// [`DurableError::NoSpace`] or [`DurableError::Io`]; the line is lost and counted, the log goes on.
    pub fn append(&mut self, line: &str) -> Result<()> {
        let bytes = [line.as_bytes(), b"\n"].concat();
        // A failure earlier may have left a torn tail that could not be cut then.
        let done = self.cut().and_then(|()| self.file.write_all(&bytes));
        match done {
            Ok(()) => self.len += bytes.len() as u64,
            Err(source) => {
                self.lost_lines += 1;
                let _ = self.cut(); // tried again before the next line
                let needed = bytes.len() as u64;
                return Err(self
                    .disk
                    .write_error("append to the log", &self.path, needed, source));
            }
        }
        Ok(())
    }

    /// Keeps the lines at the beginning for as long as `keep` says so, given without their newlines, and cuts the rest.
    ///
    /// # Errors
    /// [`DurableError::Io`].
    pub fn keep_while(&mut self, keep: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let kept = leading_bytes(&mut *self.file, self.len, keep);
        self.len = kept.map_err(|source| DurableError::io("read", &self.path, source))?;
        let done = self.cut();
        done.map_err(|source| DurableError::io("cut the log", &self.path, source))
    }

    /// Makes the lines so far survive a power cut. After one failure it only fails: a second sync of the same
    /// file could report success for pages that the system has already dropped.
    ///
    /// # Errors
    /// [`DurableError::Sync`].
    pub fn sync(&mut self) -> Result<()> {
        let done = match self.condemned {
            true => Err(io::Error::other("an earlier sync of this file failed")),
            false => self.file.sync(),
        };
        self.condemned = done.is_err();
        done.map_err(|source| DurableError::Sync {
            path: self.path.clone(),
            source,
        })
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.file.seek(SeekFrom::End(0))? == self.len {
            return Ok(());
        }
        self.file.set_len(self.len)
    }
}

/// Bytes of the lines at the beginning of `len` bytes that are to be kept.
fn leading_bytes(
    file: &mut dyn FsFile,
    len: u64,
    mut keep: impl FnMut(&[u8]) -> bool,
) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut lines = BufReader::new(file.take(len));
    let (mut kept, mut line) = (0, Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        if !keep(line.strip_suffix(b"\n").unwrap_or(&line)) {
            break;
        }
        kept += line.len() as u64;
        line.clear();
    }
    Ok(kept)
}

fn end_of_last_line(file: &mut dyn FsFile) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    while end > 0 {
        let start = end.saturating_sub(PIECE_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut piece = Vec::new();
        (&mut *file).take(end - start).read_to_end(&mut piece)?;
        if let Some(at) = piece.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
