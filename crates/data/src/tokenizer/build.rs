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
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    Tokenizer,
};

use super::files::Files;
use super::names::Names;
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

pub(super) fn flag(config: &Map<String, Value>, key: &str) -> Option<bool> {
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

pub(super) fn check_ids(inner: &Tokenizer) -> Result<(), String> {
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
