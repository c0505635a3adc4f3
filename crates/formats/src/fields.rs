//! Typed values out of a JSON object, each error naming file and key.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::error::FormatsError;
use crate::pyjson::{Json, Style, parse, to_string};

/// Largest `config.json`, `adapter_config.json`, `generation_config.json`; published ones have some kilobytes.
pub const MAX_CONFIG_BYTES: usize = 4 << 20;

/// The object of a JSON text; keys are taken out one by one, what is left is what we do not know.
pub(crate) struct Fields {
    path: PathBuf,
    entries: IndexMap<String, Json>,
}

impl Fields {
    pub(crate) fn parse(text: &[u8], path: &Path) -> Result<Self, FormatsError> {
        let path = path.to_owned();
        match parse(text) {
            Ok(Json::Object(entries)) => Ok(Self {
                path,
                entries: *entries,
            }),
            Ok(other) => Err(FormatsError::NotAnObject {
                path,
                found: other.kind(),
            }),
            Err(fault) => Err(FormatsError::Json { path, fault }),
        }
    }

    /// The same from entries that were read otherwise.
    pub(crate) fn new(path: &Path, entries: IndexMap<String, Json>) -> Self {
        Self {
            path: path.to_owned(),
            entries,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn rest(self) -> IndexMap<String, Json> {
        self.entries
    }

    /// The value of `key`, taken out; null counts as absent.
    pub(crate) fn take(&mut self, key: &str) -> Option<Json> {
        self.entries
            .shift_remove(key)
            .filter(|value| *value != Json::Null)
    }

    /// The value of `key` as `read` makes it, or `None` when absent.
    pub(crate) fn read<T>(
        &mut self,
        key: &str,
        want: &str,
        read: impl FnOnce(&Json) -> Option<T>,
    ) -> Result<Option<T>, FormatsError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let fault = || bad_key(&self.path, key, want, &value);
        read(&value).map(Some).ok_or_else(fault)
    }

    pub(crate) fn flag(&mut self, key: &str, default: bool) -> Result<bool, FormatsError> {
        let found = self.read(key, "true or false", |value| match value {
            Json::Bool(flag) => Some(*flag),
            _ => None,
        })?;
        Ok(found.unwrap_or(default))
    }

    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>, FormatsError> {
        self.read(key, "a string", string)
    }
}

pub(crate) fn string(value: &Json) -> Option<String> {
    value.as_str().map(str::to_owned)
}

pub(crate) fn list<T>(value: &Json, item: impl Fn(&Json) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Json::Array(items) => items.iter().map(item).collect(),
        _ => None,
    }
}

pub(crate) fn bad_key(path: &Path, key: &str, want: &str, found: &Json) -> FormatsError {
    FormatsError::Key {
        path: path.to_owned(),
        key: key.to_owned(),
        want: want.to_owned(),
        found: shortened(found),
    }
}

/// The value for a message: at most 80 characters of it.
fn shortened(value: &Json) -> String {
    let text = match value {
        Json::Array(items) if items.len() > 16 => return format!("a list of {}", items.len()),
        Json::Object(entries) if entries.len() > 4 => {
            return format!("an object of {} keys", entries.len());
        }
        _ => to_string(value, Style::LINE),
    };
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
