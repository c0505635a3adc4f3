//! Families: each a table from `config.json` to a [`DecoderSpec`] and a [`ModuleTree`].
//!
//! A new family is one file of at most 80 lines and one row of `FAMILIES`. What a table cannot say (another
//! rotation, a window of some layers only) is refused with the key and the reason, never approximated.

mod activation;
mod alibi;
mod bloom;
mod error;
mod fused;
mod gated;
mod gpt2;
mod keys;
mod llama;
mod mistral;
mod nodes;
mod notices;
mod qwen2;
mod rope;

use std::path::Path;

use formats::hf_config::HfConfig;
use serde_json::{Map, Value};

pub use error::ConfigError;

use crate::near::near_names;
use crate::spec::DecoderSpec;
use crate::tree::{Module, ModuleTree};
use keys::Keys;

/// One architecture.
struct Family {
    model_type: &'static str,
    spec: Spec,
    tree: Tree,
}

type Spec = fn(Keys<'_>) -> Result<DecoderSpec, ConfigError>;
type Tree = fn(Keys<'_>, &DecoderSpec) -> Result<Module, ConfigError>;

impl Family {
    const fn new(model_type: &'static str, spec: Spec, tree: Tree) -> Self {
        Self {
            model_type,
            spec,
            tree,
        }
    }
}

const FAMILIES: [Family; 5] = [
    bloom::FAMILY,
    gpt2::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    qwen2::FAMILY,
];

/// Every `model_type` with a table.
pub fn supported() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.model_type).collect()
}

/// What the config's decoder computes and where its weights lie.
///
/// # Errors
/// As [`spec_from_map`].
pub fn decoder_spec(config: &HfConfig) -> Result<DecoderSpec, ConfigError> {
    spec_from_map(&config.raw, config.path())
}

/// The modules that Transformers would build from the config.
///
/// # Errors
/// As [`spec_from_map`].
pub fn module_tree(config: &HfConfig) -> Result<ModuleTree, ConfigError> {
    tree_from_map(&config.raw, config.path())
}

/// What Transformers would do with this config and the decoder does not: one line each, for the user's eyes.
///
/// # Errors
/// [`ConfigError::WrongType`] or [`ConfigError::OutOfRange`] of the keys that are looked at.
pub fn notices(config: &HfConfig) -> Result<Vec<String>, ConfigError> {
    notices::notices(Keys::new(&config.raw, config.path()))
}

/// What the config's decoder computes and where its weights lie; `path` is named in errors.
///
/// # Errors
/// Every [`ConfigError`]: an accepted config has sizes within the caps, whose products fit 64 bits.
pub fn spec_from_map(map: &Map<String, Value>, path: &Path) -> Result<DecoderSpec, ConfigError> {
    spec_of(Keys::new(map, path))
}

/// The modules that Transformers would build from the config; `path` is named in errors.
///
/// # Errors
/// As [`spec_from_map`].
pub fn tree_from_map(map: &Map<String, Value>, path: &Path) -> Result<ModuleTree, ConfigError> {
    tree_of(Keys::new(map, path))
}

fn spec_of(keys: Keys<'_>) -> Result<DecoderSpec, ConfigError> {
    (family(keys)?.spec)(keys)
}

fn tree_of(keys: Keys<'_>) -> Result<ModuleTree, ConfigError> {
    let family = family(keys)?;
    let spec = (family.spec)(keys)?;
    let mut root = (family.tree)(keys, &spec)?;
    if spec.tie_word_embeddings {
        tie_head(&mut root, &spec);
    }
    Ok(ModuleTree { root })
}

fn family(keys: Keys<'_>) -> Result<&'static Family, ConfigError> {
    let Some(found) = keys.text(&["model_type"])? else {
        let path = keys.path().to_owned();
        return Err(ConfigError::NoModelType { path });
    };
    let row = FAMILIES.iter().find(|family| family.model_type == found);
    row.ok_or_else(|| ConfigError::UnknownFamily {
        path: keys.path().to_owned(),
        found: keys::shortened(found),
        known: supported(),
        near: near_names(found, supported()),
    })
}

/// The head is a direct child of the root in every family.
fn tie_head(root: &mut Module, spec: &DecoderSpec) {
    let heads = root
        .children
        .iter_mut()
        .filter(|(name, _)| *name == spec.names.head);
    for weight in heads.flat_map(|(_, head)| head.parameters.iter_mut()) {
        weight.tied_to = Some(format!("{}.weight", spec.names.embedding));
    }
}

#[cfg(test)]
mod tests;
