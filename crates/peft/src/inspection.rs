//! What `inspect` says of a model and of an adapter on it, from configurations alone: no weights are read.

use std::collections::BTreeSet;
use std::path::Path;

use formats::hf_config::HfConfig;
use model::families::{decoder_spec, module_tree};
use model::tree::ModuleTree;
use serde::Serialize;

use crate::LoraConfig;
use crate::config::check_fresh;
use crate::error::Result;
use crate::load::open_config;
use crate::matching::Coverage;
use crate::plan::AdapterPlan;
use crate::report::grouped;

/// A model, looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Every parameter, in torch's order.
    pub parameters: Vec<InspectedParameter>,
    /// The module tree as torch prints it.
    pub tree: String,
    /// What each entry of `target_modules` caught.
    pub coverage: Vec<InspectedTarget>,
    /// `trainable params: …`, or the base's count.
    pub summary: String,
    /// What a user should know.
    pub notices: Vec<String>,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedParameter {
    /// As `named_parameters()` has it.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// It learns.
    pub trained: bool,
}

/// One entry of `target_modules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedTarget {
    /// As written.
    pub entry: String,
    /// Modules that it caught.
    pub modules: usize,
}

/// Looks at a model folder's config, with an adapter folder's config or the one given on it.
///
/// # Errors
/// Configs that are missing, broken, unsupported, or do not fit each other.
pub fn inspect(
    model: &Path,
    adapter: Option<&Path>,
    config: Option<&LoraConfig>,
) -> Result<Inspection> {
    let hf_config = HfConfig::open(model)?;
    let (spec, tree) = (decoder_spec(&hf_config)?, module_tree(&hf_config)?);
    let stored = adapter.map(open_config).transpose()?;
    let Some(config) = stored.as_ref().or(config) else {
        return Ok(Inspection::of_base(&tree));
    };
    if stored.is_none() {
        check_fresh(config)?;
    }
    let mut plan = AdapterPlan::new(config, &spec, &tree)?;
    plan.notices.extend(config.warnings());
    Ok(Inspection::of_adapter(&plan))
}

impl Inspection {
    fn of_base(tree: &ModuleTree) -> Self {
        let named = tree.named_parameters();
        let all = named.iter().map(|(_, parameter)| parameter.count()).sum();
        Self {
            parameters: inspected(tree, &BTreeSet::new()),
            tree: tree.to_string(),
            coverage: Vec::new(),
            summary: format!("all params: {}", grouped(all)),
            notices: Vec::new(),
        }
    }

    fn of_adapter(plan: &AdapterPlan) -> Self {
        let target = |coverage: &Coverage| InspectedTarget {
            entry: coverage.entry.clone(),
            modules: coverage.modules.len(),
        };
        Self {
            parameters: named_parameters(plan),
            tree: plan.tree.to_string(),
            coverage: plan.coverage.iter().map(target).collect(),
            summary: plan.trainable_line(),
            notices: plan.notices.clone(),
        }
    }
}

/// Every parameter of a model with its adapter, as PEFT's `named_parameters()`.
pub fn named_parameters(plan: &AdapterPlan) -> Vec<InspectedParameter> {
    let trained = plan.parameters.iter();
    let trained = trained.map(|parameter| parameter.peft_name.as_str());
    inspected(&plan.tree, &trained.collect())
}

fn inspected(tree: &ModuleTree, trained: &BTreeSet<&str>) -> Vec<InspectedParameter> {
    let named = tree.named_parameters().into_iter();
    named
        .map(|(name, parameter)| InspectedParameter {
            trained: trained.contains(name.as_str()),
            shape: parameter.shape.clone(),
            name,
        })
        .collect()
}
