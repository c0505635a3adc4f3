//! The cache file: magic, key, counts, an index of rows, ids, and the SHA-256 of all of that.
//!
//! Little-endian. Read mapped; a file that is damaged, or is another's, is refused with the reason and made anew.

use std::path::Path;

use durable::Mapped;
use sha2::{Digest, Sha256};

use super::{CacheUse, EncodedDataset, Report, RowIndex};
use crate::example::Encoded;

const MAGIC: &[u8; 8] = b"lowrank1";
/// Magic, key as 64 hexadecimal digits, rows, ids.
const HEADER: usize = 8 + 64 + 8 + 8;
/// Start, length, masked, length before the cut, whether EOS was cut.
const ENTRY: usize = 8 + 4 + 4 + 4 + 4;
const DIGEST: usize = 32;

/// The dataset in memory, in the bytes that the file will have.
pub(super) fn from_rows(encoded: &[Encoded], key: &str) -> EncodedDataset {
    let ids: usize = encoded.iter().map(|row| row.ids.len()).sum();
    let mut bytes = Vec::with_capacity(HEADER + ENTRY * encoded.len() + 4 * ids + DIGEST);
    bytes.extend(MAGIC);
    bytes.extend(key.as_bytes());
    bytes.extend((encoded.len() as u64).to_le_bytes());
    bytes.extend((ids as u64).to_le_bytes());
    let mut rows = Vec::with_capacity(encoded.len());
    let mut start = 0;
    for row in encoded {
        let len = row.ids.len() as u32;
        let entry = RowIndex {
            start,
            len,
            masked: row.masked,
            full: row.full,
            eos_cut: row.eos_cut,
        };
        bytes.extend(entry.start.to_le_bytes());
        for word in [
            entry.len,
            entry.masked,
            entry.full,
            u32::from(entry.eos_cut),
        ] {
            bytes.extend(word.to_le_bytes());
        }
        rows.push(entry);
        start += u64::from(len);
    }
    bytes.extend(
        encoded
            .iter()
            .flat_map(|row| &row.ids)
            .flat_map(|id| id.to_le_bytes()),
    );
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    let report = Report::of(&rows, CacheUse::Off);
    EncodedDataset {
        ids_at: HEADER + ENTRY * rows.len(),
        bytes: Mapped::from_vec(bytes),
        rows,
        report,
    }
}

pub(super) fn write(path: &Path, bytes: &Mapped) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        durable::create_dir_all(folder).map_err(|error| error.to_string())?;
    }
    durable::write_atomic(path, bytes).map_err(|error| error.to_string())
}

pub(super) fn open(path: &Path, key: &str) -> Result<EncodedDataset, String> {
    let bytes = Mapped::open(path).map_err(|error| error.to_string())?;
    let rows = read(&bytes, key)?;
    let report = Report::of(&rows, CacheUse::Read);
    Ok(EncodedDataset {
        ids_at: HEADER + ENTRY * rows.len(),
        bytes,
        rows,
        report,
    })
}

/// Checks the file and reads its index; after this every row lies within the ids.
fn read(bytes: &[u8], key: &str) -> Result<Vec<RowIndex>, String> {
    let content = bytes
        .len()
        .checked_sub(DIGEST)
        .filter(|&size| size >= HEADER)
        .ok_or("it is cut")?;
    let (content, digest) = bytes.split_at(content);
    if &content[..8] != MAGIC || &content[8..72] != key.as_bytes() {
        return Err("it belongs to another format or run".into());
    }
    if Sha256::digest(content).as_slice() != digest {
        return Err("its digest does not match".into());
    }
    let rows = usize::try_from(word(content, 72)).map_err(|_| "too many rows")?;
    let ids = usize::try_from(word(content, 80)).map_err(|_| "too many ids")?;
    let index = ENTRY
        .checked_mul(rows)
        .and_then(|size| size.checked_add(HEADER))
        .ok_or("too many rows")?;
    if ids.checked_mul(4).and_then(|size| size.checked_add(index)) != Some(content.len()) {
        return Err("its counts do not match its size".into());
    }
    content[HEADER..index]
        .chunks_exact(ENTRY)
        .map(|entry| entry_of(entry, ids as u64))
        .collect()
}

fn entry_of(entry: &[u8], ids: u64) -> Result<RowIndex, String> {
    let half =
        |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    let row = RowIndex {
        start: word(entry, 0),
        len: half(8),
        masked: half(12),
        full: half(16),
        eos_cut: half(20) == 1,
    };
    let end = row.start.checked_add(u64::from(row.len));
    let fits = end.is_some_and(|end| end <= ids) && row.masked <= row.len && row.len <= row.full;
    if fits {
        Ok(row)
    } else {
        Err("a row lies outside its ids".into())
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
