//! A strict JSON reader for rows: it knows its byte offset and never looks past the bytes it was given.
//!
//! Stricter than `serde_json`: a key given twice, a number beyond f64 and nesting deeper than [`MAX_DEPTH`] are refused.
//! As in `serde_json`, lone surrogates, raw control characters (NUL too), `NaN` and trailing commas are refused,
//! and `\u0000` is the character NUL.

use std::str::FromStr;

use serde_json::{Map, Number, Value};

use super::MAX_ROW_BYTES;

/// Nesting that is still read; a row of text has two or three.
pub(super) const MAX_DEPTH: usize = 64;
/// What a value takes where it lies: two bytes of a row, `0,`, unfold into 72.
const VALUE_BYTES: usize = size_of::<Value>();
/// An object beside its values: its table, and the slack of its first entries.
const OBJECT_BYTES: usize = 384;

/// What is wrong, and at which byte of the given slice.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) what: String,
}

/// A place in a slice of JSON text, and what the values from there may come to: those of one row.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    budget: Option<usize>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            budget: Some(MAX_ROW_BYTES),
        }
    }

    /// The next byte, not taken.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Steps over the whitespace that JSON allows, CR of CRLF included.
    pub(super) fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    pub(super) fn fault<T>(&self, what: impl Into<String>) -> Result<T, Fault> {
        Err(Fault {
            offset: self.at,
            what: what.into(),
        })
    }

    /// What stands here, for a message.
    pub(super) fn found(&self) -> String {
        match self.peek() {
            None => "the end".into(),
            Some(byte @ 0x21..=0x7e) => format!("`{}`", char::from(byte)),
            Some(byte) => format!("byte 0x{byte:02x}"),
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.budget = self.budget.and_then(|left| left.checked_sub(bytes));
        match self.budget {
            Some(_) => Ok(()),
            None => self.fault(format!(
                "the values of the row take more than {} MiB",
                MAX_ROW_BYTES >> 20
            )),
        }
    }

    /// The last fault was that the values came to more than a row may.
    pub(super) fn is_spent(&self) -> bool {
        self.budget.is_none()
    }

    /// Reads one value that starts here.
    pub(super) fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth >= MAX_DEPTH {
            return self.fault(format!("nested deeper than {MAX_DEPTH}"));
        }
        self.spend(VALUE_BYTES)?;
        match self.peek() {
            Some(b'{') => self.object(depth).map(Value::Object),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            _ => self.fault(format!("expected a value, found {}", self.found())),
        }
    }

    /// Reads one object that starts here.
    pub(super) fn object(&mut self, depth: usize) -> Result<Map<String, Value>, Fault> {
        self.expect(b'{')?;
        self.spend(OBJECT_BYTES)?;
        let mut map = Map::new();
        self.skip_space();
        if self.take(b'}') {
            return Ok(map);
        }
        loop {
            self.skip_space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return self.fault(format!(
                    "expected a key in double quotes, found {}",
                    self.found()
                ));
            }
            let key = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            self.skip_space();
            let value = self.value(depth + 1)?;
            if map.contains_key(&key) {
                return Err(Fault {
                    offset: start,
                    what: format!("key `{key}` is given twice in one object"),
                });
            }
            map.insert(key, value);
            self.skip_space();
            if self.take(b'}') {
                return Ok(map);
            }
            self.expect(b',')?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Fault> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            self.expect(b',')?;
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let mut at = start + 1;
        loop {
            match self.bytes.get(at) {
                None => {
                    let what = format!("the text that begins at byte {start} does not end");
                    return Err(Fault {
                        offset: self.bytes.len(),
                        what,
                    });
                }
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(&byte) if byte < 0x20 => {
                    let what =
                        format!("control character 0x{byte:02x} in a text, it must be escaped");
                    return Err(Fault { offset: at, what });
                }
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        let quoted = &self.bytes[start..=at];
        if let Err(error) = std::str::from_utf8(quoted) {
            return Err(Fault {
                offset: start + error.valid_up_to(),
                what: "not valid UTF-8".into(),
            });
        }
        serde_json::from_slice(quoted).map_err(|error| Fault {
            offset: start,
            what: without_place(&error),
        })
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        while matches!(
            self.peek(),
            Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
        ) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        let wrong = |what: String| Fault {
            offset: start,
            what,
        };
        let number = Number::from_str(text)
            .map_err(|_| wrong(format!("`{}` is not a number", head(text))))?;
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Value::Number(number)),
            _ => Err(wrong(format!(
                "number `{}` is beyond the range of f64",
                head(text)
            ))),
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, Fault> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        self.fault(format!("expected `{word}`"))
    }

    /// Takes `byte` if it stands here.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.take(byte) {
            return Ok(());
        }
        self.fault(format!(
            "expected `{}`, found {}",
            char::from(byte),
            self.found()
        ))
    }
}

/// serde_json's own line and column would count from the start of the one string it was given.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text
        .rfind(" at line ")
        .map_or(text.as_str(), |cut| &text[..cut]);
    if what.contains("hex escape") {
        return "a `\\u` escape that is cut or half of a surrogate pair".into();
    }
    what.to_owned()
}

fn head(text: &str) -> &str {
    text.get(..24).unwrap_or(text)
}
