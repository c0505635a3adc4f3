//! Where models, data and results lie.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::run::root;

/// Results and what they were made of.
pub(crate) fn work_folder(command: &str) -> Result<PathBuf> {
    let place = root().join("target").join(command);
    std::fs::create_dir_all(&place)?;
    Ok(place)
}

/// The folder of real inputs, which is not part of the repository.
pub(crate) fn shared_inputs() -> Result<PathBuf> {
    let named = std::env::var_os("LOWRANK_SHARED_INPUTS").map(PathBuf::from);
    let place = named.unwrap_or_else(|| root().join("../shared/inputs"));
    if !place.is_dir() {
        bail!(
            "no real inputs at `{}`: name their folder in LOWRANK_SHARED_INPUTS, or give --model and --dataset",
            place.display()
        );
    }
    Ok(place)
}

/// A real Llama of 260 thousand parameters.
pub(crate) fn stories() -> Result<PathBuf> {
    Ok(shared_inputs()?.join("models/stories260k-hf"))
}

/// SmolLM2-135M, from `named` or where the script below leaves it.
pub(crate) fn smollm2(named: Option<&Path>) -> Result<PathBuf> {
    let usual = root().join("target/smollm2-135m");
    let place = named.map_or(usual, Path::to_owned);
    if !place.join("model.safetensors").is_file() {
        bail!(
            "no SmolLM2-135M at `{0}`: make it with `../shared/tools/get_smollm2.sh {0}`, or name it with --smollm2",
            place.display()
        );
    }
    Ok(place)
}

/// Last part of a path, without an ending.
pub(crate) fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or(path.as_os_str());
    stem.to_string_lossy().into_owned()
}
