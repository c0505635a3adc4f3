//! Adapter folders as PEFT's `save_pretrained` writes them.

use std::collections::BTreeMap;
use std::path::Path;

use durable::{Disk, StagedFolder};
use engine::backend::Backend;
use formats::adapter_config::{FILE_NAME, OneOrMany};
use formats::safetensors::{TensorToWrite, write};
use formats::weights::WeightStore;
use formats::{Dtype, adapter_config};
use model::Decoder;

use crate::LoraConfig;
use crate::adapted::PREFIX;
use crate::base::origin;
use crate::card::{CARD_NAME, may_replace_card, model_card};
use crate::error::{PeftError, Result};
use crate::pattern::Pattern;
use crate::plan::AdapterPlan;
use crate::saved::EMBEDDING_LAYER_NAMES;
use crate::scaling::Scalings;

/// The weights' file.
pub const WEIGHTS_NAME: &str = "adapter_model.safetensors";

/// Saves a decoder's adapter into a folder: a new one appears whole, in an existing one each file is replaced in
/// one step and others stay; so does a `README.md` that somebody else wrote or changed.
///
/// # Errors
/// As [`stage_adapter`].
pub fn save_adapter<B: Backend>(
    decoder: &Decoder<B>,
    plan: &AdapterPlan,
    base: Option<&WeightStore>,
    folder: &Path,
) -> Result<()> {
    let mut staged = StagedFolder::beside(folder)?;
    stage_files(decoder, plan, base, &mut staged)?;
    if may_replace_card(&Disk::real(), folder) {
        stage_card(plan, &mut staged)?;
    }
    staged.publish_over()?;
    Ok(())
}

/// Writes `adapter_model.safetensors`, `adapter_config.json` and `README.md` into a folder in the making.
///
/// `base` is needed only where the head itself is targeted: PEFT then saves the base's matrix too.
///
/// # Errors
/// [`PeftError::NoBaseTensor`] for such an adapter without its base; [`PeftError::Model`] when `plan` is not the
/// decoder's; those of writing.
pub fn stage_adapter<B: Backend>(
    decoder: &Decoder<B>,
    plan: &AdapterPlan,
    base: Option<&WeightStore>,
    staged: &mut StagedFolder,
) -> Result<()> {
    stage_files(decoder, plan, base, staged)?;
    stage_card(plan, staged)
}

fn stage_card(plan: &AdapterPlan, staged: &mut StagedFolder) -> Result<()> {
    Ok(staged.write(CARD_NAME, model_card(plan).as_bytes())?)
}

/// Every planned value, by the decoder's name.
///
/// # Errors
/// [`PeftError::Model`] when the decoder lacks one.
pub fn trained_values<B: Backend>(
    decoder: &Decoder<B>,
    plan: &AdapterPlan,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let value = |name: &str| {
        let mut trainable = decoder.trainable().iter();
        let found = trainable.find(|parameter| parameter.name == name);
        let missing = || model::ModelError::NoParameter {
            name: name.to_owned(),
        };
        let parameter = found.ok_or_else(missing)?;
        Ok((
            name.to_owned(),
            decoder.backend().download(&parameter.value)?,
        ))
    };
    plan.parameters
        .iter()
        .map(|parameter| value(&parameter.name))
        .collect()
}

/// What PEFT reads.
fn stage_files<B: Backend>(
    decoder: &Decoder<B>,
    plan: &AdapterPlan,
    base: Option<&WeightStore>,
    staged: &mut StagedFolder,
) -> Result<()> {
    let values = trained_values(decoder, plan)?;
    let head = head_copy(decoder, plan, base)?;
    let mut tensors = Vec::new();
    for parameter in &plan.parameters {
        let values = values.get(&parameter.name).map_or(&[][..], Vec::as_slice);
        let bytes: &[u8] = bytemuck::cast_slice(values);
        for name in &parameter.on_disk {
            tensors.push(TensorToWrite::bytes(
                name,
                Dtype::F32,
                &parameter.shape,
                bytes,
            ));
        }
    }
    if let Some(copy) = &head {
        tensors.push(TensorToWrite::bytes(
            &copy.name,
            copy.dtype,
            &copy.shape,
            &copy.bytes,
        ));
    }
    let mut file = staged.create(WEIGHTS_NAME)?;
    write(&mut file, tensors, &[("format", "pt")])?;
    file.finish()?;
    let mut config = plan.config.clone();
    config.inference_mode = true;
    config.peft_version = Some(adapter_config::PEFT_VERSION.into());
    staged.write(FILE_NAME, config_text(&config, plan)?.as_bytes())?;
    Ok(())
}

/// A plan's configuration as its file has it: patterns in their own order only where that counts.
///
/// # Errors
/// [`PeftError::Pattern`], which a plan's own have not.
pub fn planned_config(plan: &AdapterPlan) -> Result<String> {
    config_text(&plan.config, plan)
}

fn config_text(config: &LoraConfig, plan: &AdapterPlan) -> Result<String> {
    Ok(if order_counts(plan)? {
        config.to_json_in_order()
    } else {
        config.to_json()
    })
}

/// PEFT sorts the keys of what it writes, patterns too, and takes the first one that matches of what it reads: where several
/// match, its file may be of another adapter than was trained.
fn order_counts(plan: &AdapterPlan) -> Result<bool> {
    let mut sorted = plan.config.clone();
    sorted.rank_pattern.sort_unstable_keys();
    sorted.alpha_pattern.sort_unstable_keys();
    let scalings = Scalings::new(&sorted)?;
    let mut targets = plan.targets.iter();
    Ok(targets.any(|target| scalings.of(&target.path) != (target.rank, target.scaling)))
}

/// `save_embedding_layers="auto"`: with the head targeted, its frozen matrix is saved beside the delta.
fn head_copy<B: Backend>(
    decoder: &Decoder<B>,
    plan: &AdapterPlan,
    base: Option<&WeightStore>,
) -> Result<Option<formats::weights::StoredTensor>> {
    let spec = decoder.spec();
    let head = &spec.names.head;
    let targeted = plan.targets.iter().any(|target| target.path == *head);
    if !targeted || !names_embedding(plan)? {
        return Ok(None);
    }
    let name = format!("{head}.weight");
    let missing = || PeftError::NoBaseTensor { name: name.clone() };
    let stored = base
        .and_then(|base| origin(base, spec, &name))
        .ok_or_else(missing)?;
    let name = format!("{PREFIX}{head}.base_layer.weight");
    Ok(Some(formats::weights::StoredTensor { name, ..stored }))
}

fn names_embedding(plan: &AdapterPlan) -> Result<bool> {
    match &plan.config.target_modules {
        Some(OneOrMany::One(text)) => {
            let pattern = Pattern::full("target_modules", text)?;
            let ends = |path: &str| {
                let last = path.rsplit('.').next().unwrap_or_default();
                EMBEDDING_LAYER_NAMES.contains(&last)
            };
            Ok(plan
                .targets
                .iter()
                .any(|t| ends(&t.path) && pattern.is_match(&t.path)))
        }
        Some(OneOrMany::Many(names)) => Ok(names
            .iter()
            .any(|name| EMBEDDING_LAYER_NAMES.contains(&name.as_str()))),
        None => Ok(false),
    }
}
