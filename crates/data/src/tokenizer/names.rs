//! The special and added tokens that the files of a tokenizer name, read as `_from_pretrained` reads them.

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::SpecialTokens;
use super::build::{Class, check_ids, flag};
use super::files::Files;

/// `SPECIAL_TOKENS_ATTRIBUTES`, in their order.
const ATTRIBUTES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A token as a JSON file gives it: Python tells a plain string from an `AddedToken`, and so must this.
#[derive(Debug, Clone, PartialEq)]
enum Given {
    Plain(String),
    Added(AddedToken),
}

impl Given {
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Plain(text.clone())),
            Value::Object(map) => added_token(map).map(Self::Added),
            _ => None,
        }
    }

    fn content(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Added(token) => &token.content,
        }
    }
}

/// `AddedToken(**map)`, whose `normalized` follows `special` unless given.
fn added_token(map: &Map<String, Value>) -> Option<AddedToken> {
    let content = map.get("content")?.as_str()?;
    let on = |key: &str| flag(map, key).unwrap_or(false);
    let token = AddedToken::from(content, on("special"));
    let normalized = flag(map, "normalized").unwrap_or(token.normalized);
    Some(
        token
            .single_word(on("single_word"))
            .lstrip(on("lstrip"))
            .rstrip(on("rstrip"))
            .normalized(normalized),
    )
}

/// The special and added tokens that the files name.
pub(super) struct Names {
    named: Vec<(&'static str, Given)>,
    extra: Vec<Given>,
    decoder: Vec<(u32, AddedToken)>,
}

impl Names {
    pub(super) fn read(files: &Files, class: Class) -> Self {
        let mut settings = files.config.clone();
        let modern = settings
            .get("added_tokens_decoder")
            .and_then(Value::as_object)
            .cloned();
        let mut decoder: Vec<(u32, AddedToken)> = Vec::new();
        if let Some(map) = &modern {
            let entry = |(id, token): (&String, &Value)| {
                Some((id.parse().ok()?, added_token(token.as_object()?)?))
            };
            decoder.extend(map.iter().filter_map(entry));
        } else {
            // Before 4.34 these lived in files of their own, which take precedence.
            for (key, value) in &files.special {
                settings.insert(key.clone(), as_special(value));
            }
        }
        let mut named = defaults(class);
        for key in ATTRIBUTES {
            match settings.get(key) {
                Some(Value::Null) => named.retain(|(name, _)| *name != key),
                Some(value) => {
                    if let Some(given) = Given::read(value) {
                        named.retain(|(name, _)| *name != key);
                        named.push((key, given));
                    }
                }
                None => {}
            }
        }
        named.sort_by_key(|(name, _)| ATTRIBUTES.iter().position(|key| key == name));
        let extra = extra_tokens(&settings);
        if modern.is_none() {
            legacy_added(files, &named, &extra, &mut decoder);
        }
        decoder.sort_by_key(|(id, _)| *id);
        for (_, given) in &mut named {
            if let Some((_, token)) = decoder
                .iter()
                .find(|(_, token)| token.content == given.content())
            {
                *given = Given::Added(token.clone());
            }
        }
        Self {
            named,
            extra,
            decoder,
        }
    }

    /// `TokenizersBackend.__init__`: adds what the backend does not have yet, or has with other flags.
    pub(super) fn add_to(&self, inner: &mut Tokenizer, class: Class) -> Result<(), String> {
        let present: Vec<AddedToken> = inner.get_added_tokens_decoder().into_values().collect();
        let mut adding: Vec<AddedToken> = self
            .decoder
            .iter()
            .map(|(_, token)| token.clone())
            .filter(|token| !present.contains(token))
            .collect();
        let known = |adding: &[AddedToken], content: &str| {
            present
                .iter()
                .chain(adding)
                .any(|token| token.content == content)
        };
        for given in self.named.iter().map(|(_, given)| given).chain(&self.extra) {
            if !known(&adding, given.content()) {
                adding.push(match given {
                    Given::Plain(text) => AddedToken::from(text.clone(), true),
                    Given::Added(token) => token.clone(),
                });
            }
        }
        for token in &mut adding {
            token.special |= self
                .named
                .iter()
                .any(|(_, given)| given.content() == token.content);
        }
        if class == Class::Qwen2 {
            let all = self.named.iter().map(|(_, given)| given).chain(&self.extra);
            adding.extend(all.map(|given| AddedToken::from(given.content(), true)));
        }
        let added = inner.add_tokens(adding);
        added.map_err(|error| error.to_string())?;
        check_ids(inner)
    }

    /// The texts of the named tokens; `config.json` has ids for those that no tokenizer file names.
    pub(super) fn texts(
        &self,
        inner: &Tokenizer,
        model_config: &Map<String, Value>,
    ) -> SpecialTokens {
        let text = |key: &str, id_key: &str| {
            let named = self
                .named
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, given)| given.content().to_owned());
            named.or_else(|| {
                let id = match model_config.get(id_key)? {
                    Value::Array(ids) => ids.first()?.as_u64()?,
                    id => id.as_u64()?,
                };
                inner.id_to_token(u32::try_from(id).ok()?)
            })
        };
        SpecialTokens {
            bos: text("bos_token", "bos_token_id"),
            eos: text("eos_token", "eos_token_id"),
            pad: text("pad_token", "pad_token_id"),
            unk: text("unk_token", "unk_token_id"),
        }
    }
}

/// What `__init__` of the class names when the files do not.
fn defaults(class: Class) -> Vec<(&'static str, Given)> {
    let end = "<|endoftext|>";
    let named: &[(&'static str, &str)] = match class {
        Class::Backend => &[],
        Class::Gpt2 => &[("bos_token", end), ("eos_token", end), ("unk_token", end)],
        Class::Llama => &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
        ],
        Class::Qwen2 => &[("eos_token", end), ("unk_token", end), ("pad_token", end)],
    };
    named
        .iter()
        .map(|&(name, text)| (name, Given::Plain(text.to_owned())))
        .collect()
}

/// A token of `special_tokens_map.json` is special without saying so.
fn as_special(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(map) = &mut value {
        map.insert("special".into(), Value::Bool(true));
    }
    value
}

fn extra_tokens(settings: &Map<String, Value>) -> Vec<Given> {
    let filled = |key: &str| {
        settings.get(key).filter(|value| match value {
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => false,
        })
    };
    match filled("extra_special_tokens").or_else(|| filled("additional_special_tokens")) {
        Some(Value::Array(list)) => list.iter().filter_map(Given::read).collect(),
        Some(Value::Object(map)) => map.values().filter_map(Given::read).collect(),
        _ => Vec::new(),
    }
}

/// `added_tokens.json`, and the added tokens of `tokenizer.json`, for folders without `added_tokens_decoder`.
fn legacy_added(
    files: &Files,
    named: &[(&'static str, Given)],
    extra: &[Given],
    decoder: &mut Vec<(u32, AddedToken)>,
) {
    for (content, id) in &files.added {
        let mut special = named.iter().map(|(_, given)| given).chain(extra);
        let special = special.any(|given| given.content() == content);
        if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            decoder.push((id, AddedToken::from(content.clone(), special)));
        }
    }
    let Some(bytes) = &files.tokenizer else {
        return;
    };
    /// Only this list is wanted of a file of many megabytes.
    #[derive(serde::Deserialize)]
    struct OnlyAdded {
        #[serde(default)]
        added_tokens: Vec<Map<String, Value>>,
    }
    let listed = serde_json::from_slice::<OnlyAdded>(bytes)
        .map(|file| file.added_tokens)
        .unwrap_or_default();
    for map in &listed {
        let id = map
            .get("id")
            .and_then(Value::as_u64)
            .and_then(|id| u32::try_from(id).ok());
        if let (Some(id), Some(token)) = (id, added_token(map)) {
            decoder.retain(|(other, _)| *other != id);
            decoder.push((id, token));
        }
    }
}
