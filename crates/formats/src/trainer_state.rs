//! `trainer_state.json`: the Trainer's log and counters, exactly as transformers 5.23 writes them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::error::FormatsError;
use crate::fields::{Fields, bad_key, string};
use crate::pyjson::{
    Budget, Json, JsonFault, JsonFaultKind, MAX_DEPTH, Number, Scanner, Style, parse, to_string,
    value,
};

/// The file's name.
pub const FILE_NAME: &str = "trainer_state.json";
/// Largest file read.
const MAX_BYTES: u64 = 256 << 20;
/// Most fields of an entry, each of which is looked for among the others.
const MAX_FIELDS: usize = 1_024;

/// One entry of the log: `loss`, `grad_norm`, `learning_rate`, `epoch`, `step`, or `eval_loss`, …
///
/// The entries of a log share their keys, so that a long log takes about as much memory as its file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogEntry {
    fields: Vec<(Arc<str>, Json)>,
}

impl LogEntry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, value: impl Into<Json>) {
        let (key, value) = (key.into(), value.into());
        match self.fields.iter_mut().find(|(name, _)| *name == key) {
            Some((_, slot)) => *slot = value,
            None => self.fields.push((key, value)),
        }
    }

    /// A field.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.fields
            .iter()
            .find(|(name, _)| &**name == key)
            .map(|(_, value)| value)
    }

    /// A field that is a number.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// The step that it was logged at.
    pub fn step(&self) -> Option<u64> {
        self.get("step")?
            .as_i64()
            .and_then(|step| u64::try_from(step).ok())
    }

    /// The fields in the order in which they were set.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Json)> {
        self.fields.iter().map(|(key, value)| (&**key, value))
    }

    /// The entry as JSON, for a line of a log.
    pub fn to_json(&self) -> Json {
        Json::object(self.iter().map(|(key, value)| (key, value.clone())))
    }
}

/// The state. Names, order and defaults are those of transformers' `TrainerState`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "transformers' names")]
pub struct TrainerState {
    pub best_global_step: Option<u64>,
    /// May be infinite: what the Trainer compares the first evaluation with.
    pub best_metric: Option<f64>,
    pub best_model_checkpoint: Option<String>,
    pub epoch: Number,
    pub eval_steps: Number,
    pub global_step: u64,
    pub is_hyper_param_search: bool,
    pub is_local_process_zero: bool,
    pub is_world_process_zero: bool,
    pub log_history: Vec<LogEntry>,
    pub logging_steps: Number,
    pub max_steps: u64,
    pub num_input_tokens_seen: u64,
    pub num_train_epochs: u64,
    pub save_steps: Number,
    pub stateful_callbacks: IndexMap<String, Json>,
    pub total_flos: Number,
    pub train_batch_size: Option<u64>,
    pub trial_name: Option<String>,
    pub trial_params: Option<Json>,
}

impl Default for TrainerState {
    fn default() -> Self {
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: Number::Int(0),
            eval_steps: Number::Int(500),
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: Number::Int(500),
            max_steps: 0,
            num_input_tokens_seen: 0,
            num_train_epochs: 0,
            save_steps: Number::Int(500),
            stateful_callbacks: IndexMap::new(),
            total_flos: Number::Int(0),
            train_batch_size: None,
            trial_name: None,
            trial_params: None,
        }
    }
}

impl TrainerState {
    /// Reads `trainer_state.json` of a checkpoint folder.
    ///
    /// # Errors
    /// [`FormatsError::File`] when it is not there; else as [`TrainerState::parse`].
    pub fn open(folder: &Path) -> Result<Self, FormatsError> {
        let path = folder.join(FILE_NAME);
        Self::parse(&durable::read_capped(&path, MAX_BYTES)?, &path)
    }

    /// Reads a file's text; `path` is named in errors. Keys that older versions lack get their defaults; keys
    /// that we do not know are dropped.
    ///
    /// # Errors
    /// [`FormatsError::Json`], [`FormatsError::NotAnObject`], [`FormatsError::Key`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, FormatsError> {
        let (mut fields, log_history) = read(text, path)?;
        let default = Self::default();
        let callbacks = fields.read("stateful_callbacks", "an object", object)?;
        Ok(Self {
            best_global_step: count(&mut fields, "best_global_step")?,
            best_metric: fields.read("best_metric", "a number", Json::as_f64)?,
            best_model_checkpoint: fields.read("best_model_checkpoint", "a string", string)?,
            epoch: number(&mut fields, "epoch", default.epoch)?,
            eval_steps: number(&mut fields, "eval_steps", default.eval_steps)?,
            global_step: count(&mut fields, "global_step")?.unwrap_or(0),
            is_hyper_param_search: fields.flag("is_hyper_param_search", false)?,
            is_local_process_zero: fields.flag("is_local_process_zero", true)?,
            is_world_process_zero: fields.flag("is_world_process_zero", true)?,
            log_history,
            logging_steps: number(&mut fields, "logging_steps", default.logging_steps)?,
            max_steps: count(&mut fields, "max_steps")?.unwrap_or(0),
            num_input_tokens_seen: count(&mut fields, "num_input_tokens_seen")?.unwrap_or(0),
            num_train_epochs: count(&mut fields, "num_train_epochs")?.unwrap_or(0),
            save_steps: number(&mut fields, "save_steps", default.save_steps)?,
            stateful_callbacks: callbacks.unwrap_or_default(),
            total_flos: number(&mut fields, "total_flos", default.total_flos)?,
            train_batch_size: count(&mut fields, "train_batch_size")?,
            trial_name: fields.read("trial_name", "a string", string)?,
            trial_params: fields.take("trial_params"),
        })
    }

    /// The text of the file: sorted keys, indent 2, a newline at its end.
    pub fn to_json(&self) -> String {
        let logs = self.log_history.iter().map(LogEntry::to_json);
        let value = Json::object([
            ("best_global_step", self.best_global_step.into()),
            ("best_metric", self.best_metric.into()),
            (
                "best_model_checkpoint",
                self.best_model_checkpoint.clone().into(),
            ),
            ("epoch", self.epoch.into()),
            ("eval_steps", self.eval_steps.into()),
            ("global_step", self.global_step.into()),
            ("is_hyper_param_search", self.is_hyper_param_search.into()),
            ("is_local_process_zero", self.is_local_process_zero.into()),
            ("is_world_process_zero", self.is_world_process_zero.into()),
            ("log_history", Json::Array(logs.collect())),
            ("logging_steps", self.logging_steps.into()),
            ("max_steps", self.max_steps.into()),
            ("num_input_tokens_seen", self.num_input_tokens_seen.into()),
            ("num_train_epochs", self.num_train_epochs.into()),
            ("save_steps", self.save_steps.into()),
            (
                "stateful_callbacks",
                Json::object(self.stateful_callbacks.clone()),
            ),
            ("total_flos", self.total_flos.into()),
            ("train_batch_size", self.train_batch_size.into()),
            ("trial_name", self.trial_name.clone().into()),
            ("trial_params", self.trial_params.clone().into()),
        ]);
        to_string(&value, Style::PRETTY) + "\n"
    }
}

fn count(fields: &mut Fields, key: &str) -> Result<Option<u64>, FormatsError> {
    fields.read(key, "a whole number", |value| {
        u64::try_from(value.as_i64()?).ok()
    })
}

fn number(fields: &mut Fields, key: &str, default: Number) -> Result<Number, FormatsError> {
    Ok(fields
        .read(key, "a number", Json::as_number)?
        .unwrap_or(default))
}

fn object(value: &Json) -> Option<IndexMap<String, Json>> {
    match value {
        Json::Object(entries) => Some((**entries).clone()),
        _ => None,
    }
}

/// The fields of a file, its log apart: a log is long, and goes into its entries without a tree in between.
fn read(text: &[u8], path: &Path) -> Result<(Fields, Vec<LogEntry>), FormatsError> {
    let fault = |fault| FormatsError::Json {
        path: path.to_owned(),
        fault,
    };
    let mut reader = LogReader {
        budget: Budget::of(text),
        keys: HashSet::new(),
    };
    let (mut entries, mut log) = (IndexMap::new(), Vec::new());
    let mut scanner = Scanner::new(text, MAX_DEPTH);
    if scanner.peek() != Some(b'{') {
        let found = parse(text).map_err(fault)?.kind();
        return Err(FormatsError::NotAnObject {
            path: path.to_owned(),
            found,
        });
    }
    let mut wrong = None;
    let found = scanner.object(|scanner, key| {
        if key == "log_history" && scanner.peek() == Some(b'[') {
            (log, wrong) = reader.log(scanner)?;
        } else {
            entries.insert(key.into_owned(), value(scanner, &mut reader.budget)?);
        }
        Ok::<_, JsonFault>(())
    });
    found.and_then(|()| scanner.end()).map_err(fault)?;
    let other = entries.get("log_history").filter(|log| **log != Json::Null);
    match wrong.as_ref().or(other) {
        Some(found) => Err(bad_key(path, "log_history", "a list of objects", found)),
        None => Ok((Fields::new(path, entries), log)),
    }
}

struct LogReader {
    budget: Budget,
    keys: HashSet<Arc<str>>,
}

/// A field with its value.
const FIELD_BYTES: usize = 48;
/// An entry with its place in the log, which may have grown to twice its need.
const LOG_ENTRY_BYTES: usize = 72;
/// A key that is new to the log.
const KEY_BYTES: usize = 96;

impl LogReader {
    /// The log, and an item of it that is not an object, if there is one.
    fn log(
        &mut self,
        scanner: &mut Scanner<'_>,
    ) -> Result<(Vec<LogEntry>, Option<Json>), JsonFault> {
        let (mut log, mut wrong) = (Vec::new(), None);
        scanner.array(|scanner| {
            match scanner.peek() {
                Some(b'{') => log.push(self.entry(scanner)?),
                _ => wrong = Some(value(scanner, &mut self.budget)?),
            }
            Ok::<_, JsonFault>(())
        })?;
        Ok((log, wrong))
    }

    fn entry(&mut self, scanner: &mut Scanner<'_>) -> Result<LogEntry, JsonFault> {
        self.budget.spend(scanner, LOG_ENTRY_BYTES)?;
        let mut entry = LogEntry::new();
        scanner.object(|scanner, key| {
            if entry.fields.len() == MAX_FIELDS {
                return Err(scanner.fault(JsonFaultKind::Memory));
            }
            self.budget.spend(scanner, FIELD_BYTES)?;
            let key = self.key(scanner, &key)?;
            // A number costs no more than its field.
            let found = match scanner.peek() {
                Some(b'{' | b'[' | b'"') => value(scanner, &mut self.budget)?,
                _ => scanner.scalar()?,
            };
            entry.insert(key, found);
            Ok::<_, JsonFault>(())
        })?;
        entry.fields.shrink_to_fit();
        Ok(entry)
    }

    fn key(&mut self, scanner: &Scanner<'_>, key: &str) -> Result<Arc<str>, JsonFault> {
        if let Some(known) = self.keys.get(key) {
            return Ok(known.clone());
        }
        self.budget.spend(scanner, KEY_BYTES + key.len())?;
        let new: Arc<str> = key.into();
        self.keys.insert(new.clone());
        Ok(new)
    }
}
