//! The directory of a zip whose entries are all stored as they are.
//!
//! Sizes come from the central directory (torch writes none in the local headers). APPNOTE 6.3.10, sections
//! 4.3.7 (local header), 4.3.12 (central), 4.3.14 to 4.3.16 (ends), 4.5.3 (zip64 sizes).

use std::ops::Range;

use super::{MAX_ENTRIES, TorchFault};

/// Entries in the order of their names.
pub(super) struct Archive<'a> {
    entries: Vec<(&'a str, Range<usize>)>,
}

impl<'a> Archive<'a> {
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, TorchFault> {
        // PROTO 2, then the magic number as LONG1: how torch.save began before it wrote zips.
        if file.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") {
            return Err(TorchFault::Legacy);
        }
        let directory = Directory::find(file)?;
        if directory.entries > MAX_ENTRIES {
            return Err(TorchFault::TooManyEntries);
        }
        let mut entries = Vec::new();
        let mut at = directory.range.start;
        for _ in 0..directory.entries {
            let (entry, next) = entry(file, at, &directory.range)?;
            entries.push(entry);
            at = next;
        }
        if at != directory.range.end {
            return Err(TorchFault::Zip(
                "its directory has another size than it says",
            ));
        }
        check_overlap(&mut entries)?;
        entries.sort_unstable_by_key(|(name, _)| *name);
        match entries
            .windows(2)
            .find(|pair| matches!(pair, [a, b] if a.0 == b.0))
        {
            Some([(name, _), _]) => Err(refused(name, "is there twice")),
            _ => Ok(Self { entries }),
        }
    }

    /// Where an entry's bytes lie.
    pub(super) fn get(&self, name: &str) -> Option<Range<usize>> {
        let found = self
            .entries
            .binary_search_by_key(&name, |(name, _)| *name)
            .ok()?;
        self.entries.get(found).map(|(_, range)| range.clone())
    }

    /// The folder that all of a checkpoint lies in, and its pickle.
    pub(super) fn pickle(&self) -> Result<(&'a str, Range<usize>), TorchFault> {
        let pickles = self.entries.iter().filter_map(|(name, range)| {
            let prefix = name.strip_suffix("/data.pkl")?;
            (!prefix.contains('/')).then(|| (prefix, range.clone()))
        });
        let pickles: Vec<_> = pickles.take(2).collect();
        match pickles.as_slice() {
            [one] => Ok(one.clone()),
            others => Err(TorchFault::Pickles(others.len())),
        }
    }
}

fn refused(name: &str, why: &'static str) -> TorchFault {
    TorchFault::Entry {
        name: name.chars().take(128).collect(),
        why,
    }
}

struct Directory {
    entries: usize,
    range: Range<usize>,
}

const END_BYTES: usize = 22;
const END64_BYTES: usize = 56;
const LOCATOR_BYTES: usize = 20;

impl Directory {
    fn find(file: &[u8]) -> Result<Self, TorchFault> {
        // The end record is last but for a comment of at most 65,535 bytes; its comment must reach the end.
        let last = file
            .len()
            .checked_sub(END_BYTES)
            .ok_or(TorchFault::NotAZip)?;
        let first = last.saturating_sub(usize::from(u16::MAX));
        let is_end = |&at: &usize| {
            let comment = u16_at(file, at + 20).map(usize::from);
            file.get(at..at + 4) == Some(b"PK\x05\x06")
                && comment.is_some_and(|length| at + END_BYTES + length == file.len())
        };
        let end = (first..=last)
            .rev()
            .find(is_end)
            .ok_or(TorchFault::NotAZip)?;
        if u16_at(file, end + 4) != Some(0) || u16_at(file, end + 6) != Some(0) {
            return Err(TorchFault::Zip("it spans several disks"));
        }
        let short = [
            u16_at(file, end + 10).map(u64::from),
            u32_at(file, end + 12).map(u64::from),
        ];
        let [Some(entries), Some(size)] = short else {
            return Err(TorchFault::NotAZip);
        };
        let start = u32_at(file, end + 16)
            .map(u64::from)
            .ok_or(TorchFault::NotAZip)?;
        let large = entries == 0xffff || size == 0xffff_ffff || start == 0xffff_ffff;
        if large {
            Self::find64(file, end)
        } else {
            Self::new(entries, start, size, end)
        }
    }

    /// The directory of a zip that is too large for the short end record.
    fn find64(file: &[u8], end: usize) -> Result<Self, TorchFault> {
        const WHY: TorchFault = TorchFault::Zip("its zip64 end record is missing");
        let locator = end.checked_sub(LOCATOR_BYTES).ok_or(WHY)?;
        if file.get(locator..locator + 4) != Some(b"PK\x06\x07") {
            return Err(WHY);
        }
        let at = u64_at(file, locator + 8)
            .and_then(|at| usize::try_from(at).ok())
            .ok_or(WHY)?;
        let inside = at
            .checked_add(END64_BYTES)
            .is_some_and(|end| end <= locator);
        if !inside || file.get(at..at + 4) != Some(b"PK\x06\x06") {
            return Err(WHY);
        }
        let entries = u64_at(file, at + 32).ok_or(WHY)?;
        let size = u64_at(file, at + 40).ok_or(WHY)?;
        let start = u64_at(file, at + 48).ok_or(WHY)?;
        Self::new(entries, start, size, at)
    }

    fn new(entries: u64, start: u64, size: u64, limit: usize) -> Result<Self, TorchFault> {
        const WHY: TorchFault = TorchFault::Zip("its directory lies outside of the file");
        let start = usize::try_from(start).map_err(|_| WHY)?;
        let end = usize::try_from(size)
            .ok()
            .and_then(|size| start.checked_add(size))
            .ok_or(WHY)?;
        let entries = usize::try_from(entries).map_err(|_| WHY)?;
        if end > limit {
            return Err(WHY);
        }
        Ok(Self {
            entries,
            range: start..end,
        })
    }
}

type Entry<'a> = (&'a str, Range<usize>);

/// The entry at `at` of the directory, and where the next begins.
fn entry<'a>(
    file: &'a [u8],
    at: usize,
    directory: &Range<usize>,
) -> Result<(Entry<'a>, usize), TorchFault> {
    const CUT: TorchFault = TorchFault::Zip("its directory is cut");
    let limit = directory.end;
    let head = file
        .get(at..at + 46)
        .filter(|_| at + 46 <= limit)
        .ok_or(CUT)?;
    if !head.starts_with(b"PK\x01\x02") {
        return Err(TorchFault::Zip(
            "an entry of its directory has a wrong signature",
        ));
    }
    let half = |offset| u16_at(head, offset).unwrap_or_default();
    let word = |offset| u32_at(head, offset).unwrap_or_default();
    let (name_bytes, extra_bytes) = (usize::from(half(28)), usize::from(half(30)));
    let extra_at = at + 46 + name_bytes;
    let next = extra_at + extra_bytes + usize::from(half(32));
    if next > limit {
        return Err(CUT);
    }
    let name = file.get(at + 46..extra_at).unwrap_or_default();
    let utf8 = |_| TorchFault::Zip("the name of an entry is not utf-8");
    let name = std::str::from_utf8(name).map_err(utf8)?;
    if half(8) & 1 != 0 {
        return Err(refused(name, "is encrypted"));
    }
    if half(10) != 0 {
        return Err(refused(name, "is compressed"));
    }
    let extra = file
        .get(extra_at..extra_at + extra_bytes)
        .unwrap_or_default();
    let wide = widen(extra, [word(24), word(20), word(42)]);
    let [size, stored, offset] = wide.ok_or_else(|| refused(name, "lacks its zip64 sizes"))?;
    if size != stored {
        return Err(refused(name, "has two sizes"));
    }
    let range = data_range(file, name, offset, size, directory.start)?;
    Ok(((name, range), next))
}

/// Size, stored size and offset of an entry, those of 0xffffffff taken from its zip64 field.
fn widen(mut extra: &[u8], short: [u32; 3]) -> Option<[u64; 3]> {
    let mut wide = short.map(u64::from);
    if !short.contains(&u32::MAX) {
        return Some(wide);
    }
    loop {
        let (id, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let field = extra.get(4..4 + length)?;
        if id != 1 {
            extra = extra.get(4 + length..)?;
            continue;
        }
        let mut at = 0;
        for value in wide
            .iter_mut()
            .filter(|value| **value == u64::from(u32::MAX))
        {
            *value = u64_at(field, at)?;
            at += 8;
        }
        return Some(wide);
    }
}

/// The bytes of an entry: after its local header, before the directory.
fn data_range(
    file: &[u8],
    name: &str,
    offset: u64,
    size: u64,
    limit: usize,
) -> Result<Range<usize>, TorchFault> {
    let outside = || refused(name, "lies outside of the file");
    let at = usize::try_from(offset).map_err(|_| outside())?;
    let head = at
        .checked_add(30)
        .and_then(|end| file.get(at..end))
        .ok_or_else(outside)?;
    if !head.starts_with(b"PK\x03\x04") {
        return Err(refused(name, "has no local header"));
    }
    let name_bytes = usize::from(u16_at(head, 26).unwrap_or_default());
    let extra_bytes = usize::from(u16_at(head, 28).unwrap_or_default());
    if file.get(at + 30..at + 30 + name_bytes) != Some(name.as_bytes()) {
        return Err(refused(name, "has another name in its local header"));
    }
    let start = at + 30 + name_bytes + extra_bytes;
    let end = usize::try_from(size)
        .ok()
        .and_then(|size| start.checked_add(size));
    match end {
        Some(end) if end <= limit => Ok(start..end),
        _ => Err(outside()),
    }
}

fn check_overlap(entries: &mut [Entry<'_>]) -> Result<(), TorchFault> {
    entries.sort_unstable_by_key(|(_, range)| (range.start, range.end));
    let mut before = 0;
    for (name, range) in entries {
        if range.start < before {
            return Err(refused(name, "shares bytes with another"));
        }
        before = range.end;
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|&chunk| u16::from_le_bytes(chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|&chunk| u32::from_le_bytes(chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|&chunk| u64::from_le_bytes(chunk))
}
