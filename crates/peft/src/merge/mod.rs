//! An adapter folded into its base: a plain model folder that needs no PEFT.
//!
//! Tensors stream one by one from the mapped base into the new files; only those that the adapter changes are
//! computed. The folder appears whole, or not at all. Where a tied head and embedding came apart, both are
//! written and the config says so. PEFT's `merge_and_unload` adds a tied head's delta to the embedding too, and says
//! something else then than the adapter did.

mod fold;
mod proof;
mod shards;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use durable::{MappedSlice, StagedFolder};
use formats::Dtype;
use formats::hf_config::HfConfig;
use formats::safetensors::{Contents, TensorToWrite};
use formats::weights::{StoredTensor, WeightStore};
use model::families::{decoder_spec, module_tree};
use model::spec::DecoderSpec;

use crate::base::full_name;
use crate::error::{PeftError, Result};
use crate::load::{BaseModel, read_adapter};
use crate::plan::{AdapterPlan, Role};
use fold::{Delta, folded};

pub use formats::sharding::MAX_SHARD_BYTES;
pub use proof::{MergeProof, MergeWitness, PromptProof, ProofPrompt};

/// Files that make a model folder usable and that the adapter does not change.
const COPIED: [&str; 11] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MergeReport {
    /// Weight files, in order.
    pub files: Vec<String>,
    /// Tensors written.
    pub tensors: usize,
    /// Names of those that differ from the base's.
    pub changed: Vec<String>,
    /// Bytes of all tensors.
    pub size_bytes: u64,
    /// The tied head and embedding came apart: the config now says `tie_word_embeddings: false`.
    pub untied: bool,
    /// Warnings of reading the adapter.
    pub notices: Vec<String>,
}

/// Reads base and adapter and writes the merged model to `output`, which must not exist.
///
/// # Errors
/// Those of reading both; [`PeftError::MergeNotFinite`] when a merged value overflows its type;
/// [`PeftError::NoBaseTensor`], [`PeftError::MergeType`]; those of writing. Nothing is at `output` then.
pub fn merge_folder(
    base_dir: &Path,
    adapter_dir: &Path,
    output: &Path,
    max_shard_bytes: u64,
) -> Result<MergeReport> {
    let config = HfConfig::open(base_dir)?;
    let spec = decoder_spec(&config)?;
    let weights = WeightStore::open(base_dir)?;
    let (config, notice) = model::config_as_stored(config, &spec, &weights);
    let (spec, tree) = (decoder_spec(&config)?, module_tree(&config)?);
    let base = BaseModel {
        spec: &spec,
        tree: &tree,
        weights: Some(&weights),
        any_base: false,
    };
    let adapter = read_adapter(adapter_dir, base)?;
    let merge = Merge {
        spec: &spec,
        weights: &weights,
        adapter: Some((&adapter.plan, &adapter.values)),
    };
    let folder = ModelFolder {
        config: &config,
        files_of: base_dir,
        max_shard_bytes,
    };
    let mut report = merge.write(folder, output)?;
    report.notices.extend(notice);
    Ok(report)
}

/// Writes a plain model as a folder, which must not exist: `save_pretrained` of a model without an adapter.
///
/// # Errors
/// Those of writing. Nothing is at `output` then.
pub fn save_model(
    folder: ModelFolder<'_>,
    spec: &DecoderSpec,
    weights: &WeightStore,
    output: &Path,
) -> Result<MergeReport> {
    let merge = Merge {
        spec,
        weights,
        adapter: None,
    };
    merge.write(folder, output)
}

/// Folds trained values into their base in memory, in f32, rounded once to the stored type. Returns the merged
/// weights, in which unchanged tensors are still the base's mapped bytes, and whether a tied head came apart.
///
/// # Errors
/// As [`merge_folder`] where nothing is read or written.
pub fn merge_weights(
    spec: &DecoderSpec,
    weights: &WeightStore,
    plan: &AdapterPlan,
    values: &BTreeMap<String, Vec<f32>>,
) -> Result<(WeightStore, bool)> {
    let merge = Merge {
        spec,
        weights,
        adapter: Some((plan, values)),
    };
    let tensors = merge.tensors()?;
    let untied = merge.report(&tensors)?.untied;
    let tensors = tensors.into_iter().map(MergedTensor::into_stored);
    let tensors = tensors
        .collect::<io::Result<Vec<_>>>()
        .map_err(|source| not_finite(formats::FormatsError::Write { source }.into()))?;
    Ok((weights.with_tensors(tensors), untied))
}

/// What stands beside the weights of a model folder.
#[derive(Debug, Clone, Copy)]
pub struct ModelFolder<'a> {
    /// Its config.
    pub config: &'a HfConfig,
    /// Where generation config and tokenizer files are copied from.
    pub files_of: &'a Path,
    /// Bytes of one weights file at most.
    pub max_shard_bytes: u64,
}

/// A tensor of the merged model: where it comes from.
pub(crate) struct MergedTensor<'a> {
    name: String,
    stored: StoredTensor,
    change: Change<'a>,
}

enum Change<'a> {
    None,
    Fold(Delta<'a>),
    Replace(&'a [f32]),
}

struct Merge<'a> {
    spec: &'a DecoderSpec,
    weights: &'a WeightStore,
    /// What is folded in; nothing where a model is saved as it is.
    adapter: Option<(&'a AdapterPlan, &'a BTreeMap<String, Vec<f32>>)>,
}

impl<'a> Merge<'a> {
    fn write(&self, folder: ModelFolder<'_>, output: &Path) -> Result<MergeReport> {
        let tensors = self.tensors()?;
        let mut staged = StagedFolder::new(output)?;
        let report = self.report(&tensors)?;
        durable::need_space(staged.staging_path(), report.size_bytes + (1 << 20))?;
        let report = shards::write_weights(&mut staged, tensors, folder.max_shard_bytes, report)
            .map_err(not_finite)?;
        let config = merged_config(folder.config, report.untied);
        staged.write("config.json", config.to_json().as_bytes())?;
        copy_files(folder.files_of, &mut staged)?;
        self.weights.check_unchanged()?;
        staged.publish()?;
        Ok(report)
    }

    /// Every tensor of the merged model; the adapter's changes are all used.
    fn tensors(&self) -> Result<Vec<MergedTensor<'a>>> {
        let mut out = Vec::with_capacity(self.weights.len() + 1);
        for stored in self.weights.iter() {
            let name = full_name(self.spec, &stored.name);
            if !self.spec.is_unread(&name) {
                out.push(self.merged(name, stored.clone()));
            }
        }
        if self.untied() {
            let name = format!("{}.weight", self.spec.names.head);
            let source = format!("{}.weight", self.spec.names.embedding);
            let missing = || PeftError::NoBaseTensor {
                name: source.clone(),
            };
            let embedding = out
                .iter()
                .find(|tensor| tensor.name == source)
                .ok_or_else(missing)?;
            let stored = embedding.stored.clone();
            out.push(self.merged(name, stored));
        }
        self.check_all_used(&out)?;
        Ok(out)
    }

    /// The head has values of its own from now on, or the embedding leaves it behind.
    fn untied(&self) -> bool {
        let ends = [&self.spec.names.head, &self.spec.names.embedding];
        let Some((plan, _)) = self.adapter else {
            return false;
        };
        let delta = plan
            .targets
            .iter()
            .any(|target| ends.contains(&&target.path));
        let own = plan.parameters.iter().any(|parameter| {
            let path = parameter.name.strip_suffix(".weight");
            !parameter.tie && path.is_some_and(|path| ends.iter().any(|end| *end == path))
        });
        self.spec.tie_word_embeddings && (delta || own)
    }

    fn merged(&self, name: String, stored: StoredTensor) -> MergedTensor<'a> {
        let change = self.change(&name);
        MergedTensor {
            name,
            stored,
            change,
        }
    }

    fn change(&self, name: &str) -> Change<'a> {
        let Some((plan, adapter)) = self.adapter else {
            return Change::None;
        };
        if let Some(values) = adapter.get(name) {
            return Change::Replace(values);
        }
        let path = name.strip_suffix(".weight");
        let target = plan
            .targets
            .iter()
            .find(|target| Some(target.path.as_str()) == path);
        let delta = target.and_then(|target| {
            let value = |part: &str| adapter.get(&format!("{}.{part}.weight", target.path));
            Some(Delta {
                target,
                a: value("lora_A")?,
                b: value("lora_B")?,
            })
        });
        delta.map_or(Change::None, Change::Fold)
    }

    fn check_all_used(&self, tensors: &[MergedTensor<'_>]) -> Result<()> {
        let there: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let parameters = self.adapter.map_or(&[][..], |(plan, _)| &plan.parameters);
        for parameter in parameters {
            let name = match parameter.role {
                Role::LoraA | Role::LoraB => {
                    let path = parameter.name.rsplitn(3, '.').last().unwrap_or_default();
                    format!("{path}.weight")
                }
                Role::Bias | Role::Saved => parameter.name.clone(),
            };
            if !there.contains(name.as_str()) {
                return Err(PeftError::NoBaseTensor { name });
            }
        }
        Ok(())
    }

    fn report(&self, tensors: &[MergedTensor<'_>]) -> Result<MergeReport> {
        let changed = tensors
            .iter()
            .filter(|tensor| !matches!(tensor.change, Change::None));
        let changed: Vec<&MergedTensor<'_>> = changed.collect();
        if let Some(tensor) = changed.iter().find(|tensor| !is_float(tensor.stored.dtype)) {
            let (name, dtype) = (tensor.name.clone(), tensor.stored.dtype.to_string());
            return Err(PeftError::MergeType { name, dtype });
        }
        Ok(MergeReport {
            files: Vec::new(),
            tensors: tensors.len(),
            changed: changed.iter().map(|tensor| tensor.name.clone()).collect(),
            size_bytes: tensors
                .iter()
                .map(|tensor| tensor.stored.bytes.len() as u64)
                .sum(),
            untied: self.untied(),
            notices: self
                .adapter
                .map_or_else(Vec::new, |(plan, _)| plan.notices.clone()),
        })
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
}

impl<'a> MergedTensor<'a> {
    fn to_write(&'a self) -> TensorToWrite<'a> {
        let (name, dtype) = (self.name.as_str(), self.stored.dtype);
        let plain = TensorToWrite::bytes(name, dtype, &self.stored.shape, &self.stored.bytes);
        if matches!(self.change, Change::None) {
            return plain;
        }
        TensorToWrite {
            contents: Contents::Made(Box::new(move || self.made())),
            ..plain
        }
    }

    /// The tensor itself: mapped bytes where nothing changes.
    fn into_stored(self) -> io::Result<StoredTensor> {
        let bytes = match self.change {
            Change::None => self.stored.bytes.clone(),
            Change::Fold(_) | Change::Replace(_) => MappedSlice::from_vec(self.made()?),
        };
        let (name, stored) = (self.name, self.stored);
        Ok(StoredTensor {
            name,
            bytes,
            ..stored
        })
    }

    /// The changed bytes, finite.
    fn made(&self) -> io::Result<Vec<u8>> {
        let dtype = self.stored.dtype;
        let bytes = match self.change {
            Change::Fold(delta) => folded(&self.stored.bytes, dtype, delta),
            Change::Replace(values) => dtype.from_f32(values),
            Change::None => Some(self.stored.bytes.to_vec()),
        };
        let bytes =
            bytes.ok_or_else(|| io::Error::other(format!("`{}` cannot be folded", self.name)))?;
        if dtype.all_finite(&bytes) == Some(true) {
            return Ok(bytes);
        }
        Err(io::Error::other(NotFinite(self.name.clone())))
    }
}

/// Carries the tensor's name through the writer's error.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not finite")]
struct NotFinite(String);

fn not_finite(error: PeftError) -> PeftError {
    let PeftError::Formats(formats::FormatsError::Write { source }) = &error else {
        return error;
    };
    let inner = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<NotFinite>());
    match inner {
        Some(NotFinite(name)) => PeftError::MergeNotFinite { name: name.clone() },
        None => error,
    }
}

/// The config of a merged model: with `tie_word_embeddings: false` where its head came apart.
pub fn merged_config(config: &HfConfig, untied: bool) -> HfConfig {
    if untied {
        model::untied(config)
    } else {
        config.clone()
    }
}

fn copy_files(base_dir: &Path, staged: &mut StagedFolder) -> Result<()> {
    for name in COPIED {
        let from = base_dir.join(name);
        if durable::is_file(&from) {
            staged.copy_in(name, &from)?;
        }
    }
    Ok(())
}
