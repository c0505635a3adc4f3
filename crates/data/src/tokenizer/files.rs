//! The files of a tokenizer folder, read under caps.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::MAX_TOKENIZER_BYTES;
use crate::DataError;

const TOKENIZER: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
const MODEL_CONFIG: &str = "config.json";
/// What `save_pretrained` copies besides the files that were read, so that Python finds its own files again.
const COMPANIONS: [&str; 2] = ["tokenizer.model", "chat_template.jinja"];

/// What decides ids and special tokens. Absent JSON files are empty maps.
pub(super) struct Files {
    pub(super) folder: PathBuf,
    pub(super) tokenizer: Option<Vec<u8>>,
    pub(super) vocab_and_merges: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) config: Map<String, Value>,
    pub(super) special: Map<String, Value>,
    pub(super) added: Map<String, Value>,
    pub(super) model_config: Map<String, Value>,
}

impl Files {
    pub(super) fn read(folder: &Path) -> Result<Self, DataError> {
        let read = |name: &str| read(&folder.join(name));
        let object = |name: &str| match read(name)? {
            None => Ok(Map::new()),
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| DataError::TokenizerFile {
                    path: folder.join(name),
                    why: format!("not a JSON object: {error}"),
                })
            }
        };
        let tokenizer = read(TOKENIZER)?;
        let vocab_and_merges = match tokenizer {
            Some(_) => None,
            None => read(VOCAB)?.zip(read(MERGES)?),
        };
        if tokenizer.is_none() && vocab_and_merges.is_none() {
            return Err(nothing(folder));
        }
        Ok(Self {
            folder: folder.to_owned(),
            tokenizer,
            vocab_and_merges,
            config: object(CONFIG)?,
            special: object(SPECIAL)?,
            added: object(ADDED)?,
            model_config: object(MODEL_CONFIG)?,
        })
    }

    /// One `tokenizer.json` and nothing beside it.
    pub(super) fn of_tokenizer(bytes: Vec<u8>) -> Self {
        Self {
            folder: PathBuf::new(),
            tokenizer: Some(bytes),
            vocab_and_merges: None,
            config: Map::new(),
            special: Map::new(),
            added: Map::new(),
            model_config: Map::new(),
        }
    }

    /// The file that a fault of the vocabulary is reported against.
    pub(super) fn main_path(&self) -> PathBuf {
        self.folder.join(if self.tokenizer.is_some() {
            TOKENIZER
        } else {
            VOCAB
        })
    }

    /// What a model or checkpoint folder takes along.
    pub(super) fn saved(&self) -> Vec<String> {
        let names = [TOKENIZER, VOCAB, MERGES, CONFIG, SPECIAL, ADDED]
            .into_iter()
            .chain(COMPANIONS);
        names
            .filter(|name| durable::is_file(self.folder.join(name)))
            .map(str::to_owned)
            .collect()
    }

    /// Of `config.json` only what is looked at here counts: a change of dropout is no change of ids.
    pub(super) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new_with_prefix(b"lowrank tokenizer 1\n");
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(self.tokenizer.as_deref().unwrap_or_default());
        let (vocab, merges) = self
            .vocab_and_merges
            .as_ref()
            .map_or((&[][..], &[][..]), |(v, m)| (v, m));
        add(vocab);
        add(merges);
        for map in [&self.config, &self.special, &self.added] {
            add(Value::Object(map.clone()).to_string().as_bytes());
        }
        for key in [
            "model_type",
            "tokenizer_class",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
        ] {
            add(self
                .model_config
                .get(key)
                .unwrap_or(&Value::Null)
                .to_string()
                .as_bytes());
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    if !durable::exists(path) {
        return Ok(None);
    }
    let bytes = durable::read_capped(path, MAX_TOKENIZER_BYTES);
    bytes.map(Some).map_err(|source| DataError::File {
        path: path.to_owned(),
        source,
    })
}

fn nothing(folder: &Path) -> DataError {
    let why = if !durable::is_dir(folder) {
        "there is no such folder".into()
    } else if durable::is_file(folder.join("tokenizer.model")) {
        format!("it has tokenizer.model (SentencePiece), which is not read, and no {TOKENIZER}")
    } else {
        format!("it has neither {TOKENIZER} nor {VOCAB} with {MERGES}")
    };
    DataError::NoTokenizer {
        path: folder.to_owned(),
        why,
    }
}
