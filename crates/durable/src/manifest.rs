//! The list of what a published folder holds, which makes damage visible.
//!
//! The file is JSON whose last field is the digest of all its bytes before that digest, so that a flipped bit
//! in the manifest itself is found too, and a manifest from a newer version can be told from a damaged one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::sha256_hex;
use crate::disk::{Disk, plain_name};
use crate::error::{DurableError, Result};

/// The manifest's name in its folder.
pub const MANIFEST_NAME: &str = "manifest.json";

/// The version that this build writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;

/// A checkpoint has about ten files; a manifest above this is not ours.
const MAX_BYTES: u64 = 4 << 20;

const SEAL_OPENS: &str = ",\n  \"manifest_sha256\": \"";
const SEAL_CLOSES: &str = "\"\n}\n";
const HEX_DIGITS: usize = 64;

/// Size and digest of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// What a published folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this layout.
    pub format_version: u64,
    /// The training step that the folder is the state of; checkpoints are ordered by it.
    pub step: u64,
    /// The files by name, without the manifest.
    pub files: BTreeMap<String, FileRecord>,
    /// Digests of what the state belongs to (base model, data set, run settings), by name.
    pub digests: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct VersionOnly {
    format_version: u64,
}

impl Manifest {
    /// A manifest of this build's version.
    pub fn new(
        step: u64,
        files: BTreeMap<String, FileRecord>,
        digests: BTreeMap<String, String>,
    ) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            step,
            files,
            digests,
        }
    }

    /// The file's text, sealed with its own digest.
    pub fn to_text(&self) -> String {
        let text =
            serde_json::to_string_pretty(self).expect("maps with text keys always serialise");
        let open = text
            .strip_suffix("\n}")
            .expect("pretty JSON of a struct ends like this");
        let opened = format!("{open}{SEAL_OPENS}");
        let seal = sha256_hex(opened.as_bytes());
        format!("{opened}{seal}{SEAL_CLOSES}")
    }

    /// Reads the manifest of a folder on the real disk, without looking at the files it lists.
    ///
    /// # Errors
    /// [`DurableError::NoManifest`], [`DurableError::NewerFormat`], [`DurableError::Damaged`], or an error of
    /// reading.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        Self::read_on(&Disk::real(), folder)
    }

    /// As [`Manifest::read`], on another disk.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn read_on(disk: &Disk, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        match disk.read_text_capped(folder.join(MANIFEST_NAME), MAX_BYTES) {
            Ok(text) => Self::parse(folder, &text),
            Err(DurableError::NotFound { .. }) if disk.is_dir(folder) => {
                Err(DurableError::NoManifest {
                    path: folder.to_owned(),
                })
            }
            Err(DurableError::NotUtf8 { .. }) => Err(damaged(folder, "manifest.json is not text")),
            Err(error) => Err(error),
        }
    }

    /// Reads a manifest's text; `folder` is for the messages.
    ///
    /// # Errors
    /// [`DurableError::NewerFormat`] or [`DurableError::Damaged`].
    pub fn parse(folder: &Path, text: &str) -> Result<Self> {
        if !is_sealed(text) {
            return Err(damaged(
                folder,
                "manifest.json does not have its own digest",
            ));
        }
        let unreadable = |error| damaged(folder, &format!("manifest.json does not parse: {error}"));
        let version = serde_json::from_str::<VersionOnly>(text)
            .map_err(unreadable)?
            .format_version;
        if version > FORMAT_VERSION {
            let (path, ours) = (folder.to_owned(), FORMAT_VERSION);
            return Err(DurableError::NewerFormat {
                path,
                found: version,
                ours,
            });
        }
        if version == 0 {
            return Err(damaged(
                folder,
                "manifest.json has format_version 0, which never was",
            ));
        }
        let sealed: Sealed = serde_json::from_str(text).map_err(unreadable)?;
        let manifest = sealed.into_manifest();
        for name in manifest.files.keys() {
            plain_name(name).map_err(|error| damaged(folder, &error.to_string()))?;
        }
        Ok(manifest)
    }

    /// Checks that each listed file of a folder on the real disk is there with its size and digest. Files that
    /// are not listed are not looked at.
    ///
    /// # Errors
    /// [`DurableError::Damaged`] with everything that is wrong.
    pub fn verify(&self, folder: impl AsRef<Path>) -> Result<()> {
        self.verify_on(&Disk::real(), folder)
    }

    /// As [`Manifest::verify`], on another disk.
    ///
    /// # Errors
    /// As [`Manifest::verify`].
    pub fn verify_on(&self, disk: &Disk, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let files = self.files.iter();
        let faults = files.filter_map(|(name, record)| fault_of(disk, folder, name, record));
        let reasons: Vec<String> = faults.collect();
        if reasons.is_empty() {
            return Ok(());
        }
        Err(DurableError::Damaged {
            path: folder.to_owned(),
            reasons,
        })
    }

    /// Bytes of all listed files together.
    pub fn total_bytes(&self) -> u64 {
        self.files
            .values()
            .fold(0, |sum, file| sum.saturating_add(file.size_bytes))
    }
}

/// The manifest as it is in the file. `deny_unknown_fields` and `flatten` do not mix, so the fields are
/// spelled again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    format_version: u64,
    step: u64,
    files: BTreeMap<String, FileRecord>,
    digests: BTreeMap<String, String>,
    #[serde(rename = "manifest_sha256")]
    _seal: String,
}

impl Sealed {
    fn into_manifest(self) -> Manifest {
        let Self {
            format_version,
            step,
            files,
            digests,
            ..
        } = self;
        Manifest {
            format_version,
            step,
            files,
            digests,
        }
    }
}

fn is_sealed(text: &str) -> bool {
    let Some(text) = text.strip_suffix(SEAL_CLOSES) else {
        return false;
    };
    let Some(at) = text.len().checked_sub(HEX_DIGITS) else {
        return false;
    };
    let Some((opened, seal)) = text.split_at_checked(at) else {
        return false;
    };
    opened.ends_with(SEAL_OPENS) && sha256_hex(opened.as_bytes()) == seal
}

fn fault_of(disk: &Disk, folder: &Path, name: &str, record: &FileRecord) -> Option<String> {
    let path = folder.join(name);
    let size_bytes = match disk.open_read(&path) {
        Ok(file) => file.size_bytes(),
        Err(DurableError::NotFound { .. }) => return Some(format!("`{name}` is missing")),
        Err(error) => return Some(error.to_string()),
    };
    if size_bytes != record.size_bytes {
        let want = record.size_bytes;
        return Some(format!(
            "`{name}` has {size_bytes} bytes, the manifest says {want}"
        ));
    }
    match disk.sha256_file(&path) {
        Ok(found) if found == record.sha256 => None,
        Ok(_) => Some(format!("`{name}` differs from its digest")),
        Err(error) => Some(error.to_string()),
    }
}

fn damaged(folder: &Path, reason: &str) -> DurableError {
    DurableError::Damaged {
        path: folder.to_owned(),
        reasons: vec![reason.to_owned()],
    }
}
