//! `json.loads`, under limits.

use std::borrow::Cow;

use indexmap::IndexMap;

use super::Json;

/// Levels of lists and objects inside each other.
pub const MAX_DEPTH: usize = 64;
/// What the values of a text may take beyond the size of the text itself.
const MEMORY_BYTES: usize = 48 << 20;

/// The memory that the values of one text may still take. A text of `{"":0},` makes sixty times its size of
/// values: it is the values that are counted, with what they take in the allocator.
pub(crate) struct Budget {
    left: usize,
}

impl Budget {
    pub(crate) fn of(text: &[u8]) -> Self {
        Self {
            left: MEMORY_BYTES + text.len(),
        }
    }

    pub(crate) fn spend(&mut self, scanner: &Scanner<'_>, bytes: usize) -> Result<(), JsonFault> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| scanner.fault(JsonFaultKind::Memory))?;
        Ok(())
    }
}

/// A slot of a list that may have grown to twice its need.
const SLOT_BYTES: usize = 64;
/// A string beside its characters.
const STRING_BYTES: usize = 16;
/// An object, its table, and the slack of its first four entries.
const OBJECT_BYTES: usize = 384;
/// An entry of an object, beside its value, when the object has grown to twice its need.
const ENTRY_BYTES: usize = 96;

/// Why a text is not JSON that we read, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {kind}")]
pub struct JsonFault {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in bytes.
    pub column: usize,
    /// What is wrong there.
    pub kind: JsonFaultKind,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonFaultKind {
    /// The text ends inside a value.
    #[error("the text ends too early, expected {0}")]
    End(&'static str),
    /// Something else than the grammar wants.
    #[error("expected {0}")]
    Expected(&'static str),
    /// Text after the value.
    #[error("expected nothing more after the value")]
    Trailing,
    /// A string that is not UTF-8.
    #[error("text is not utf-8")]
    Utf8,
    /// A raw control character inside a string.
    #[error("control character in a string")]
    Control,
    /// A backslash with an unknown letter.
    #[error("unknown escape in a string")]
    Escape,
    /// Half of a surrogate pair.
    #[error("lone surrogate in a string")]
    Surrogate,
    /// An integer that is longer than we hold.
    #[error("integer beyond 128 bits")]
    Integer,
    /// More than [`MAX_DEPTH`] levels.
    #[error("more than {0} levels deep")]
    Depth(usize),
    /// Values that would take 48 MiB more than the text.
    #[error("too many values for a text of this size")]
    Memory,
}

/// The value of a text. As in Python, a repeated key keeps its last value.
///
/// # Errors
/// [`JsonFault`]: the text is not JSON, is more than [`MAX_DEPTH`] levels deep, or its values would take more
/// memory than the text's size and 48 MiB.
pub fn parse(text: &[u8]) -> Result<Json, JsonFault> {
    let mut scanner = Scanner::new(text, MAX_DEPTH);
    let mut budget = Budget::of(text);
    let value = value(&mut scanner, &mut budget)?;
    scanner.end()?;
    Ok(value)
}

/// The value at the scanner's place.
pub(crate) fn value(scanner: &mut Scanner<'_>, budget: &mut Budget) -> Result<Json, JsonFault> {
    budget.spend(scanner, SLOT_BYTES)?;
    match scanner.peek() {
        Some(b'{') => {
            budget.spend(scanner, OBJECT_BYTES)?;
            let mut entries = IndexMap::new();
            scanner.object(|scanner, key| {
                budget.spend(scanner, ENTRY_BYTES + STRING_BYTES + key.len())?;
                let value = value(scanner, budget)?;
                entries.insert(key.into_owned(), value);
                Ok::<_, JsonFault>(())
            })?;
            Ok(Json::Object(Box::new(entries)))
        }
        Some(b'[') => {
            let mut items = Vec::new();
            scanner.array(|scanner| {
                items.push(value(scanner, budget)?);
                Ok::<_, JsonFault>(())
            })?;
            Ok(Json::Array(items))
        }
        Some(b'"') => {
            let text = scanner.string()?;
            budget.spend(scanner, STRING_BYTES + text.len())?;
            Ok(Json::String(text.into_owned()))
        }
        _ => scanner.scalar(),
    }
}

/// Walks over a text without building anything: whoever calls decides what to keep.
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    max_depth: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a [u8], max_depth: usize) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            max_depth,
        }
    }

    /// The fault `kind` at this place.
    pub(crate) fn fault(&self, kind: JsonFaultKind) -> JsonFault {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let column = 1 + before
            .iter()
            .rev()
            .take_while(|&&byte| byte != b'\n')
            .count();
        JsonFault { line, column, kind }
    }

    /// The next byte that is not a space, not taken.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8, what: &'static str) -> Result<(), JsonFault> {
        match self.peek() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.fault(JsonFaultKind::Expected(what))),
            None => Err(self.fault(JsonFaultKind::End(what))),
        }
    }

    /// Only space is left.
    pub(crate) fn end(&mut self) -> Result<(), JsonFault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault(JsonFaultKind::Trailing)),
        }
    }

    /// Calls `entry` with each key, the scanner standing before its value.
    pub(crate) fn object<E: From<JsonFault>>(
        &mut self,
        mut entry: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(b'{', "`{`")?;
        self.list(b'}', "`,` or `}`", |scanner| {
            let key = scanner.string()?;
            scanner.take(b':', "`:`")?;
            entry(scanner, key)
        })
    }

    /// Calls `item` before each item.
    pub(crate) fn array<E: From<JsonFault>>(
        &mut self,
        item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(b'[', "`[`")?;
        self.list(b']', "`,` or `]`", item)
    }

    fn list<E: From<JsonFault>>(
        &mut self,
        close: u8,
        what: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.depth += 1;
        if self.depth > self.max_depth {
            return Err(self.fault(JsonFaultKind::Depth(self.max_depth)).into());
        }
        if self.peek() != Some(close) {
            item(self)?;
            while self.peek() == Some(b',') {
                self.at += 1;
                item(self)?;
            }
        }
        self.take(close, what)?;
        self.depth -= 1;
        Ok(())
    }

    /// A string; borrowed where it has no escapes.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, JsonFault> {
        self.take(b'"', "a string")?;
        let plain = self.plain_run()?;
        if self.text.get(self.at) == Some(&b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        let mut owned = plain.to_owned();
        loop {
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(_) => owned.push(self.escape()?),
                None => return Err(self.fault(JsonFaultKind::End("`\"`"))),
            }
            owned.push_str(self.plain_run()?);
        }
        self.at += 1;
        Ok(Cow::Owned(owned))
    }

    /// Text up to the next quote or backslash (or the end).
    fn plain_run(&mut self) -> Result<&'a str, JsonFault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let stop = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
        let length = rest.iter().position(stop).unwrap_or(rest.len());
        let (run, after) = rest.split_at(length);
        let run = std::str::from_utf8(run).map_err(|_| self.fault(JsonFaultKind::Utf8))?;
        self.at += length;
        match after.first() {
            Some(0..=0x1f) => Err(self.fault(JsonFaultKind::Control)),
            _ => Ok(run),
        }
    }

    fn escape(&mut self) -> Result<char, JsonFault> {
        let letter = self.text.get(self.at + 1);
        let character = match letter {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            Some(_) => return Err(self.fault(JsonFaultKind::Escape)),
            None => return Err(self.fault(JsonFaultKind::End("an escape"))),
        };
        self.at += 2;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonFault> {
        let mut units = Vec::with_capacity(2);
        units.push(self.unit(self.at)?);
        if units
            .first()
            .is_some_and(|unit| (0xd800..0xdc00).contains(unit))
        {
            let lone = |_| self.fault(JsonFaultKind::Surrogate);
            units.push(self.unit(self.at + 6).map_err(lone)?);
        }
        match char::decode_utf16(units.iter().copied()).next() {
            Some(Ok(character)) => {
                self.at += 6 * units.len();
                Ok(character)
            }
            _ => Err(self.fault(JsonFaultKind::Surrogate)),
        }
    }

    fn unit(&self, at: usize) -> Result<u16, JsonFault> {
        let bad = || self.fault(JsonFaultKind::Escape);
        let text = self.text.get(at..at + 6).ok_or_else(bad)?;
        let digits = text.strip_prefix(b"\\u").ok_or_else(bad)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(bad());
        }
        let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
        u16::from_str_radix(digits, 16).map_err(|_| bad())
    }

    /// A number or a word.
    pub(crate) fn scalar(&mut self) -> Result<Json, JsonFault> {
        if self.peek().is_none() {
            return Err(self.fault(JsonFaultKind::End("a value")));
        }
        let rest = self.text.get(self.at..).unwrap_or_default();
        for (word, value) in words() {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        let number = number_prefix(rest);
        let text = std::str::from_utf8(number.text).unwrap_or_default();
        let value = match (number.float, text.is_empty()) {
            (_, true) => return Err(self.fault(JsonFaultKind::Expected("a value"))),
            (true, _) => text.parse().map(Json::Float).ok(),
            (false, _) => text.parse().map(Json::Int).ok(),
        };
        let value = value.ok_or_else(|| self.fault(JsonFaultKind::Integer))?;
        self.at += text.len();
        Ok(value)
    }
}

fn words() -> [(&'static str, Json); 6] {
    [
        ("null", Json::Null),
        ("true", Json::Bool(true)),
        ("false", Json::Bool(false)),
        ("NaN", Json::Float(f64::NAN)),
        ("Infinity", Json::Float(f64::INFINITY)),
        ("-Infinity", Json::Float(f64::NEG_INFINITY)),
    ]
}

struct NumberPrefix<'a> {
    text: &'a [u8],
    float: bool,
}

/// The longest number at the start, by Python's pattern `(-?(?:0|[1-9]\d*))(\.\d+)?([eE][-+]?\d+)?`: what
/// follows a leading zero is not part of it, and is then refused as trailing text.
fn number_prefix(rest: &[u8]) -> NumberPrefix<'_> {
    let digits = |from: usize| {
        let tail = rest.get(from..).unwrap_or_default();
        tail.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let sign = usize::from(rest.first() == Some(&b'-'));
    let whole = if rest.get(sign) == Some(&b'0') {
        1
    } else {
        digits(sign)
    };
    if whole == 0 {
        return NumberPrefix {
            text: &[],
            float: false,
        };
    }
    let mut length = sign + whole;
    let mut float = false;
    if rest.get(length) == Some(&b'.') && digits(length + 1) > 0 {
        length += 1 + digits(length + 1);
        float = true;
    }
    if matches!(rest.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(rest.get(length + 1), Some(b'-' | b'+')));
        let exponent = digits(length + 1 + sign);
        if exponent > 0 {
            length += 1 + sign + exponent;
            float = true;
        }
    }
    NumberPrefix {
        text: rest.get(..length).unwrap_or_default(),
        float,
    }
}
