//! What is checked of a `tokenizer.json` before the `tokenizers` crate sees it, because the crate would panic on it later.

mod shape;

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::patterns;

/// The parts that may hold patterns and references; the vocabulary is not looked at here.
#[derive(serde::Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Option<Model>,
}

/// Of a model only what is needed to know that its merges are sound.
#[derive(serde::Deserialize)]
struct Model {
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    vocab: Longest,
    #[serde(default)]
    merges: Option<Longest>,
}

/// Refuses patterns that may take forever, and templates that name a token they do not define.
pub(super) fn check_file(bytes: &[u8]) -> Result<(), String> {
    shape::check(bytes)?;
    check_parts(bytes)
}

fn check_parts(bytes: &[u8]) -> Result<(), String> {
    let parts: Parts =
        serde_json::from_slice(bytes).map_err(|error| format!("not a JSON object: {error}"))?;
    check_merges(&parts.model)?;
    let all = [
        &parts.normalizer,
        &parts.pre_tokenizer,
        &parts.post_processor,
        &parts.decoder,
    ];
    all.into_iter().try_for_each(check_value)?;
    refuse_unknown(&parts)
}

/// What the crate would refuse after it has read the model.
fn refuse_unknown(parts: &Parts) -> Result<(), String> {
    fn read<T: DeserializeOwned>(what: &str, part: &Value) -> Result<(), String> {
        let read = serde_json::from_value::<Option<T>>(part.clone());
        read.map(drop).map_err(|error| format!("{what}: {error}"))
    }
    read::<PreTokenizerWrapper>("pre_tokenizer", &parts.pre_tokenizer)?;
    read::<PostProcessorWrapper>("post_processor", &parts.post_processor)?;
    read::<DecoderWrapper>("decoder", &parts.decoder)?;
    read::<NormalizerWrapper>("normalizer", &parts.normalizer)
}

/// The crate writes each merged token into a buffer of the longest token, and takes a prefix off the right half, unchecked.
fn check_merges(model: &Option<Model>) -> Result<(), String> {
    let Some(Model {
        vocab,
        merges: Some(merges),
        continuing_subword_prefix: prefix,
    }) = model
    else {
        return Ok(());
    };
    if prefix.as_ref().is_some_and(|prefix| !prefix.is_empty()) {
        return Err("merges with a continuing_subword_prefix are not read".into());
    }
    if merges.0 > vocab.0 {
        return Err(format!(
            "a merge makes a token of {} bytes, the longest token has {}",
            merges.0, vocab.0
        ));
    }
    Ok(())
}

fn check_value(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(check_value),
        Value::Object(map) => {
            check_pattern(map)?;
            check_template(map)?;
            check_strip(map)?;
            check_charsmap(map)?;
            map.values().try_for_each(check_value)
        }
        _ => Ok(()),
    }
}

fn check_pattern(map: &Map<String, Value>) -> Result<(), String> {
    let Some(pattern) = map.get("Regex").and_then(Value::as_str) else {
        return Ok(());
    };
    let head: String = pattern.chars().take(60).collect();
    patterns::check(pattern).map_err(|why| format!("pattern `{head}` may take forever: {why}"))
}

/// A `TemplateProcessing`: each token of `single` and `pair` must be a key of `special_tokens`.
fn check_template(map: &Map<String, Value>) -> Result<(), String> {
    let Some(defined) = map.get("special_tokens").and_then(Value::as_object) else {
        return Ok(());
    };
    let pieces = ["single", "pair"]
        .into_iter()
        .filter_map(|key| map.get(key)?.as_array())
        .flatten();
    for name in pieces.filter_map(|piece| piece.get("SpecialToken")?.get("id")?.as_str()) {
        if !defined.contains_key(name) {
            return Err(format!(
                "the post-processor's template names the token `{name}` and does not define it"
            ));
        }
    }
    Ok(())
}

/// SentencePiece's table of characters: the crate panics on one that is damaged or missing, and no family that is trained
/// here has one.
fn check_charsmap(map: &Map<String, Value>) -> Result<(), String> {
    let named = map.get("type").and_then(Value::as_str) == Some("Precompiled");
    match named || map.contains_key("precompiled_charsmap") {
        true => Err("a Precompiled normalizer is not read".into()),
        false => Ok(()),
    }
}

/// A `Strip` decoder that takes off the end: the crate subtracts without looking where a token is shorter.
fn check_strip(map: &Map<String, Value>) -> Result<(), String> {
    match map.get("stop") {
        None => Ok(()),
        Some(stop) if stop.as_u64() == Some(0) => Ok(()),
        Some(stop) => Err(format!(
            "a decoder that strips {stop} characters off the end is not read"
        )),
    }
}

/// Bytes of the longest key of an object, or of the longest pair of a list of pairs (`"a b"` or `["a", "b"]`); nothing of them
/// is kept.
#[derive(Default)]
struct Longest(usize);

impl<'de> Deserialize<'de> for Longest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LongestVisitor)
    }
}

struct LongestVisitor;

impl<'de> Visitor<'de> for LongestVisitor {
    type Value = Longest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary or a list of merges")
    }

    fn visit_unit<E>(self) -> Result<Longest, E> {
        Ok(Longest(0))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Longest, A::Error> {
        let mut longest = 0;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            map.next_value::<IgnoredAny>()?;
            longest = longest.max(key.len());
        }
        Ok(Longest(longest))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Longest, A::Error> {
        let mut longest = 0;
        while let Some(entry) = list.next_element::<Entry<'de>>()? {
            longest = longest.max(match entry {
                Entry::Joined(text) => text.len().saturating_sub(1),
                Entry::Pair(left, right) => left.len() + right.len(),
                Entry::Other(_) => 0,
            });
        }
        Ok(Longest(longest))
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Entry<'a> {
    Joined(#[serde(borrow)] Cow<'a, str>),
    Pair(#[serde(borrow)] Cow<'a, str>, #[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
}

#[cfg(test)]
mod tests {
    use super::{check_file, check_parts};

    /// Found by fuzzing: each made the `tokenizers` crate panic, on opening or on the first text.
    #[test]
    fn files_that_panic_upstream_are_refused() {
        for (file, why) in [
            (
                r#"{"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}],
                    "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}}"#,
                "the post-processor's template names the token `</s>` and does not define it",
            ),
            (
                r#"{"model": {"vocab": {"a": 0, "bb": 1}, "merges": [["a", "bb"]]}}"#,
                "a merge makes a token of 3 bytes, the longest token has 2",
            ),
            (
                r#"{"model": {"merges": ["a bb"], "vocab": {"a": 0, "bb": 1}}}"#,
                "a merge makes a token of 3 bytes, the longest token has 2",
            ),
            (
                r#"{"model": {"continuing_subword_prefix": "€", "vocab": {"a": 0, "é": 1}, "merges": [["a", "é"]]}}"#,
                "merges with a continuing_subword_prefix are not read",
            ),
            (
                r#"{"decoder": {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 0, "stop": 4}]}}"#,
                "a decoder that strips 4 characters off the end is not read",
            ),
            (
                r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}"#,
                "a Precompiled normalizer is not read",
            ),
            (
                r#"{"normalizer": {"type": "Precompiled", "precompiled_charsma0": "AAAA"}}"#,
                "a Precompiled normalizer is not read",
            ),
        ] {
            assert_eq!(check_parts(file.as_bytes()), Err(why.to_owned()));
            assert!(check_file(file.as_bytes()).is_err());
        }
        let sound = r#"{"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "continuing_subword_prefix": ""}}"#;
        assert_eq!(check_file(sound.as_bytes()), Ok(()));
    }
}
