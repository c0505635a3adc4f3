//! Zips and pickles as an attacker likes them.

#![allow(dead_code, reason = "each test binary uses its part")]

/// A zip entry as the attacker likes it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    /// Added to the size in the directory.
    pub(crate) longer: u32,
}

pub(crate) fn entry(name: &'static str, bytes: &[u8]) -> Entry {
    Entry {
        name,
        bytes: bytes.to_vec(),
        method: 0,
        flags: 0,
        longer: 0,
    }
}

pub(crate) fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let (name, size) = (
            entry.name.as_bytes(),
            entry.bytes.len() as u32 + entry.longer,
        );
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(entry.flags.to_le_bytes());
        directory.extend(entry.method.to_le_bytes());
        directory.extend([0; 8]);
        directory.extend(size.to_le_bytes());
        directory.extend(size.to_le_bytes());
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend([0; 12]);
        directory.extend((file.len() as u32).to_le_bytes());
        directory.extend(name);
        file.extend(b"PK\x03\x04");
        file.extend([0; 22]);
        file.extend((name.len() as u16).to_le_bytes());
        file.extend([0; 2]);
        file.extend(name);
        file.extend(&entry.bytes);
    }
    let (start, size, count) = (
        file.len() as u32,
        directory.len() as u32,
        entries.len() as u16,
    );
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0; 2]);
    file
}

/// The state dict `{"w": tensor}` with the given parts: elements of the storage, offset, shape and strides.
pub(crate) fn tensor_pickle(elements: u8, offset: u8, shape: [u8; 2], strides: [u8; 2]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK".to_vec();
    pickle.extend([elements, b't', b'Q', b'K', offset]);
    pickle.extend([
        b'K', shape[0], b'K', shape[1], 0x86, b'K', strides[0], b'K', strides[1], 0x86,
    ]);
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    pickle
}

/// The same zip with all sizes, offsets and counts in their zip64 places, as files above 4 GiB have them.
pub(crate) fn zip64(entries: &[Entry]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let (name, size) = (entry.name.as_bytes(), entry.bytes.len() as u64);
        directory.extend(b"PK\x01\x02");
        directory.extend([0; 16]);
        directory.extend([0xff; 8]);
        directory.extend([name.len() as u8, 0, 34, 0]);
        directory.extend([0; 10]);
        directory.extend([0xff; 4]);
        directory.extend(name);
        directory.extend(b"FB\x02\0zz\x01\0\x18\0");
        directory.extend(
            [size, size, file.len() as u64]
                .map(u64::to_le_bytes)
                .concat(),
        );
        file.extend(b"PK\x03\x04");
        file.extend([0; 22]);
        file.extend([name.len() as u8, 0, 3, 0]);
        file.extend(name);
        file.extend(b"pad");
        file.extend(&entry.bytes);
    }
    let (start, size, count) = (
        file.len() as u64,
        directory.len() as u64,
        entries.len() as u64,
    );
    file.extend(directory);
    let end64 = file.len() as u64;
    file.extend(b"PK\x06\x06");
    file.extend([0; 20]);
    file.extend([count, count, size, start].map(u64::to_le_bytes).concat());
    file.extend(b"PK\x06\x07\0\0\0\0");
    file.extend(end64.to_le_bytes());
    file.extend([1, 0, 0, 0]);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([0xff; 12]);
    file.extend([0; 2]);
    file
}
