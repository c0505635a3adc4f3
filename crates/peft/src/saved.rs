//! `modules_to_save`: which modules get a trained copy.
//!
//! PEFT's rule is `endswith` without a dot: `norm` also catches `input_layernorm`. A tied head and embedding come
//! apart when one of them is saved (the other keeps the frozen matrix), unless `ensure_weight_tying` is set.

use formats::adapter_config::OneOrMany;
use model::spec::DecoderSpec;
use model::tree::{Layer, ModuleTree};

use crate::LoraConfig;
use crate::adapted::PREFIX;
use crate::error::{PeftError, Result};
use crate::pattern::Pattern;
use crate::plan::LoraTarget;

/// PEFT's `EMBEDDING_LAYER_NAMES`: the only names that it knows as (tied) embeddings.
pub(crate) const EMBEDDING_LAYER_NAMES: [&str; 2] = ["embed_tokens", "lm_head"];

const KEY: &str = "modules_to_save";

/// The answer.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// Paths of outermost saved modules, in the model's order.
    pub(crate) modules: Vec<String>,
    /// Path of a module whose copy is another's, and the PEFT name (without prefix) of the other's weight.
    pub(crate) tied: Vec<(String, String)>,
    /// Plain names of the shared weight: the source, the other user.
    twin: Option<(String, String)>,
}

impl Saved {
    pub(crate) fn tied_paths(&self) -> impl Iterator<Item = String> + '_ {
        self.tied.iter().map(|(path, _)| path.clone())
    }

    /// The other user of a trained copy.
    pub(crate) fn twin_of(&self, name: &str) -> Option<&str> {
        let (source, other) = self.twin.as_ref()?;
        (source == name).then_some(other.as_str())
    }

    /// No delta may sit inside a saved module: PEFT would copy it along and train the copy.
    pub(crate) fn check_apart(&self, targets: &[LoraTarget]) -> Result<()> {
        for module in self
            .modules
            .iter()
            .chain(self.tied.iter().map(|(path, _)| path))
        {
            let inside = |target: &&LoraTarget| is_within(&target.path, module);
            if let Some(target) = targets.iter().find(inside) {
                let why = format!("which holds the targeted `{}`", target.path);
                return Err(bad(module, why));
            }
        }
        Ok(())
    }
}

/// Finds them, and puts the configuration right for tied embeddings as PEFT does.
pub(crate) fn saved_modules(
    config: &mut LoraConfig,
    spec: &DecoderSpec,
    tree: &ModuleTree,
    notices: &mut Vec<String>,
) -> Result<Saved> {
    let tie = tie_embeddings(config, spec, notices)?;
    let names = config.modules_to_save.clone().unwrap_or_default();
    let modules = matching_ends(&names, tree)?;
    for name in &names {
        if !modules.iter().any(|path| ends(path, name)) {
            notices.push(format!(
                "entry `{name}` of modules_to_save matches no module"
            ));
        }
    }
    let mut saved = Saved {
        modules,
        ..Saved::default()
    };
    if tie {
        let (embedding, head) = (&spec.names.embedding, &spec.names.head);
        saved.modules.retain(|path| path != head);
        let weight = format!("{embedding}.modules_to_save.default.weight");
        saved.tied.push((head.clone(), weight));
        saved.twin = Some((format!("{embedding}.weight"), format!("{head}.weight")));
    }
    Ok(saved)
}

fn matching_ends(names: &[String], tree: &ModuleTree) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for (path, module) in tree.named_modules() {
        if !names.iter().any(|name| ends(&path, name)) {
            continue;
        }
        if path.is_empty() {
            return Err(bad("the whole model", "use named parts of it".into()));
        }
        if module.layer == Layer::List {
            return Err(bad(
                &path,
                "a list of modules that cannot be saved as one".into(),
            ));
        }
        // Parents come first: what is inside one is saved with it.
        if !found.iter().any(|outer| is_within(&path, outer)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// PEFT compares with the wrapped model's name.
fn ends(path: &str, name: &str) -> bool {
    let full = format!("{PREFIX}{path}");
    full.trim_end_matches('.').ends_with(name)
}

fn is_within(path: &str, outer: &str) -> bool {
    let rest = path.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn bad(path: &str, why: String) -> PeftError {
    PeftError::BadSave {
        path: path.to_owned(),
        why,
    }
}

/// `_check_tied_modules` and `_add_modules_to_save_to_tie` of PEFT. True: one trained copy for both.
fn tie_embeddings(
    config: &mut LoraConfig,
    spec: &DecoderSpec,
    notices: &mut Vec<String>,
) -> Result<bool> {
    let known = |name: &String| {
        let last = name.rsplit('.').next().unwrap_or_default();
        EMBEDDING_LAYER_NAMES.contains(&last)
    };
    // A tied run writes the embedding's own path (see below), which PEFT knows only by the names above: read it back
    // as what it was.
    let written = |name: &String| config.ensure_weight_tying && *name == spec.names.embedding;
    let mut saved = config.modules_to_save.iter().flatten();
    let saves = saved.any(|name| known(name) || written(name));
    let targets = targets_embedding(config, &known)?;
    if !config.ensure_weight_tying {
        if spec.tie_word_embeddings && (saves || targets) {
            notices.push(
                "the head is tied to the embedding and one of them is part of the adapter: they come \
                 apart (see ensure_weight_tying)"
                    .into(),
            );
        }
        return Ok(false);
    }
    if !spec.tie_word_embeddings || !(saves || targets) {
        notices.push(
            "ensure_weight_tying has no effect: no tied module is part of the adapter".into(),
        );
        return Ok(false);
    }
    if !saves {
        let found = "tied low-rank deltas on embedding and head".to_owned();
        return Err(PeftError::Unsupported {
            key: "ensure_weight_tying",
            found,
        });
    }
    let mut names = config.modules_to_save.take().unwrap_or_default();
    if !names.contains(&spec.names.embedding) {
        names.push(spec.names.embedding.clone());
    }
    let catches_head = |name: &String| {
        let pattern = Pattern::wrapped(KEY, name, r"\A(?:(?:|.*\.)", r"(?:\z|\.))")?;
        Ok::<_, PeftError>(pattern.is_match(&spec.names.head))
    };
    for index in 0..names.len() {
        if catches_head(&names[index])? {
            names.remove(index);
            break;
        }
    }
    config.modules_to_save = Some(names);
    Ok(true)
}

fn targets_embedding(config: &LoraConfig, known: &impl Fn(&String) -> bool) -> Result<bool> {
    match &config.target_modules {
        Some(OneOrMany::One(text)) => {
            let pattern = Pattern::full("target_modules", text)?;
            Ok(EMBEDDING_LAYER_NAMES
                .iter()
                .any(|name| pattern.is_match(name)))
        }
        Some(OneOrMany::Many(names)) => Ok(names.iter().any(known)),
        None => Ok(false),
    }
}
