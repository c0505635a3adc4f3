//! A large file is written by a thread of its own, in blocks, while the next ones are being made.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use crate::fs::FsFile;

/// Written at once: long enough for a disk to be at its best.
const BLOCK_BYTES: usize = 1 << 23;
/// One is filled, one is written, the others let both sides run at their own pace.
const BLOCKS: usize = 6;
/// Where blocks begin in memory, so that they can go to the disk without a copy: what every common disk asks for.
pub(crate) const ALIGNMENT: usize = 4096;

/// The file and its thread.
#[derive(Debug)]
pub(crate) struct WriteBehind {
    full: Option<SyncSender<Block>>,
    free: Receiver<Block>,
    filling: Block,
    thread: Option<JoinHandle<io::Result<Box<dyn FsFile>>>>,
}

impl WriteBehind {
    pub(crate) fn new(mut file: Box<dyn FsFile>) -> Self {
        let (full, to_write) = sync_channel::<Block>(BLOCKS);
        let (give_back, free) = channel();
        for _ in 1..BLOCKS {
            let _ = give_back.send(Block::new()); // `free` is right here
        }
        let thread = std::thread::spawn(move || {
            for mut block in to_write {
                file.write_all(block.filled())?;
                block.len = 0;
                let _ = give_back.send(block); // nobody waits for the last ones
            }
            Ok(file)
        });
        Self {
            full: Some(full),
            free,
            filling: Block::new(),
            thread: Some(thread),
        }
    }

    /// Takes bytes; an error may be that of bytes taken before.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.filling.take(bytes);
            bytes = &bytes[taken..];
            if self.filling.len == BLOCK_BYTES {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// Both channels stay open for as long as the thread works, and only an error ends it before [`Self::join`].
    fn hand_over(&mut self) -> io::Result<()> {
        if let (Ok(empty), Some(full)) = (self.free.recv(), &self.full)
            && full
                .send(std::mem::replace(&mut self.filling, empty))
                .is_ok()
        {
            return Ok(());
        }
        Err(self.join().err().unwrap_or_else(gone))
    }

    /// Writes what is left; the file, to be synced.
    pub(crate) fn finish(mut self) -> io::Result<Box<dyn FsFile>> {
        let mut file = self.join()?;
        file.write_all(self.filling.filled())?;
        Ok(file)
    }

    /// Waits for the thread, once.
    fn join(&mut self) -> io::Result<Box<dyn FsFile>> {
        self.full = None;
        let ended = self.thread.take().map(JoinHandle::join);
        ended.and_then(Result::ok).unwrap_or_else(|| Err(gone()))
    }
}

impl Drop for WriteBehind {
    /// The file is closed before its folder is removed.
    fn drop(&mut self) {
        let _ = self.join(); // the writer was told, or is unwinding
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that writes is gone")
}

/// [`BLOCK_BYTES`] that begin at a multiple of [`ALIGNMENT`].
#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Block {
    fn new() -> Self {
        let bytes = vec![0; BLOCK_BYTES + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self {
            bytes,
            start,
            len: 0,
        }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// Copies what there is room for; says how much.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BLOCK_BYTES - self.len);
        let begin = self.start + self.len;
        self.bytes[begin..begin + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::SimFs;
    use crate::fs::Fs;
    use std::path::Path;

    const PATH: &str = "large";

    fn written(disk: &SimFs, pieces: &[&[u8]]) -> io::Result<()> {
        let mut file = WriteBehind::new(disk.create_new(Path::new(PATH))?);
        for piece in pieces {
            file.write_all(piece)?;
        }
        file.finish()?.sync()
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_pieces() {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES + 4097)
            .map(|index| (index % 251) as u8)
            .collect();
        for piece in [4095, BLOCK_BYTES, BLOCK_BYTES + 1, bytes.len()] {
            let disk = SimFs::default();
            written(&disk, &bytes.chunks(piece).collect::<Vec<_>>()).unwrap();
            let mut back = Vec::new();
            let mut file = disk.open_read(Path::new(PATH)).unwrap();
            io::Read::read_to_end(&mut file, &mut back).unwrap();
            assert!(back == bytes, "pieces of {piece}");
        }
    }

    #[test]
    fn a_full_disk_is_told_while_writing_or_at_the_end() {
        let bytes = vec![1; (BLOCKS + 4) * BLOCK_BYTES];
        for free in [0, BLOCK_BYTES / 2, BLOCK_BYTES, bytes.len() - 1] {
            let disk = SimFs::default();
            disk.set_capacity(Some(free as u64));
            let error = written(&disk, &[&bytes]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{free}: {error}");
        }
    }

    /// Any file, until it is written.
    #[derive(Debug)]
    struct Panics;

    impl Write for Panics {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("while writing");
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl io::Read for Panics {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
    }

    impl io::Seek for Panics {
        fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
            Ok(0)
        }
    }

    impl FsFile for Panics {
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn set_len(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error_of_the_writer_and_nobody_waits_for_ever() {
        for blocks in [1, BLOCKS + 4] {
            let mut file = WriteBehind::new(Box::new(Panics));
            let written = file.write_all(&vec![1; blocks * BLOCK_BYTES]);
            let ended = written.and_then(|()| file.finish().map(drop));
            assert_eq!(ended.unwrap_err().to_string(), gone().to_string());
        }
    }

    #[test]
    fn blocks_are_aligned() {
        let block = Block::new();
        assert_eq!(block.filled().as_ptr().addr() % ALIGNMENT, 0);
    }
}
