//! The run file: one YAML page with everything that a training run is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lowrank::{FIELDS, LoraConfig, Plan, TrainingArguments, nearest_name, unsupported_arguments};
use serde_json::{Map, Value};

use crate::misuse::{Misuse, misused};

/// More than any data set has: with these, only the settings themselves can be wrong.
const MANY_ROWS: usize = 1 << 30;

/// A run, as the run file and the flags together ask for it. A flag wins over the file.
#[derive(Debug, Default)]
pub(crate) struct RunFile {
    /// Base model folder.
    pub(crate) model: Option<PathBuf>,
    /// Adapter to start from.
    pub(crate) adapter: Option<PathBuf>,
    /// Rows to learn.
    pub(crate) dataset: Option<PathBuf>,
    /// Split of a folder with several.
    pub(crate) split: Option<String>,
    /// Rows to evaluate on.
    pub(crate) eval_dataset: Option<PathBuf>,
    /// Split of that.
    pub(crate) eval_split: Option<String>,
    /// Jinja of prompt and response, instead of the Alpaca template.
    pub(crate) template: Option<TemplateText>,
    /// Tokens of a row at most.
    pub(crate) max_length: Option<usize>,
    /// `auto`, `f32`, `bf16`.
    pub(crate) compute_dtype: Option<String>,
    /// `LoraConfig`.
    pub(crate) lora: Map<String, Value>,
    /// `TrainingArguments`.
    pub(crate) train: Map<String, Value>,
}

/// A template of the user's own.
#[derive(Debug, Clone)]
pub(crate) struct TemplateText {
    /// Jinja over the row's columns.
    pub(crate) prompt: String,
    /// The same; the end-of-text token is added behind it.
    pub(crate) response: String,
}

const KEYS: [&str; 11] = [
    "model",
    "adapter",
    "dataset",
    "split",
    "eval_dataset",
    "eval_split",
    "template",
    "max_length",
    "compute_dtype",
    "lora",
    "train",
];

impl RunFile {
    /// Reads `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let text = lowrank::read_text(path)?;
        let name = || format!("in the run file `{}`", path.display());
        let page = serde_saphyr::from_str(&text).map_err(|error| not_read(&error));
        let map = match page.with_context(name)? {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            _ => return Err(Misuse("it must hold `key: value` lines".into())).with_context(name),
        };
        Self::from_map(map).with_context(name)
    }

    fn from_map(mut map: Map<String, Value>) -> Result<Self> {
        if let Some(unknown) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            bail!(unknown_key(unknown));
        }
        Ok(Self {
            model: text(&mut map, "model")?.map(PathBuf::from),
            adapter: text(&mut map, "adapter")?.map(PathBuf::from),
            dataset: text(&mut map, "dataset")?.map(PathBuf::from),
            split: text(&mut map, "split")?,
            eval_dataset: text(&mut map, "eval_dataset")?.map(PathBuf::from),
            eval_split: text(&mut map, "eval_split")?,
            template: section(&mut map, "template")?.map(template).transpose()?,
            max_length: whole(&mut map, "max_length")?,
            compute_dtype: text(&mut map, "compute_dtype")?,
            lora: section(&mut map, "lora")?.unwrap_or_default(),
            train: section(&mut map, "train")?.unwrap_or_default(),
        })
    }

    /// `LoraConfig` with PEFT's defaults where nothing was said.
    pub(crate) fn lora_config(&self) -> Result<LoraConfig> {
        let mut map = self.lora.clone();
        map.entry("peft_type").or_insert_with(|| "LORA".into());
        map.entry("task_type").or_insert_with(|| "CAUSAL_LM".into());
        let config =
            LoraConfig::parse(&serde_json::to_vec(&map)?, Path::new("lora")).map_err(misused)?;
        if let Some(unknown) = config.extra.keys().next() {
            let near = nearest_name(unknown, crate::flags::lora_names());
            let near = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
            bail!(Misuse(format!("LoraConfig has no `{unknown}`{near}")));
        }
        Ok(config)
    }

    /// Refuses values of `LoraConfig` that are not those of the adapter, which brings its own.
    pub(crate) fn refuse_other_config(&self, adapter: &Path) -> Result<()> {
        if self.lora.is_empty() {
            return Ok(());
        }
        // What is wrong with the folder is told when it is loaded.
        let Ok(own) = LoraConfig::open(adapter) else {
            return Ok(());
        };
        let fields = |config: &LoraConfig| -> BTreeMap<_, _> {
            let fields = lowrank::comparable_fields(&config.to_json());
            fields.unwrap_or_default().into_iter().collect()
        };
        let (asked, own) = (fields(&self.lora_config()?), fields(&own));
        let other = self
            .lora
            .keys()
            .filter(|name| asked.get(*name) != own.get(*name));
        let there = |name: &String| own.get(name).map_or("null", String::as_str);
        let other: Vec<String> = other
            .map(|name| format!("{name} (there {})", there(name)))
            .collect();
        if other.is_empty() {
            return Ok(());
        }
        bail!(Misuse(format!(
            "the adapter brings its own LoraConfig with other values, leave out {}",
            other.join(", ")
        )))
    }

    /// `TrainingArguments` with the Trainer's defaults where nothing was said.
    /// What no number of rows could make right is misuse, and told before anything is loaded.
    pub(crate) fn training_arguments(&self) -> Result<TrainingArguments> {
        let arguments = TrainingArguments::from_map(&self.train).map_err(misused)?;
        let eval_rows = self.eval_dataset.as_ref().map(|_| MANY_ROWS);
        Plan::new(&arguments, MANY_ROWS, eval_rows).map_err(misused)?;
        Ok(arguments)
    }
}

/// What is wrong with a page of YAML, without the library's advice to its programmers.
fn not_read(error: &serde_saphyr::Error) -> Misuse {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey {
            key: Some(key),
            location,
        } => Misuse(format!(
            "line {}: the key `{key}` is there twice",
            location.line()
        )),
        other => Misuse(format!("not YAML that is read here: {other}")),
    }
}

/// A key that the top of a run file does not have; it may belong into a section.
fn unknown_key(name: &str) -> Misuse {
    let of_train = FIELDS
        .iter()
        .flat_map(|field| field.old_names().chain([field.name]));
    let section = if of_train
        .chain(unsupported_arguments())
        .any(|known| known == name)
    {
        Some("train")
    } else {
        crate::flags::lora_names()
            .any(|known| known == name)
            .then_some("lora")
    };
    let hint = match (section, nearest_name(name, KEYS)) {
        (Some(section), _) => format!(", it belongs under `{section}:`"),
        (None, Some(near)) => format!(", did you mean `{near}`?"),
        (None, None) => String::new(),
    };
    Misuse(format!("unknown key `{name}`{hint}"))
}

fn text(map: &mut Map<String, Value>, key: &str) -> Result<Option<String>> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => bail!(Misuse(format!("`{key}` must be text: {other}"))),
    }
}

fn whole(map: &mut Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) if number > 0 => Ok(Some(usize::try_from(number)?)),
            _ => bail!(Misuse(format!(
                "`{key}` must be a whole number above 0: {value}"
            ))),
        },
    }
}

fn section(map: &mut Map<String, Value>, key: &str) -> Result<Option<Map<String, Value>>> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(section)) => Ok(Some(section)),
        Some(other) => bail!(Misuse(format!(
            "`{key}` must be a section of keys: {other}"
        ))),
    }
}

fn template(mut section: Map<String, Value>) -> Result<TemplateText> {
    let mut part = |key: &str| match text(&mut section, key)? {
        Some(text) => Ok(text),
        None => bail!(Misuse(format!("`template` needs `{key}`"))),
    };
    let template = TemplateText {
        prompt: part("prompt")?,
        response: part("response")?,
    };
    match section.keys().next() {
        None => Ok(template),
        Some(unknown) => bail!(Misuse(format!(
            "`template` has no `{unknown}`, only `prompt` and `response`"
        ))),
    }
}
