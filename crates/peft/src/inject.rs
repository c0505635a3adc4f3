//! An adapter into a decoder's slots.

use std::collections::BTreeMap;
use std::path::Path;

use engine::backend::Backend;
use formats::weights::WeightStore;
use model::tree::ModuleTree;
use model::{Decoder, LoraInit};

use crate::LoraConfig;
use crate::config::check_fresh;
use crate::error::Result;
use crate::init::first_values;
use crate::load::{BaseModel, LoadedAdapter, read_adapter};
use crate::plan::{AdapterPlan, LoraTarget, PlannedParameter, Role};

/// Puts a fresh adapter on a model, as PEFT's function of that name. `seed` decides the first values.
///
/// Parameters are added in the order of PEFT's `named_parameters()`, which is the optimizer's.
///
/// # Errors
/// As [`AdapterPlan::new`]; [`crate::PeftError::Model`] for a slot that the decoder does not have.
pub fn get_peft_model<B: Backend>(
    decoder: &mut Decoder<B>,
    tree: &ModuleTree,
    config: &LoraConfig,
    seed: u64,
) -> Result<AdapterPlan> {
    check_fresh(config)?;
    let plan = AdapterPlan::new(config, decoder.spec(), tree)?;
    let first = |target: &LoraTarget| first_values(&plan.config, target, seed);
    fill(decoder, &plan, first, &BTreeMap::new())?;
    Ok(plan)
}

/// Puts an adapter that was read on a model: every value of it is used.
///
/// # Errors
/// [`crate::PeftError::Model`].
pub fn apply_adapter<B: Backend>(decoder: &mut Decoder<B>, adapter: &LoadedAdapter) -> Result<()> {
    let plan = &adapter.plan;
    let values = |target: &LoraTarget| {
        let value = |part: &str| {
            let name = format!("{}.{part}.weight", target.path);
            adapter.values.get(&name).cloned().unwrap_or_default()
        };
        LoraInit {
            rank: target.rank,
            scaling: target.scaling as f32,
            dropout: plan.config.lora_dropout.get() as f32,
            a: value("lora_A"),
            b: value("lora_B"),
        }
    };
    fill(decoder, plan, values, &adapter.values)
}

/// Reads an adapter folder and puts it on a model; `weights` are the base's, where they are at hand.
///
/// # Errors
/// As [`read_adapter`] and [`apply_adapter`]; the decoder is untouched when reading fails.
pub fn load_adapter<B: Backend>(
    decoder: &mut Decoder<B>,
    tree: &ModuleTree,
    folder: &Path,
    weights: Option<&WeightStore>,
) -> Result<AdapterPlan> {
    let base = BaseModel {
        spec: decoder.spec(),
        tree,
        weights,
        any_base: false,
    };
    let adapter = read_adapter(folder, base)?;
    apply_adapter(decoder, &adapter)?;
    Ok(adapter.plan)
}

fn fill<B: Backend>(
    decoder: &mut Decoder<B>,
    plan: &AdapterPlan,
    init: impl Fn(&LoraTarget) -> LoraInit,
    values: &BTreeMap<String, Vec<f32>>,
) -> Result<()> {
    for parameter in &plan.parameters {
        match parameter.role {
            Role::LoraA => {
                if let Some(target) = target_of(plan, parameter) {
                    decoder.add_lora(&target.path, init(target))?;
                }
            }
            // Comes with its A.
            Role::LoraB => {}
            Role::Bias | Role::Saved => {
                decoder.make_trainable(&parameter.name, parameter.tie)?;
                if let Some(values) = values.get(&parameter.name) {
                    decoder.set_values(&parameter.name, values)?;
                }
            }
        }
    }
    Ok(())
}

fn target_of<'a>(plan: &'a AdapterPlan, parameter: &PlannedParameter) -> Option<&'a LoraTarget> {
    let path = parameter.name.strip_suffix(".lora_A.weight")?;
    plan.targets.iter().find(|target| target.path == path)
}
