//! Everything that can go wrong with an adapter.

use std::path::PathBuf;

use model::ModelError;
use model::families::ConfigError;

/// This crate's result.
pub type Result<T, E = PeftError> = std::result::Result<T, E>;

/// Every way in which this crate fails.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the text of each variant says what its fields are"
)]
pub enum PeftError {
    #[error("pattern `{pattern}` of `{key}` cannot be used, {why}")]
    Pattern {
        key: &'static str,
        pattern: String,
        why: String,
    },
    #[error("no module of `{model_type}` matches target_modules: {asked:?}")]
    NoTarget {
        model_type: String,
        asked: Vec<String>,
        near: Vec<String>,
        looks_like_pattern: bool,
        layers: Option<String>,
    },
    #[error("every module that target_modules name is excluded: {asked:?}")]
    AllExcluded { asked: Vec<String> },
    #[error("family `{model_type}` has no default target_modules")]
    NoDefault { model_type: String },
    #[error("module `{path}` cannot carry a low-rank delta: it is a {class}")]
    NotLinear { path: String, class: String },
    #[error("`{key}` is not supported here: {found}")]
    Unsupported { key: &'static str, found: String },
    #[error("`init_lora_weights` is `{name}`, whose first values are not drawn here")]
    NotDrawn { name: String },
    #[error("`{key}` has more than {limit} entries: {count}")]
    TooMany {
        key: &'static str,
        count: usize,
        limit: usize,
    },
    #[error("`modules_to_save` names `{path}`, {why}")]
    BadSave { path: String, why: String },
    #[error("no adapter_config.json in `{}`", .folder.display())]
    NoAdapter {
        folder: PathBuf,
        inside: Vec<PathBuf>,
    },
    #[error("adapter `{}` does not fit `{model_type}`: {}", .path.display(), summary(.missing, .unexpected, .misshapen))]
    Mismatch {
        path: PathBuf,
        model_type: String,
        missing: Vec<String>,
        unexpected: Vec<String>,
        misshapen: Vec<Misshapen>,
    },
    #[error("tensor `{name}` of `{}` holds values that are not finite: {count}", .path.display())]
    NotFinite {
        path: PathBuf,
        name: String,
        count: usize,
    },
    #[error("tensor `{name}` of `{}` has a type that no adapter has: {dtype}", .path.display())]
    TensorType {
        path: PathBuf,
        name: String,
        dtype: String,
    },
    #[error("tensors `{first}` and `{second}` of `{}` name the same parameter", .path.display())]
    Twice {
        path: PathBuf,
        first: String,
        second: String,
    },
    #[error("adapter `{}` was trained on another base: {why}", .path.display())]
    OtherBase { path: PathBuf, why: String },
    #[error("merged values of `{name}` are not finite; nothing was written")]
    MergeNotFinite { name: String },
    #[error("base has no tensor `{name}`, which the adapter changes")]
    NoBaseTensor { name: String },
    #[error("tensor `{name}` cannot be merged, its type is {dtype}")]
    MergeType { name: String, dtype: String },
    #[error(
        "the merged model is not the adapter's: logits differ by {difference:e} of the largest, the bound is {bound:e}"
    )]
    MergeDiffers { difference: f32, bound: f32 },
    #[error("no prompt to prove a merge with")]
    NoPrompts,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Formats(#[from] formats::FormatsError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Engine(#[from] engine::backend::EngineError),
    #[error(transparent)]
    Durable(#[from] durable::DurableError),
}

/// A tensor whose shape is not the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// As the file names it.
    pub name: String,
    /// In the file.
    pub found: Vec<usize>,
    /// Of the model.
    pub want: Vec<usize>,
}

/// Most names of one kind that a message lists.
const LISTED: usize = 6;

fn summary(missing: &[String], unexpected: &[String], misshapen: &[Misshapen]) -> String {
    let shapes: Vec<String> = misshapen
        .iter()
        .map(|tensor| {
            format!(
                "`{}` is {:?} not {:?}",
                tensor.name, tensor.found, tensor.want
            )
        })
        .collect();
    let quoted = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect();
    let parts = [
        ("missing", quoted(missing)),
        ("unexpected", quoted(unexpected)),
        ("of another shape", shapes),
    ];
    let parts = parts.iter().filter(|(_, names)| !names.is_empty());
    let texts: Vec<String> = parts.map(|(kind, names)| listed(kind, names)).collect();
    texts.join("; ")
}

fn listed(kind: &str, names: &[String]) -> String {
    let shown = names
        .iter()
        .take(LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let rest = names.len().saturating_sub(LISTED);
    let more = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    format!("{} {kind}: {shown}{more}", names.len())
}

impl PeftError {
    /// How to mend it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Pattern { .. } => Some("write the alternatives out, as `.*(q|v)_proj`".into()),
            Self::NoTarget { .. } => Some(self.target_hint()),
            Self::AllExcluded { .. } => {
                Some("relax exclude_modules or take modules out of modules_to_save".into())
            }
            Self::NoDefault { .. } => Some("name target_modules, or use \"all-linear\"".into()),
            Self::NotLinear { .. } => {
                Some("target the linear layers inside it, or put it in modules_to_save".into())
            }
            Self::BadSave { .. } => Some("name single modules, as lm_head or ln_f".into()),
            Self::NoAdapter { inside, .. } if inside.is_empty() => {
                Some("give the folder that PEFT or a run saved an adapter to".into())
            }
            Self::NoAdapter { inside, .. } => {
                let paths = inside.iter().map(|path| format!("`{}`", path.display()));
                let paths: Vec<String> = paths.collect();
                Some(format!("give one of the adapters in it: {}", paths.join(", ")))
            }
            Self::Mismatch { .. } | Self::OtherBase { .. } => {
                Some("load the adapter on the base it was trained on".into())
            }
            Self::NotFinite { .. } | Self::MergeNotFinite { .. } => {
                Some("the training that made it diverged; take an earlier checkpoint".into())
            }
            Self::MergeDiffers { .. } => {
                Some("remove the merged folder and merge again; where it differs again and the base is stored in 16 bits, merge into an f32 copy of it".into())
            }
            Self::Unsupported { .. } => {
                Some("leave it out for a fresh adapter; one that was trained with it runs in PEFT only".into())
            }
            Self::NotDrawn { .. } => Some(
                "use true, false or gaussian; an adapter that PEFT started so can be gone on with".into(),
            ),
            Self::NoPrompts => Some("give one prompt or more".into()),
            Self::Config(error) => error.hint(),
            Self::Formats(error) => error.hint(),
            Self::Durable(error) => error.hint(),
            Self::Model(error) => error.hint(),
            _ => None,
        }
    }

    fn target_hint(&self) -> String {
        let Self::NoTarget {
            near,
            looks_like_pattern,
            layers,
            asked,
            ..
        } = self
        else {
            return String::new();
        };
        let mut parts = Vec::new();
        if *looks_like_pattern && asked.len() == 1 {
            parts.push(format!(
                "entries of a list are plain names; give the pattern as a single string: {:?}",
                asked[0]
            ));
        } else if *looks_like_pattern {
            parts.push("entries of a list are plain names; give a pattern as one string".into());
        }
        if let Some(layers) = layers {
            parts.push(format!("only these layers were looked at: {layers}"));
        }
        let named = near.iter().find(|name| asked.as_slice() == [name.as_str()]);
        let all_named = asked.iter().all(|name| near.contains(name));
        match (named, layers) {
            (_, Some(_)) if all_named => {}
            (Some(name), None) => parts.push(format!(
                "a single string is a pattern for whole paths: give [{name:?}], or {:?}",
                format!(".*{name}")
            )),
            (_, _) if near.is_empty() => {}
            (_, _) => parts.push(format!("did you mean {}?", near.join(", "))),
        }
        if parts.is_empty() {
            parts.push("`inspect --names` lists the modules".into());
        }
        parts.join("; ")
    }
}
