//! The shape of a `tokenizer.json`, found by reading it once without keeping it: the `tokenizers` crate first makes a tree
//! of the whole file, several times its size, and only then finds what is wrong with it.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::tokenizer::MAX_TOKEN_ID;

/// What everything but vocabulary, merges and added tokens may take together; published files take some kilobytes.
const MAX_REST_BYTES: usize = 4 << 20;
/// What a value takes beside its text.
const VALUE_BYTES: usize = 64;
/// One text. A published token has some hundred bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;
const MODELS: [&str; 4] = ["BPE", "WordPiece", "WordLevel", "Unigram"];

/// Refuses what the crate would refuse after taking many times the file's memory: parts of another kind, an id that is too
/// large, a merge of tokens that are not in the vocabulary.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    check_strings(bytes)?;
    let hasher = RandomState::new();
    let mut vocab = Reading::new(&hasher);
    vocab.run(bytes)?;
    let mut tokens = std::mem::take(&mut vocab.tokens);
    if !vocab.has_merges {
        return Ok(());
    }
    tokens.sort_unstable();
    let mut merges = Reading::new(&hasher);
    merges.known = Some(&tokens);
    merges.run(bytes)
}

/// Refuses texts that a parser with escapes to undo would hold more than once.
fn check_strings(bytes: &[u8]) -> Result<(), String> {
    let (mut start, mut escaped) = (None, false);
    for (at, &byte) in bytes.iter().enumerate() {
        match (start, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(begin), b'"') if at - begin > MAX_TEXT_BYTES => {
                return Err(format!(
                    "a text of {} bytes at byte {begin}, the limit is {MAX_TEXT_BYTES}",
                    at - begin
                ));
            }
            (Some(_), b'"') => start = None,
            (None, b'"') => start = Some(at),
            _ => {}
        }
    }
    match start {
        Some(begin) => Err(format!("a text that does not end, at byte {begin}")),
        None => Ok(()),
    }
}

/// What is found while a file goes by. Tokens are kept as digests of eight bytes, less than they take in any file.
struct Reading<'h> {
    hasher: &'h RandomState,
    tokens: Vec<u64>,
    has_merges: bool,
    /// Sorted; merges are looked up in them, on a second reading, because they may come before the vocabulary.
    known: Option<&'h [u64]>,
    rest_bytes: usize,
}

impl<'h> Reading<'h> {
    fn new(hasher: &'h RandomState) -> Self {
        Self {
            hasher,
            tokens: Vec::new(),
            has_merges: false,
            known: None,
            rest_bytes: 0,
        }
    }

    fn run(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut parser = serde_json::Deserializer::from_slice(bytes);
        let read = File(self).deserialize(&mut parser);
        read.and_then(|()| parser.end())
            .map_err(|error| format!("not a tokenizer: {error}"))
    }

    fn token<E: Error>(&mut self, text: &str, id: u64) -> Result<(), E> {
        if id >= u64::from(MAX_TOKEN_ID) {
            return Err(E::custom(format_args!(
                "token `{text}` has the id {id}, the most is {}",
                MAX_TOKEN_ID - 1
            )));
        }
        if self.known.is_none() {
            self.tokens.push(self.hasher.hash_one(text));
        }
        Ok(())
    }

    fn merge<E: Error>(&mut self, left: &str, right: &str) -> Result<(), E> {
        self.has_merges = true;
        let Some(known) = self.known else {
            return Ok(());
        };
        let joined = format!("{left}{right}");
        for token in [left, right, &joined] {
            if known.binary_search(&self.hasher.hash_one(token)).is_err() {
                return Err(E::custom(format_args!(
                    "a merge of `{left}` and `{right}`: `{token}` is not in the vocabulary"
                )));
            }
        }
        Ok(())
    }

    fn spend<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.rest_bytes += bytes + VALUE_BYTES;
        if self.rest_bytes > MAX_REST_BYTES {
            return Err(E::custom(
                "more than 4 MiB beside vocabulary, merges and added tokens",
            ));
        }
        Ok(())
    }
}

/// The file: an object.
struct File<'r, 'h>(&'r mut Reading<'h>);

impl<'de> DeserializeSeed<'de> for File<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for File<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "model" => map.next_value_seed(Model(self.0))?,
                "added_tokens" => map.next_value_seed(AddedTokens)?,
                _ => {
                    self.0.spend(key.len())?;
                    map.next_value_seed(Small(self.0))?;
                }
            }
        }
        Ok(())
    }
}

/// The model: an object.
struct Model<'r, 'h>(&'r mut Reading<'h>);

impl<'de> DeserializeSeed<'de> for Model<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Model<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "vocab" => map.next_value_seed(Tokens(self.0))?,
                "merges" => map.next_value_seed(Merges(self.0))?,
                "type" => {
                    let name = map.next_value::<Cow<'de, str>>()?;
                    if !MODELS.contains(&&*name) {
                        let known = MODELS.join("`, `");
                        return Err(A::Error::custom(format_args!(
                            "a model of type `{name}`, not one of `{known}`"
                        )));
                    }
                }
                "dropout" => {
                    let dropout = map.next_value::<Option<f32>>()?.unwrap_or(0.0);
                    if !(0.0..=1.0).contains(&dropout) {
                        return Err(A::Error::custom(format_args!("dropout {dropout}")));
                    }
                }
                "unk_token" | "continuing_subword_prefix" | "end_of_word_suffix" => {
                    map.next_value::<Option<Cow<'de, str>>>().map(drop)?;
                }
                "fuse_unk" | "byte_fallback" | "ignore_merges" => {
                    map.next_value::<Option<bool>>().map(drop)?;
                }
                _ => {
                    self.0.spend(key.len())?;
                    map.next_value_seed(Small(self.0))?;
                }
            }
        }
        Ok(())
    }
}

/// A vocabulary: ids by token, or (of a `Unigram`) pairs of a token and its score.
struct Tokens<'r, 'h>(&'r mut Reading<'h>);

impl<'de> DeserializeSeed<'de> for Tokens<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tokens<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(token) = map.next_key::<Cow<'de, str>>()? {
            let id = map.next_value()?;
            self.0.token(&token, id)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut id = 0;
        while let Some((token, _)) = list.next_element::<(Cow<'de, str>, f64)>()? {
            self.0.token(&token, id)?;
            id += 1;
        }
        Ok(())
    }
}

/// Merges: `"a b"` or `["a", "b"]` each.
struct Merges<'r, 'h>(&'r mut Reading<'h>);

impl<'de> DeserializeSeed<'de> for Merges<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merges<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Merge(self.0))?.is_some() {}
        Ok(())
    }
}

struct Merge<'r, 'h>(&'r mut Reading<'h>);

impl<'de> DeserializeSeed<'de> for Merge<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two tokens")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match text.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => self.0.merge(left, right),
            _ => Err(E::custom(format_args!("a merge of two tokens: `{text}`"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let missing = || A::Error::custom("a merge of two tokens: one is missing");
        let left = list.next_element::<Cow<'de, str>>()?.ok_or_else(missing)?;
        let right = list.next_element::<Cow<'de, str>>()?.ok_or_else(missing)?;
        self.0.merge(&left, &right)?;
        match list.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::custom("a merge of two tokens: there are more")),
        }
    }
}

/// A list of them, each with every field that the crate wants.
struct AddedTokens;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct AddedToken<'a> {
    #[serde(rename = "id")]
    _id: u32,
    #[serde(rename = "content", borrow)]
    _content: Cow<'a, str>,
    #[serde(rename = "single_word")]
    _single_word: bool,
    #[serde(rename = "lstrip")]
    _lstrip: bool,
    #[serde(rename = "rstrip")]
    _rstrip: bool,
    #[serde(rename = "normalized")]
    _normalized: bool,
    #[serde(rename = "special")]
    _special: bool,
}

impl<'de> DeserializeSeed<'de> for AddedTokens {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AddedTokens {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of added tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<AddedToken<'de>>()?.is_some() {}
        Ok(())
    }
}

/// Any value, which counts.
struct Small<'r, 'h>(&'r mut Reading<'h>);

impl<'de> DeserializeSeed<'de> for Small<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Small<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.spend(0)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.0.spend(0)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.0.spend(0)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.0.spend(0)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.0.spend(0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.spend(text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.spend(0)?;
        while list.next_element_seed(Small(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.spend(0)?;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            self.0.spend(key.len())?;
            map.next_value_seed(Small(self.0))?;
        }
        Ok(())
    }
}
