//! A file whose aligned writes go to the disk, past the system's page cache: copying into fresh pages and having them
//! written later costs more than the disk does, and would push out what others keep there.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::behind::ALIGNMENT;
use crate::fs::FsFile;

/// Direct until a write comes that is not aligned, as the last one of most files.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: File,
    direct: bool,
}

impl DirectFile {
    /// Takes a new file. File systems that know no direct writes get plain ones.
    pub(crate) fn new(file: File) -> Self {
        let direct = set_direct(&file, true).is_ok();
        Self { file, direct }
    }

    fn leave_direct(&mut self) -> io::Result<()> {
        self.direct = false;
        set_direct(&self.file, false)
    }
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(fcntl_setfl(file, flags)?)
}

fn aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) && bytes.len().is_multiple_of(ALIGNMENT)
}

impl Write for DirectFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.direct && !aligned(bytes) {
            self.leave_direct()?;
        }
        match self.file.write(bytes) {
            // Some take the flag and then not the write, or want blocks larger than ours.
            Err(error) if self.direct && Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                self.leave_direct()?;
                self.file.write(bytes)
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Read for DirectFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.direct {
            self.leave_direct()?;
        }
        self.file.read(bytes)
    }
}

impl Seek for DirectFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl FsFile for DirectFile {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
