//! Text to ids and back, as `AutoTokenizer` of transformers 5.23 does it.
//!
//! The ids come from the `tokenizers` crate, which is also what Python runs. What is ours is which files make the
//! tokenizer, and how (see `build`): transformers rebuilds the pipeline of some classes instead of taking it from
//! `tokenizer.json`, and the ids must be those that the Python stack would train on.

mod build;
mod checks;
mod files;
mod names;
mod patterns;
mod stream;

use std::path::{Path, PathBuf};

use durable::StagedFolder;

use crate::DataError;

pub use stream::TextStream;

/// Ids at or above this are refused, as an embedding of that many rows would be.
pub const MAX_TOKEN_ID: u32 = 1 << 24;
/// The largest tokenizer file that is read.
pub const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// The named special tokens, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<String>,
    /// Ends a sequence.
    pub eos: Option<String>,
    /// Fills up a batch.
    pub pad: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
}

/// A tokenizer folder, opened.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    folder: PathBuf,
    special: SpecialTokens,
    stream: stream::Kind,
    class: build::Class,
    saved: Vec<String>,
    fingerprint: String,
}

impl Tokenizer {
    /// Opens a model or tokenizer folder: `tokenizer.json`, or `vocab.json` with `merges.txt`, and beside them what is there
    /// of `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `config.json`.
    ///
    /// # Errors
    /// [`DataError::NoTokenizer`], [`DataError::TokenizerFile`] or [`DataError::File`].
    pub fn from_pretrained(folder: impl AsRef<Path>) -> Result<Self, DataError> {
        Self::of(&files::Files::read(folder.as_ref())?)
    }

    fn of(files: &files::Files) -> Result<Self, DataError> {
        let built = build::build(files)?;
        let stream = stream::Kind::of(&built.inner);
        Ok(Self {
            inner: built.inner,
            folder: files.folder.clone(),
            special: built.special,
            stream,
            class: built.class,
            saved: files.saved(),
            fingerprint: files.fingerprint(),
        })
    }

    /// A tokenizer of one `tokenizer.json` in memory, for fuzzing.
    pub(crate) fn of_file(bytes: &[u8]) -> Result<Self, DataError> {
        Self::of(&files::Files::of_tokenizer(bytes.to_vec()))
    }

    /// Ids of `text`, as `tokenizer(text, add_special_tokens=…)["input_ids"]`.
    ///
    /// # Errors
    /// [`DataError::Encode`], for a text that the vocabulary cannot express.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, DataError> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        let encoding = encoding.map_err(|error| failed(text.len(), error.as_ref()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`. An id that the tokenizer does not know (padded embeddings have some) gives no text.
    ///
    /// # Errors
    /// [`DataError::Encode`], where the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, DataError> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|error| failed(ids.len(), error.as_ref()))
    }

    /// A decoder that takes ids one by one and gives text as soon as it is certain.
    pub fn stream(&self, skip_special_tokens: bool) -> TextStream<'_> {
        TextStream::new(self, skip_special_tokens)
    }

    /// The token of an id, as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token, as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The named special tokens.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The end-of-sequence token.
    pub fn eos_token(&self) -> Option<&str> {
        self.special.eos.as_deref()
    }

    /// Its id.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.token_to_id(self.eos_token()?)
    }

    /// The beginning-of-sequence token.
    pub fn bos_token(&self) -> Option<&str> {
        self.special.bos.as_deref()
    }

    /// Its id.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.token_to_id(self.bos_token()?)
    }

    /// The padding token.
    pub fn pad_token(&self) -> Option<&str> {
        self.special.pad.as_deref()
    }

    /// Its id.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.token_to_id(self.pad_token()?)
    }

    /// The number of ids, added tokens included; a model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The Python class whose way of building was followed.
    pub fn class_name(&self) -> &'static str {
        self.class.name()
    }

    /// The folder that it was opened from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// SHA-256 (hex) over all that decides ids: the tokenizer's files, and from `config.json` what is used of it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Copies the tokenizer's files, byte for byte, into a folder that is being written.
    ///
    /// # Errors
    /// [`DataError::File`], naming the file that could not be copied.
    pub fn save_pretrained(&self, into: &mut StagedFolder) -> Result<(), DataError> {
        for name in &self.saved {
            let path = self.folder.join(name);
            into.copy_in(name, &path)
                .map_err(|source| DataError::File { path, source })?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("folder", &self.folder)
            .field("class", &self.class.name())
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

fn failed(len: usize, error: &(dyn std::error::Error + Send + Sync)) -> DataError {
    DataError::Encode {
        len,
        why: error.to_string(),
    }
}
