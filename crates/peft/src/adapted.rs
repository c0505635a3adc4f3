//! The module tree with an adapter in place, as PEFT builds and prints it.

use model::tree::layers::{dropout, linear};
use model::tree::{Layer, Module, ModuleTree};

use crate::plan::LoraTarget;

/// Everything that stands before a plain model's names in PEFT.
pub(crate) const PREFIX: &str = "base_model.model.";

/// What is changed in the plain tree.
pub(crate) struct Changes<'a> {
    pub(crate) targets: &'a [LoraTarget],
    pub(crate) dropout: f64,
    /// Modules that get a trained copy.
    pub(crate) saved: &'a [String],
    /// Modules whose trained copy is another one's: the path, and the full name of the other's weight.
    pub(crate) tied: &'a [(String, String)],
}

/// Wraps targets and saved modules, and the whole in `PeftModelForCausalLM`.
pub(crate) fn adapted_tree(base: &ModuleTree, changes: &Changes<'_>) -> ModuleTree {
    let mut tree = base.clone();
    for target in changes.targets {
        replace(&mut tree, &target.path, |plain| {
            lora_linear(plain, target, changes.dropout)
        });
    }
    for path in changes.saved {
        replace(&mut tree, path, |plain| saved_module(plain, None));
    }
    for (path, weight) in changes.tied {
        let other = format!("{PREFIX}{weight}");
        replace(&mut tree, path, |plain| saved_module(plain, Some(&other)));
    }
    add_prefix(&mut tree.root);
    let lora = Module::new("LoraModel").with("model", tree.root);
    ModuleTree {
        root: Module::new("PeftModelForCausalLM").with("base_model", lora),
    }
}

fn replace(tree: &mut ModuleTree, path: &str, wrap: impl FnOnce(Module) -> Module) {
    if let Some(slot) = tree.find_mut(path) {
        let plain = std::mem::replace(slot, Module::new(""));
        *slot = wrap(plain);
    }
}

fn lora_linear(plain: Module, target: &LoraTarget, probability: f64) -> Module {
    let on_input = if probability > 0.0 {
        dropout(probability)
    } else {
        Module::new("Identity")
    };
    let factor = |from, to| Module::new("ModuleDict").with("default", linear(from, to, false));
    Module::new("lora.Linear")
        .with("base_layer", plain)
        .with(
            "lora_dropout",
            Module::new("ModuleDict").with("default", on_input),
        )
        .with("lora_A", factor(target.in_features, target.rank))
        .with("lora_B", factor(target.rank, target.out_features))
        .with("lora_embedding_A", Module::new("ParameterDict"))
        .with("lora_embedding_B", Module::new("ParameterDict"))
        .with("lora_magnitude_vector", Module::new("ModuleDict"))
}

fn saved_module(plain: Module, tied_to: Option<&str>) -> Module {
    let mut copy = plain.clone();
    set_ties(&mut copy, tied_to);
    if let (
        Some(_),
        Layer::Linear {
            in_features,
            out_features,
        },
    ) = (tied_to, copy.layer)
    {
        // PEFT 0.21 makes the tied head as `Linear(*weight.shape)` and so prints its sides swapped.
        copy.extra = linear(out_features, in_features, false).extra;
    }
    Module::new("ModulesToSaveWrapper")
        .with("original_module", plain)
        .with(
            "modules_to_save",
            Module::new("ModuleDict").with("default", copy),
        )
}

/// A copy has memory of its own, or another copy's.
fn set_ties(module: &mut Module, tied_to: Option<&str>) {
    for parameter in &mut module.parameters {
        parameter.tied_to = tied_to.map(str::to_owned);
    }
    for (_, child) in &mut module.children {
        set_ties(child, tied_to);
    }
}

fn add_prefix(module: &mut Module) {
    for parameter in &mut module.parameters {
        if let Some(other) = parameter
            .tied_to
            .as_mut()
            .filter(|other| !other.starts_with(PREFIX))
        {
            other.insert_str(0, PREFIX);
        }
    }
    for (_, child) in &mut module.children {
        add_prefix(child);
    }
}
