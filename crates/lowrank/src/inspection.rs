//! What a model and an adapter on it are, from configurations alone.

use std::path::Path;

use formats::hf_config::HfConfig;
use model::families;
use model::tree::ModuleTree;
use peft::report::grouped;
use peft::{AdapterPlan, LoraConfig};
use serde::Serialize;

use crate::error::Result;

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
    let (spec, tree) = (
        families::decoder_spec(&hf_config)?,
        families::module_tree(&hf_config)?,
    );
    let stored = adapter.map(LoraConfig::open).transpose()?;
    let Some(config) = stored.as_ref().or(config) else {
        return Ok(of_base(&tree));
    };
    Ok(of_adapter(&AdapterPlan::new(config, &spec, &tree)?))
}

fn of_base(tree: &ModuleTree) -> Inspection {
    let named = tree.named_parameters();
    let all = named.iter().map(|(_, parameter)| parameter.count()).sum();
    Inspection {
        parameters: parameters(tree, |_| false),
        tree: tree.to_string(),
        coverage: Vec::new(),
        summary: format!("all params: {}", grouped(all)),
        notices: Vec::new(),
    }
}

fn of_adapter(plan: &AdapterPlan) -> Inspection {
    let trained = |name: &str| {
        plan.parameters
            .iter()
            .any(|parameter| parameter.peft_name == name)
    };
    let target = |entry: &peft::matching::Coverage| InspectedTarget {
        entry: entry.entry.clone(),
        modules: entry.modules.len(),
    };
    Inspection {
        parameters: parameters(&plan.tree, trained),
        tree: plan.tree.to_string(),
        coverage: plan.coverage.iter().map(target).collect(),
        summary: plan.trainable_line(),
        notices: plan.notices.clone(),
    }
}

fn parameters(tree: &ModuleTree, trained: impl Fn(&str) -> bool) -> Vec<InspectedParameter> {
    let one = |(name, parameter): (String, &model::tree::ParameterShape)| InspectedParameter {
        trained: trained(&name),
        shape: parameter.shape.clone(),
        name,
    };
    tree.named_parameters().into_iter().map(one).collect()
}
