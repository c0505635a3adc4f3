//! What an adapter is on a given model: every trained value, under each of its names.
//!
//! A plan is made from a configuration and a module tree alone. Reports, injection, saving, loading and merging
//! all read it, so they cannot disagree about a name or a shape.

use formats::adapter_config::Bias;
use model::spec::DecoderSpec;
use model::tree::{Layer, ModuleTree};

use crate::LoraConfig;
use crate::adapted::{Changes, PREFIX, adapted_tree};
use crate::config::check_supported;
use crate::defaults::default_targets;
use crate::error::{PeftError, Result};
use crate::matching::{Coverage, match_modules, resolve_targets};
use crate::saved::{Saved, saved_modules};
use crate::scaling::Scalings;

/// A projection that gets a low-rank delta.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraTarget {
    /// Path in the plain model.
    pub path: String,
    /// D.
    pub in_features: usize,
    /// O.
    pub out_features: usize,
    /// The base weight lies `[D, O]` (GPT-2's `Conv1D`).
    pub fan_in_fan_out: bool,
    /// R.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scaling: f64,
}

/// Why a value is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A of a low-rank delta, `[R, D]`.
    LoraA,
    /// B of a low-rank delta, `[O, R]`.
    LoraB,
    /// A bias, by `bias`.
    Bias,
    /// Part of a module of `modules_to_save`.
    Saved,
}

/// One trained value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedParameter {
    /// As PEFT's `named_parameters()` has it, with the adapter's name inside.
    pub peft_name: String,
    /// As the decoder has it: the plain model's name, or `<module>.lora_A.weight`.
    pub name: String,
    /// As `adapter_model.safetensors` has it; several where tied modules are both written.
    pub on_disk: Vec<String>,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Why it is trained.
    pub role: Role,
    /// A tied twin reads the trained copy too.
    pub tie: bool,
}

impl PlannedParameter {
    /// Number of elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An adapter on a model.
#[derive(Debug, Clone)]
pub struct AdapterPlan {
    /// The configuration with its targets resolved, as it is saved.
    pub config: LoraConfig,
    /// The model's family.
    pub model_type: String,
    /// Deltas, in the model's order.
    pub targets: Vec<LoraTarget>,
    /// Trained values, in the order of PEFT's `named_parameters()`.
    pub parameters: Vec<PlannedParameter>,
    /// Modules with a trained copy, in the model's order.
    pub saved_modules: Vec<String>,
    /// What each entry of `target_modules` caught.
    pub coverage: Vec<Coverage>,
    /// Warnings, for the user's eyes.
    pub notices: Vec<String>,
    /// The tree with the adapter in place.
    pub tree: ModuleTree,
}

impl AdapterPlan {
    /// Resolves a configuration on a model.
    ///
    /// # Errors
    /// [`PeftError::Unsupported`] for what only PEFT can do, the errors of [`match_modules`],
    /// [`PeftError::NotLinear`], [`PeftError::BadSave`].
    pub fn new(config: &LoraConfig, spec: &DecoderSpec, tree: &ModuleTree) -> Result<Self> {
        check_supported(config)?;
        let mut config = config.clone();
        let mut notices = resolve(&mut config, spec, tree);
        let saved = saved_modules(&mut config, spec, tree, &mut notices)?;
        let matches = match_modules(&config, tree, &spec.model_type)?;
        notices.extend(matches.notices);
        let scalings = Scalings::new(&config)?;
        let targets = matches
            .targeted
            .iter()
            .map(|path| target(path, tree, &scalings));
        let targets: Vec<LoraTarget> = targets.collect::<Result<_>>()?;
        notices.extend(scalings.unused(&targets));
        notices.extend(wide_ranks(&targets));
        saved.check_apart(&targets)?;
        notices.extend(flip_fan_in_fan_out(&mut config, &targets));
        let changes = Changes {
            targets: &targets,
            dropout: config.lora_dropout.get(),
            saved: &saved.modules,
            tied: &saved.tied,
        };
        let adapted = adapted_tree(tree, &changes);
        Ok(Self {
            parameters: parameters(&config, &adapted, &saved),
            model_type: spec.model_type.clone(),
            saved_modules: saved
                .modules
                .iter()
                .cloned()
                .chain(saved.tied_paths())
                .collect(),
            coverage: matches.coverage,
            tree: adapted,
            config,
            targets,
            notices,
        })
    }

    /// The line of PEFT's `print_trainable_parameters()`.
    pub fn trainable_line(&self) -> String {
        crate::report::trainable_line(self)
    }

    /// The trained value of a decoder's name.
    pub fn parameter(&self, name: &str) -> Option<&PlannedParameter> {
        self.parameters
            .iter()
            .find(|parameter| parameter.name == name)
    }
}

fn resolve(config: &mut LoraConfig, spec: &DecoderSpec, tree: &ModuleTree) -> Vec<String> {
    let mut notices = Vec::new();
    let targets = config.target_modules.take().unwrap_or_else(|| {
        let (targets, ours) = default_targets(&spec.model_type);
        if ours {
            let family = &spec.model_type;
            notices.push(format!(
                "PEFT has no default targets for `{family}`: all linear layers"
            ));
        }
        targets
    });
    config.target_modules = Some(resolve_targets(&targets, tree, &spec.names.head));
    notices
}

fn target(path: &str, tree: &ModuleTree, scalings: &Scalings<'_>) -> Result<LoraTarget> {
    let module = tree.find(path);
    let layer = module.map_or(Layer::Other, |module| module.layer);
    if let Layer::Embedding { .. } = layer {
        let found = format!("a low-rank delta on the embedding `{path}`");
        return Err(PeftError::Unsupported {
            key: "target_modules",
            found,
        });
    }
    let Some((in_features, out_features)) = layer.projection() else {
        let class = module.map_or_else(String::new, |module| module.class.clone());
        return Err(PeftError::NotLinear {
            path: path.to_owned(),
            class,
        });
    };
    let (rank, scaling) = scalings.of(path);
    Ok(LoraTarget {
        path: path.to_owned(),
        in_features,
        out_features,
        fan_in_fan_out: matches!(layer, Layer::Conv1d { .. }),
        rank,
        scaling,
    })
}

fn wide_ranks(targets: &[LoraTarget]) -> Option<String> {
    let wide = targets
        .iter()
        .find(|t| t.rank > t.in_features.min(t.out_features))?;
    let side = wide.in_features.min(wide.out_features);
    Some(format!(
        "rank {} is above the smaller side of `{}`, {side}: the extra rank adds nothing",
        wide.rank, wide.path
    ))
}

/// PEFT sets the key by the layer's class, with a warning where the file says otherwise.
fn flip_fan_in_fan_out(config: &mut LoraConfig, targets: &[LoraTarget]) -> Option<String> {
    let last = targets.last()?;
    if last.fan_in_fan_out == config.fan_in_fan_out {
        return None;
    }
    config.fan_in_fan_out = last.fan_in_fan_out;
    let class = if last.fan_in_fan_out {
        "Conv1D"
    } else {
        "Linear"
    };
    let value = last.fan_in_fan_out;
    Some(format!(
        "fan_in_fan_out is set to {value}: the targeted layers are {class}"
    ))
}

fn parameters(config: &LoraConfig, adapted: &ModuleTree, saved: &Saved) -> Vec<PlannedParameter> {
    let named = adapted.named_parameters().into_iter();
    let planned = named.filter_map(|(peft_name, parameter)| {
        let role = role(&peft_name, config.bias)?;
        let name = plain_name(&peft_name);
        let mut on_disk = vec![disk_name(&peft_name)];
        let tie = saved.twin_of(&name);
        on_disk.extend(tie.map(|twin| format!("{PREFIX}{twin}")));
        Some(PlannedParameter {
            peft_name,
            name,
            on_disk,
            shape: parameter.shape.clone(),
            role,
            tie: tie.is_some(),
        })
    });
    planned.collect()
}

fn role(peft_name: &str, bias: Bias) -> Option<Role> {
    if peft_name.contains(".lora_A.default.") {
        return Some(Role::LoraA);
    }
    if peft_name.contains(".lora_B.default.") {
        return Some(Role::LoraB);
    }
    if peft_name.contains(".modules_to_save.default.") {
        return Some(Role::Saved);
    }
    // The wrapped original stays frozen even under `bias: all`.
    let frozen = peft_name.contains(".original_module.") || !peft_name.ends_with(".bias");
    let trained = match bias {
        Bias::None => false,
        Bias::All => true,
        Bias::LoraOnly => peft_name.ends_with(".base_layer.bias"),
    };
    (trained && !frozen).then_some(Role::Bias)
}

fn disk_name(peft_name: &str) -> String {
    peft_name
        .replacen(".modules_to_save.default.", ".", 1)
        .replacen(".lora_A.default.", ".lora_A.", 1)
        .replacen(".lora_B.default.", ".lora_B.", 1)
}

fn plain_name(peft_name: &str) -> String {
    let disk = disk_name(peft_name).replacen(".base_layer.", ".", 1);
    disk.strip_prefix(PREFIX).unwrap_or(&disk).to_owned()
}
