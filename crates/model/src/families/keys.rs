//! Reading `config.json`: several spellings a key, every size capped, every error naming file and key.
//!
//! The caps are far above any published model; they keep derived sizes (a product of three at most) inside
//! 64 bits and memory claims honest.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::ConfigError;

/// Most blocks a decoder may have.
pub(super) const MAX_LAYERS: u64 = 1024;
/// Largest width, vocabulary, or table of positions.
pub(super) const MAX_WIDTH: u64 = 1 << 24;
/// Largest value of keys that only bound positions.
pub(super) const MAX_POSITIONS: u64 = 1 << 40;

type Result<T> = std::result::Result<T, ConfigError>;

/// The keys of one config.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    pub(super) fn new(map: &'a Map<String, Value>, path: &'a Path) -> Self {
        Self { map, path }
    }

    /// The first spelling that is there and not null.
    pub(super) fn find(&self, keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        keys.iter()
            .filter_map(|key| self.map.get(*key).map(|value| (*key, value)))
            .find(|(_, value)| !value.is_null())
    }

    /// The key is in the file, be it null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// An object below this one.
    pub(super) fn below(&self, key: &'static str) -> Result<Option<Keys<'a>>> {
        match self.find(&[key]) {
            None => Ok(None),
            Some((_, Value::Object(map))) => Ok(Some(Keys::new(map, self.path))),
            Some((key, other)) => Err(self.wrong_type(key, "an object", other)),
        }
    }

    /// A whole number in `1..=max`, if there.
    pub(super) fn size(&self, keys: &[&'static str], max: u64) -> Result<Option<usize>> {
        let Some((key, value)) = self.find(keys) else {
            return Ok(None);
        };
        let whole = value.is_i64() || value.is_u64() || is_big_integer(value);
        if !whole {
            return Err(self.wrong_type(key, "a whole number", value));
        }
        let fits = value
            .as_u64()
            .filter(|size| (1..=max).contains(size))
            .and_then(|size| usize::try_from(size).ok());
        fits.map(Some)
            .ok_or_else(|| self.out_of_range(key, format!("in 1..={max}"), value))
    }

    /// As [`Self::size`], and it must be there.
    pub(super) fn required_size(&self, keys: &[&'static str], max: u64) -> Result<usize> {
        self.size(keys, max)?.ok_or_else(|| self.missing(keys))
    }

    /// A finite number above zero, if there.
    pub(super) fn positive(&self, keys: &[&'static str]) -> Result<Option<f64>> {
        let Some((key, value)) = self.find(keys) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .ok_or_else(|| self.wrong_type(key, "a number", value))?;
        if number.is_finite() && number > 0.0 {
            return Ok(Some(number));
        }
        Err(self.out_of_range(key, "a finite number above 0".into(), value))
    }

    /// A norm's epsilon: above zero, at most 1, and no zero as f32.
    pub(super) fn epsilon(&self, keys: &[&'static str], default: f64) -> Result<f32> {
        let eps = self.positive(keys)?.unwrap_or(default);
        if eps <= 1.0 && eps as f32 > 0.0 {
            return Ok(eps as f32);
        }
        let (key, value) = self.find(keys).ok_or_else(|| self.missing(keys))?;
        Err(self.out_of_range(key, "above 0 and at most 1".into(), value))
    }

    /// A probability, if there.
    pub(super) fn probability(&self, keys: &[&'static str]) -> Result<Option<f64>> {
        let Some((key, value)) = self.find(keys) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .ok_or_else(|| self.wrong_type(key, "a number", value))?;
        if (0.0..=1.0).contains(&number) {
            return Ok(Some(number));
        }
        Err(self.out_of_range(key, "in 0..=1".into(), value))
    }

    /// A boolean, or `default` where the key is absent or null.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> Result<bool> {
        match self.find(&[key]) {
            None => Ok(default),
            Some((_, Value::Bool(flag))) => Ok(*flag),
            Some((key, other)) => Err(self.wrong_type(key, "true or false", other)),
        }
    }

    /// A string, if there.
    pub(super) fn text(&self, keys: &[&'static str]) -> Result<Option<&'a str>> {
        match self.find(keys) {
            None => Ok(None),
            Some((_, Value::String(text))) => Ok(Some(text)),
            Some((key, other)) => Err(self.wrong_type(key, "a string", other)),
        }
    }

    /// A whole number of either sign, if there.
    pub(super) fn integer(&self, key: &'static str) -> Result<Option<i64>> {
        let Some((key, value)) = self.find(&[key]) else {
            return Ok(None);
        };
        let number = value.as_i64();
        number
            .map(Some)
            .ok_or_else(|| self.wrong_type(key, "a whole number", value))
    }

    /// A whole number that may be zero, if there.
    pub(super) fn count(&self, key: &'static str) -> Result<Option<usize>> {
        let Some(number) = self.integer(key)? else {
            return Ok(None);
        };
        let count = usize::try_from(number);
        let refuse = |_| self.out_of_range(key, "at least 0".into(), &number.into());
        count.map(Some).map_err(refuse)
    }

    /// A list of strings, if there.
    pub(super) fn texts(&self, key: &'static str) -> Result<Option<Vec<&'a str>>> {
        let Some((key, value)) = self.find(&[key]) else {
            return Ok(None);
        };
        let items = value.as_array().map(Vec::as_slice);
        let texts: Option<Vec<&str>> =
            items.and_then(|items| items.iter().map(Value::as_str).collect());
        texts
            .map(Some)
            .ok_or_else(|| self.wrong_type(key, "a list of strings", value))
    }

    /// Errs when `key` is true: the decoder cannot do it.
    pub(super) fn refuse_flag(&self, key: &'static str, why: &str) -> Result<()> {
        if self.flag(key, false)? {
            return Err(self.unsupported(key, "true", why));
        }
        Ok(())
    }

    /// The number of heads, which must divide `hidden`.
    pub(super) fn heads(&self, keys: &[&'static str], hidden: usize) -> Result<usize> {
        let heads = self.required_size(keys, MAX_WIDTH)?;
        self.divisor(heads, hidden, keys)
    }

    /// `part` if it divides `whole`; `keys` say where it was read.
    pub(super) fn divisor(
        &self,
        part: usize,
        whole: usize,
        keys: &[&'static str],
    ) -> Result<usize> {
        if whole.is_multiple_of(part) {
            return Ok(part);
        }
        let key = self.find(keys).map_or("", |(key, _)| key);
        Err(self.out_of_range(key, format!("a divisor of {whole}"), &Value::from(part)))
    }

    pub(super) fn missing(&self, keys: &[&'static str]) -> ConfigError {
        ConfigError::Missing {
            path: self.path.to_owned(),
            keys: keys.to_vec(),
        }
    }

    pub(super) fn wrong_type(&self, key: &str, want: &'static str, found: &Value) -> ConfigError {
        ConfigError::WrongType {
            path: self.path.to_owned(),
            key: key.to_owned(),
            want,
            found: short(found),
        }
    }

    pub(super) fn out_of_range(&self, key: &str, want: String, found: &Value) -> ConfigError {
        ConfigError::OutOfRange {
            path: self.path.to_owned(),
            key: key.to_owned(),
            want,
            found: short(found),
        }
    }

    pub(super) fn unsupported(&self, key: &str, found: &str, why: &str) -> ConfigError {
        ConfigError::Unsupported {
            path: self.path.to_owned(),
            key: key.to_owned(),
            found: shortened(found),
            why: why.to_owned(),
        }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }
}

/// An integer literal that fits no machine word, as `100000000000000000000`.
fn is_big_integer(value: &Value) -> bool {
    let Value::Number(number) = value else {
        return false;
    };
    let text = number.to_string();
    let digits = text.strip_prefix('-').unwrap_or(&text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn short(value: &Value) -> String {
    shortened(&value.to_string())
}

/// A file's own text in an error, cut where it would flood a terminal.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().count() <= 80 {
        return text.to_owned();
    }
    let start: String = text.chars().take(77).collect();
    format!("{start}...")
}
