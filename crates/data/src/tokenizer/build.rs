//! Which Python class `AutoTokenizer` of transformers 5.23 would take, and what that class makes of the files.
//!
//! Followed: `AutoTokenizer.from_pretrained`, `PreTrainedTokenizerBase._from_pretrained`,
//! `TokenizersBackend.{convert_to_native_format, __init__}` and the classes of the five families. Three of them drop
//! normalizer, pre-tokenizer and decoder of `tokenizer.json` and set their own, so that a model that declares one of them
//! and ships another pipeline (SmolLM2 does) is tokenised differently from its own file: by Python, and so here.

use serde_json::{Map, Value};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NFC, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer,
};

use super::files::Files;
use super::{MAX_TOKEN_ID, SpecialTokens, checks};
use crate::DataError;

/// `tokenization_qwen2.py`.
pub(super) const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The classes that matter here; every other one takes `tokenizer.json` as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Backend,
    Gpt2,
    Llama,
    Qwen2,
}

pub(super) struct Built {
    pub(super) inner: Tokenizer,
    pub(super) special: SpecialTokens,
    pub(super) class: Class,
}

pub(super) fn build(files: &Files) -> Result<Built, DataError> {
    let refused = |why: String| DataError::TokenizerFile {
        path: files.main_path(),
        why,
    };
    let mut class = Class::of(files);
    let names = Names::read(files, class);
    let mut inner = match (&files.tokenizer, &files.vocab_and_merges) {
        (Some(bytes), _) => {
            checks::check_file(bytes).map_err(refused)?;
            Tokenizer::from_bytes(bytes).map_err(|error| refused(error.to_string()))?
        }
        (None, Some((vocab, merges))) => {
            if class == Class::Backend {
                class = Class::Gpt2; // only its files have these names
            }
            Tokenizer::new(model_of(vocab, merges).map_err(refused)?)
        }
        (None, None) => return Err(refused("no vocabulary".into())),
    };
    check_ids(&inner).map_err(refused)?;
    inner = class.rebuild(inner, &files.config).map_err(refused)?;
    names.add_to(&mut inner, class).map_err(refused)?;
    inner.with_padding(None);
    inner
        .with_truncation(None)
        .map_err(|error| refused(error.to_string()))?;
    inner.set_encode_special_tokens(flag(&files.config, "split_special_tokens").unwrap_or(false));
    let special = names.texts(&inner, &files.model_config);
    finish_processor(&mut inner, files, &special).map_err(refused)?;
    Ok(Built {
        inner,
        special,
        class,
    })
}

impl Class {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Backend => "TokenizersBackend",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::Llama => "LlamaTokenizer",
            Self::Qwen2 => "Qwen2Tokenizer",
        }
    }

    fn named(name: &str) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "GPT2Tokenizer" => Self::Gpt2,
            "LlamaTokenizer" => Self::Llama,
            "Qwen2Tokenizer" => Self::Qwen2,
            _ => Self::Backend,
        }
    }

    /// `TOKENIZER_MAPPING_NAMES`, for the model types that are trained here and their near relatives.
    fn registered(model_type: &str) -> Option<&'static str> {
        match model_type {
            "gpt2" | "gpt_neo" | "gptj" | "opt" | "phi" | "codegen" => Some("GPT2Tokenizer"),
            "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" | "qwen3_next" => Some("Qwen2Tokenizer"),
            "mistral" | "mixtral" => Some("TokenizersBackend"),
            _ => None,
        }
    }

    fn of(files: &Files) -> Self {
        let text = |map: &Map<String, Value>, key: &str| {
            map.get(key).and_then(Value::as_str).map(str::to_owned)
        };
        let model_type = text(&files.model_config, "model_type").unwrap_or_default();
        let registered = Self::registered(&model_type);
        let declared = text(&files.config, "tokenizer_class")
            .or_else(|| text(&files.model_config, "tokenizer_class"));
        let Some(declared) = declared else {
            return registered.map_or(Self::Backend, Self::named);
        };
        // MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS, of those above.
        let wrong_on_hub = model_type == "qwen2";
        let byte_level = || {
            files
                .tokenizer
                .as_deref()
                .is_some_and(|bytes| contains(bytes, b"\"ByteLevel\""))
        };
        if Self::named(&declared) == Self::Llama && !wrong_on_hub && byte_level() {
            return Self::Backend;
        }
        match registered {
            Some("TokenizersBackend") => Self::Backend,
            Some(registered) if wrong_on_hub => Self::named(registered),
            _ => Self::named(&declared),
        }
    }

    /// What `__init__` of the class makes of the vocabulary.
    fn rebuild(self, file: Tokenizer, config: &Map<String, Value>) -> Result<Tokenizer, String> {
        let bpe = match (self, file.get_model()) {
            (Self::Backend, _) => return Ok(file),
            (_, ModelWrapper::BPE(bpe)) => bpe.clone(),
            _ => return Ok(file), // a class of BPE over another model: Python fails here, the file itself is right
        };
        let mut inner = Tokenizer::new(self.model(bpe));
        let prefix_space = flag(config, "add_prefix_space");
        match self {
            Self::Backend => {}
            Self::Gpt2 => {
                inner.with_pre_tokenizer(Some(ByteLevel::new(
                    prefix_space.unwrap_or(false),
                    true,
                    true,
                )));
                inner.with_decoder(Some(ByteLevel::default()));
            }
            Self::Qwen2 => {
                let pattern = SplitPattern::Regex(QWEN2_PATTERN.into());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                    .map_err(|e| e.to_string())?;
                let bytes = ByteLevel::new(prefix_space.unwrap_or(false), true, false);
                let steps = vec![
                    PreTokenizerWrapper::Split(split),
                    PreTokenizerWrapper::ByteLevel(bytes),
                ];
                inner
                    .with_normalizer(Some(NormalizerWrapper::NFC(NFC)))
                    .map_err(|e| e.to_string())?;
                inner.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
                inner.with_decoder(Some(ByteLevel::default()));
            }
            Self::Llama => metaspace(
                &mut inner,
                prefix_space.unwrap_or(true),
                flag(config, "legacy").unwrap_or(false),
            )?,
        }
        inner.with_post_processor(file.get_post_processor().cloned());
        Ok(inner)
    }

    fn model(self, mut bpe: BPE) -> BPE {
        let llama = self == Self::Llama;
        bpe.dropout = None;
        bpe.unk_token = None;
        bpe.continuing_subword_prefix = None;
        bpe.end_of_word_suffix = None;
        bpe.ignore_merges = false;
        bpe.fuse_unk = llama;
        bpe.byte_fallback = llama;
        bpe
    }
}

fn metaspace(inner: &mut Tokenizer, prefix_space: bool, legacy: bool) -> Result<(), String> {
    let scheme = match (prefix_space, legacy) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    };
    inner.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
    let spaces = Replace::new("▁", " ").map_err(|error| error.to_string())?;
    let mut steps = vec![
        DecoderWrapper::Replace(spaces),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    if prefix_space {
        steps.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    inner.with_decoder(Some(Decoders::new(steps)));
    Ok(())
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

fn flag(config: &Map<String, Value>, key: &str) -> Option<bool> {
    config.get(key).and_then(Value::as_bool)
}

/// `vocab.json` and `merges.txt`, whose first line may be a `#version`.
fn model_of(vocab: &[u8], merges: &[u8]) -> Result<BPE, String> {
    let ids: std::collections::BTreeMap<String, u32> =
        serde_json::from_slice(vocab).map_err(|error| format!("vocab.json: {error}"))?;
    let text = std::str::from_utf8(merges).map_err(|error| format!("merges.txt: {error}"))?;
    let mut pairs: Merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || number == 0 && line.starts_with("#version") {
            continue;
        }
        let wrong = || format!("merges.txt line {} is not two tokens", number + 1);
        let (left, right) = line
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '))
            .ok_or_else(wrong)?;
        if !ids.contains_key(&format!("{left}{right}")) {
            return Err(format!(
                "merges.txt line {} makes a token that vocab.json lacks",
                number + 1
            ));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let vocab: Vocab = ids.into_iter().collect();
    BPE::builder()
        .vocab_and_merges(vocab, pairs)
        .build()
        .map_err(|error| error.to_string())
}

fn check_ids(inner: &Tokenizer) -> Result<(), String> {
    let vocab = inner.get_vocab(true);
    match vocab.into_iter().map(|(token, id)| (id, token)).max() {
        Some((id, token)) if id >= MAX_TOKEN_ID => Err(format!(
            "token `{token}` has the id {id}, the most is {}",
            MAX_TOKEN_ID - 1
        )),
        Some(_) => Ok(()),
        None => Err("the vocabulary is empty".into()),
    }
}

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
struct Names {
    named: Vec<(&'static str, Given)>,
    extra: Vec<Given>,
    decoder: Vec<(u32, AddedToken)>,
}

impl Names {
    fn read(files: &Files, class: Class) -> Self {
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
    fn add_to(&self, inner: &mut Tokenizer, class: Class) -> Result<(), String> {
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
    fn texts(&self, inner: &Tokenizer, model_config: &Map<String, Value>) -> SpecialTokens {
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

/// `update_post_processor`: where there is none, or flags are given beside slow files, a template of BOS and EOS. With
/// `tokenizer.json` transformers drops the flags, since the file's own post-processor decides.
fn finish_processor(
    inner: &mut Tokenizer,
    files: &Files,
    special: &SpecialTokens,
) -> Result<(), String> {
    if files.tokenizer.is_some() {
        return Ok(()); // none in the file means: no BOS, no EOS
    }
    let wanted = |key: &str, token: &Option<String>| {
        token
            .clone()
            .filter(|_| flag(&files.config, key) == Some(true))
    };
    let (bos, eos) = (
        wanted("add_bos_token", &special.bos),
        wanted("add_eos_token", &special.eos),
    );
    let mut pieces = vec!["$A:0".to_owned()];
    pieces.splice(0..0, bos.iter().map(|token| format!("{token}:0")));
    pieces.extend(eos.iter().map(|token| format!("{token}:0")));
    let ids: Vec<(String, u32)> = bos
        .into_iter()
        .chain(eos)
        .map(|token| {
            inner
                .token_to_id(&token)
                .map(|id| (token.clone(), id))
                .ok_or(format!("no token `{token}`"))
        })
        .collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(());
    }
    let mut template = TemplateProcessing::builder();
    template
        .try_single(pieces)
        .map_err(|error| error.to_string())?;
    let template = template
        .special_tokens(ids)
        .build()
        .map_err(|error| error.to_string())?;
    inner.with_post_processor(Some(template));
    Ok(())
}
