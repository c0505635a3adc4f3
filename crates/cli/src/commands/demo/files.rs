//! What the binary carries, made by `cargo xtask demo-base`, and the folders that it is put in.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lowrank::LowrankError;

macro_rules! carried {
    ($($name:literal),+) => { &[$(($name, include_bytes!(concat!("../../../demo/", $name)))),+] };
}

/// The base model, as a Hugging Face folder.
const BASE: &[(&str, &[u8])] = carried!(
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json"
);
/// The rows.
const DATA: &[(&str, &[u8])] = carried!("instructions.json", "held_out.json");

/// Where everything of one demo run lies.
pub(super) struct Folders {
    /// The base model.
    pub(super) base: PathBuf,
    /// Rows that are learnt.
    pub(super) instructions: PathBuf,
    /// Rows about facts that no learnt row asks for.
    pub(super) held_out: PathBuf,
    /// What training writes.
    pub(super) lora: PathBuf,
    /// What the merge writes.
    pub(super) merged: PathBuf,
}

impl Folders {
    /// Unpacks into `folder`, which may hold earlier demos: base and data are written anew, results get a folder of
    /// their own.
    pub(super) fn unpack(folder: &Path) -> Result<Self> {
        let (base, data) = (folder.join("base"), folder.join("data"));
        for (target, files) in [(&base, BASE), (&data, DATA)] {
            durable::create_dir_all(target).map_err(LowrankError::from)?;
            for (name, bytes) in files {
                durable::write_atomic(target.join(name), bytes).map_err(LowrankError::from)?;
            }
        }
        let free = |number: &u32| !durable::exists(folder.join(format!("run-{number}")));
        let number = (1..u32::MAX).find(free).unwrap_or(u32::MAX);
        let run = folder.join(format!("run-{number}"));
        durable::create_dir_all(&run).map_err(LowrankError::from)?;
        Ok(Self {
            base,
            instructions: data.join("instructions.json"),
            held_out: data.join("held_out.json"),
            lora: run.join("lora"),
            merged: run.join("merged"),
        })
    }
}

/// Bytes of a file.
pub(super) fn size_bytes(path: impl AsRef<Path>) -> Result<u64> {
    let file = durable::open_read(path).map_err(LowrankError::from)?;
    Ok(file.size_bytes())
}
