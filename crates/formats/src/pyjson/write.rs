//! `json.dumps`.

use std::fmt::Write as _;

use indexmap::IndexMap;

use super::{Json, float_repr};

/// The arguments of `json.dumps` that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Spaces a level; `None` writes one line.
    pub indent: Option<usize>,
    /// Keys in the order of their code points.
    pub sort_keys: bool,
    /// But not those of the objects under these keys.
    pub in_order: &'static [&'static str],
    /// Everything outside printable ASCII as `\uXXXX`.
    pub ensure_ascii: bool,
    /// Between items, and between key and value; `None` for Python's defaults, which depend on `indent`.
    pub separators: Option<(&'static str, &'static str)>,
}

impl Style {
    /// `json.dumps(value)`.
    pub const LINE: Self = Self {
        indent: None,
        sort_keys: false,
        in_order: &[],
        ensure_ascii: true,
        separators: None,
    };
    /// `json.dumps(value, indent=2, sort_keys=True)`, as PEFT, the Trainer and `save_pretrained` write.
    pub const PRETTY: Self = Self {
        indent: Some(2),
        sort_keys: true,
        in_order: &[],
        ensure_ascii: true,
        separators: None,
    };
    /// `json.dumps(value, separators=(",", ":"))`.
    pub const COMPACT: Self = Self {
        indent: None,
        sort_keys: false,
        in_order: &[],
        ensure_ascii: true,
        separators: Some((",", ":")),
    };

    fn item_separator(&self) -> &'static str {
        match (self.separators, self.indent) {
            (Some((item, _)), _) => item,
            (None, Some(_)) => ",",
            (None, None) => ", ",
        }
    }

    fn key_separator(&self) -> &'static str {
        self.separators.map_or(": ", |(_, key)| key)
    }
}

/// The text of `json.dumps(value, …)`, without a newline at its end.
pub fn to_string(value: &Json, style: Style) -> String {
    let mut writer = Writer {
        style,
        out: String::new(),
        level: 0,
    };
    writer.value(value);
    writer.out
}

/// [`to_string`] of a serde value.
pub fn value_to_string(value: &serde_json::Value, style: Style) -> String {
    to_string(&value.into(), style)
}

struct Writer {
    style: Style,
    out: String,
    level: usize,
}

impl Writer {
    fn value(&mut self, value: &Json) {
        match value {
            Json::Null => self.out.push_str("null"),
            Json::Bool(true) => self.out.push_str("true"),
            Json::Bool(false) => self.out.push_str("false"),
            Json::Int(value) => push(&mut self.out, format_args!("{value}")),
            Json::Float(value) => self.out.push_str(&float_repr(*value)),
            Json::String(value) => self.string(value),
            Json::Array(items) => {
                self.block('[', ']', items.iter(), |writer, item| writer.value(item));
            }
            Json::Object(entries) => self.object(entries, self.style.sort_keys),
        }
    }

    fn object(&mut self, entries: &IndexMap<String, Json>, sort_keys: bool) {
        let mut entries: Vec<_> = entries.iter().collect();
        if sort_keys {
            entries.sort_by_key(|(key, _)| *key);
        }
        self.block('{', '}', entries.into_iter(), |writer, (key, value)| {
            writer.string(key);
            writer.out.push_str(writer.style.key_separator());
            match value {
                Json::Object(inner) if writer.style.in_order.contains(&key.as_str()) => {
                    writer.object(inner, false);
                }
                _ => writer.value(value),
            }
        });
    }

    fn block<T>(
        &mut self,
        open: char,
        close: char,
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.out.push(open);
        let empty = items.len() == 0;
        self.level += 1;
        for (i, item) in items.enumerate() {
            if i > 0 {
                self.out.push_str(self.style.item_separator());
            }
            self.newline();
            write(self, item);
        }
        self.level -= 1;
        if !empty {
            self.newline();
        }
        self.out.push(close);
    }

    fn newline(&mut self) {
        if let Some(indent) = self.style.indent {
            self.out.push('\n');
            self.out
                .extend(std::iter::repeat_n(' ', indent * self.level));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            self.character(character);
        }
        self.out.push('"');
    }

    fn character(&mut self, character: char) {
        match character {
            '"' => self.out.push_str("\\\""),
            '\\' => self.out.push_str("\\\\"),
            '\n' => self.out.push_str("\\n"),
            '\r' => self.out.push_str("\\r"),
            '\t' => self.out.push_str("\\t"),
            '\u{8}' => self.out.push_str("\\b"),
            '\u{c}' => self.out.push_str("\\f"),
            '\0'..='\u{1f}' => self.escape(character),
            ' '..='~' => self.out.push(character),
            _ if self.style.ensure_ascii => self.escape(character),
            _ => self.out.push(character),
        }
    }

    /// Code points above U+FFFF become a surrogate pair.
    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            push(&mut self.out, format_args!("\\u{unit:04x}"));
        }
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes all text");
}
