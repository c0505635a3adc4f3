//! Adapter folders, of PEFT's making or ours, into values. Strict: every tensor is used or the load fails.
//!
//! PEFT itself loads whatever fits and warns of the rest, so an adapter for another base gives a model that is
//! half random. Here all that is missing, unexpected or misshapen is listed at once and nothing is loaded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use formats::adapter_config::FILE_NAME;
use formats::weights::{StoredTensor, WeightStore};
use model::spec::DecoderSpec;
use model::tree::ModuleTree;

use crate::LoraConfig;
use crate::base::origin;
use crate::error::{Misshapen, PeftError, Result};
use crate::names::{DiskName, parse};
use crate::plan::AdapterPlan;

/// Key of the base weights' digest ([`WeightStore::digest`]) in the manifest of a checkpoint.
pub const BASE_DIGEST: &str = "base_model";

/// The model that an adapter is to be loaded on.
#[derive(Debug, Clone, Copy)]
pub struct BaseModel<'a> {
    /// What it computes.
    pub spec: &'a DecoderSpec,
    /// Its modules.
    pub tree: &'a ModuleTree,
    /// Its weights, where they are at hand: needed when the adapter carries copies of them, and for the check
    /// that the adapter was trained on this base.
    pub weights: Option<&'a WeightStore>,
    /// The adapter may be of other weights: no digest is compared, and copies of a base's tensors need only its shapes.
    pub any_base: bool,
}

/// An adapter's plan and all its values.
#[derive(Debug, Clone)]
pub struct LoadedAdapter {
    /// Where it was read.
    pub path: PathBuf,
    /// What it is on this model.
    pub plan: AdapterPlan,
    /// Values by the decoder's name, one for every parameter of the plan.
    pub values: BTreeMap<String, Vec<f32>>,
}

/// Reads an adapter folder.
///
/// # Errors
/// Those of reading files and of [`AdapterPlan::new`]; [`PeftError::Mismatch`] listing every missing, unexpected
/// and misshapen tensor; [`PeftError::Twice`], [`PeftError::TensorType`], [`PeftError::NotFinite`];
/// [`PeftError::OtherBase`] when the folder's manifest names other base weights.
pub fn read_adapter(folder: &Path, base: BaseModel<'_>) -> Result<LoadedAdapter> {
    let config = open_config(folder)?;
    let mut plan = AdapterPlan::new(&config, base.spec, base.tree)?;
    plan.notices.extend(config.warnings());
    if !base.any_base {
        check_digest(folder, base.weights)?;
    }
    let store = WeightStore::open_adapter(folder)?;
    let tensors = by_parameter(folder, &store, &mut plan.notices)?;
    let tensors = check_fit(folder, tensors, &mut plan, base)?;
    let values = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, finite_values(folder, &tensor)?)))
        .collect::<Result<_>>()?;
    Ok(LoadedAdapter {
        path: folder.to_owned(),
        plan,
        values,
    })
}

/// The configuration of an adapter folder; where it has none, the error names the adapters inside.
pub(crate) fn open_config(folder: &Path) -> Result<LoraConfig> {
    if durable::is_dir(folder) && !durable::exists(folder.join(FILE_NAME)) {
        let entries = durable::list_dir(folder)?.into_iter();
        let paths = entries.map(|entry| entry.path);
        let inside = paths.filter(|path| durable::is_file(path.join(FILE_NAME)));
        return Err(PeftError::NoAdapter {
            folder: folder.to_owned(),
            inside: inside.take(8).collect(),
        });
    }
    Ok(LoraConfig::open(folder)?)
}

/// Tensors by the decoder's name.
fn by_parameter(
    folder: &Path,
    store: &WeightStore,
    notices: &mut Vec<String>,
) -> Result<BTreeMap<String, StoredTensor>> {
    let mut tensors: BTreeMap<String, StoredTensor> = BTreeMap::new();
    for tensor in store.iter() {
        let DiskName::Parameter(name) = parse(&tensor.name) else {
            notices.push(format!(
                "tensor `{}` is a frozen copy and not used",
                tensor.name
            ));
            continue;
        };
        let Some(first) = tensors.insert(name, tensor.clone()) else {
            continue;
        };
        let same = first.dtype == tensor.dtype && *first.bytes == *tensor.bytes;
        if !same {
            return Err(PeftError::Twice {
                path: folder.to_owned(),
                first: first.name,
                second: tensor.name.clone(),
            });
        }
    }
    Ok(tensors)
}

/// Every planned parameter has a tensor of its shape, and every tensor a parameter.
fn check_fit(
    folder: &Path,
    mut tensors: BTreeMap<String, StoredTensor>,
    plan: &mut AdapterPlan,
    base: BaseModel<'_>,
) -> Result<BTreeMap<String, StoredTensor>> {
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    let mut fitting = BTreeMap::new();
    for parameter in &plan.parameters {
        let twins = parameter
            .on_disk
            .iter()
            .filter_map(|name| match parse(name) {
                DiskName::Parameter(name) => Some(name),
                DiskName::Ignored => None,
            });
        let mut found: Vec<StoredTensor> = twins.filter_map(|name| tensors.remove(&name)).collect();
        check_twins(folder, &found)?;
        match found.pop() {
            None => missing.push(parameter.on_disk[0].clone()),
            Some(tensor) if tensor.shape != parameter.shape => misshapen.push(Misshapen {
                name: tensor.name,
                found: tensor.shape,
                want: parameter.shape.clone(),
            }),
            Some(tensor) => {
                fitting.insert(parameter.name.clone(), tensor);
            }
        }
    }
    let unexpected = unexpected(tensors, plan, base);
    if missing.is_empty() && misshapen.is_empty() && unexpected.is_empty() {
        return Ok(fitting);
    }
    Err(PeftError::Mismatch {
        path: folder.to_owned(),
        model_type: plan.model_type.clone(),
        missing,
        unexpected,
        misshapen,
    })
}

fn check_twins(folder: &Path, found: &[StoredTensor]) -> Result<()> {
    let [first, second] = found else {
        return Ok(());
    };
    if first.dtype == second.dtype && *first.bytes == *second.bytes {
        return Ok(());
    }
    Err(PeftError::Twice {
        path: folder.to_owned(),
        first: first.name.clone(),
        second: second.name.clone(),
    })
}

/// Names left over, less the copies of the base's own values, which PEFT saves beside a targeted head or after
/// the vocabulary was resized.
fn unexpected(
    left: BTreeMap<String, StoredTensor>,
    plan: &mut AdapterPlan,
    base: BaseModel<'_>,
) -> Vec<String> {
    let mut unexpected = Vec::new();
    for (name, tensor) in left {
        if is_base_copy(&name, &tensor, base) {
            plan.notices.push(format!(
                "tensor `{}` is a copy of the base's and is not used",
                tensor.name
            ));
        } else {
            unexpected.push(tensor.name);
        }
    }
    unexpected
}

fn is_base_copy(name: &str, tensor: &StoredTensor, base: BaseModel<'_>) -> bool {
    let Some(weights) = base.weights else {
        return false;
    };
    let stored = origin(weights, base.spec, name);
    let equal = |one: &StoredTensor| one.to_f32().is_some_and(|v| Some(v) == tensor.to_f32());
    stored.is_some_and(|one| one.shape == tensor.shape && (base.any_base || equal(&one)))
}

fn finite_values(folder: &Path, tensor: &StoredTensor) -> Result<Vec<f32>> {
    let values = tensor.to_f32().ok_or_else(|| PeftError::TensorType {
        path: folder.to_owned(),
        name: tensor.name.clone(),
        dtype: tensor.dtype.to_string(),
    })?;
    let count = values.iter().filter(|value| !value.is_finite()).count();
    if count == 0 {
        return Ok(values);
    }
    Err(PeftError::NotFinite {
        path: folder.to_owned(),
        name: tensor.name.clone(),
        count,
    })
}

/// A checkpoint of ours says which weights it was trained on.
fn check_digest(folder: &Path, weights: Option<&WeightStore>) -> Result<()> {
    let Some(weights) = weights else {
        return Ok(());
    };
    if !durable::is_file(folder.join(durable::MANIFEST_NAME)) {
        return Ok(());
    }
    let manifest = durable::Manifest::read(folder)?;
    let Some(recorded) = manifest.digests.get(BASE_DIGEST) else {
        return Ok(());
    };
    let found = weights.digest();
    if *recorded == found {
        return Ok(());
    }
    Err(PeftError::OtherBase {
        path: folder.to_owned(),
        why: format!(
            "weights with digest {}, these have {}",
            start(recorded),
            start(&found)
        ),
    })
}

/// Enough of a digest to tell two apart.
fn start(digest: &str) -> String {
    digest.chars().take(12).collect()
}
