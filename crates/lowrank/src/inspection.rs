//! Looking at a model and an adapter on it.

use std::path::Path;

use peft::{Inspection, LoraConfig};

use crate::error::Result;

/// Looks at a model folder's config, with an adapter folder's config or the one given on it.
///
/// # Errors
/// Configs that are missing, broken, unsupported, or do not fit each other.
pub fn inspect(
    model: &Path,
    adapter: Option<&Path>,
    config: Option<&LoraConfig>,
) -> Result<Inspection> {
    Ok(peft::inspect(model, adapter, config)?)
}
