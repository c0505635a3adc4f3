//! A byte-level BPE tokenizer in BLOOM's shape.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// Rows of the embedding; the tokenizer may need fewer.
pub(super) const VOCABULARY: usize = 1024;
const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];
/// BLOOM's own words.
const WORDS: &str = " ?[^(\\s|[.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{0964}\u{06d4}\u{060c}])]+";

/// Trains it on `texts` and writes its files.
pub(super) fn write(texts: Vec<String>, folder: &Path) -> Result<()> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    let split = Split::new(
        SplitPattern::Regex(WORDS.into()),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .map_err(|error| anyhow!(error))?;
    let bytes = ByteLevel::new(false, true, false);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
    tokenizer.with_post_processor(Some(ByteLevel::new(true, false, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    let special = SPECIAL.map(|token| AddedToken::from(token, true)).to_vec();
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), texts.into_iter())
        .map_err(|error| anyhow!(error))?;
    ensure!(
        tokenizer.get_vocab_size(true) <= VOCABULARY,
        "a larger vocabulary than was asked for"
    );
    tokenizer
        .save(folder.join("tokenizer.json"), false)
        .map_err(|error| anyhow!(error))?;
    let map = json!({ "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>" });
    let mut config = map.clone();
    config["add_prefix_space"] = json!(false);
    config["clean_up_tokenization_spaces"] = json!(false);
    config["tokenizer_class"] = json!("BloomTokenizerFast");
    std::fs::write(
        folder.join("special_tokens_map.json"),
        serde_json::to_string_pretty(&map)? + "\n",
    )?;
    std::fs::write(
        folder.join("tokenizer_config.json"),
        serde_json::to_string_pretty(&config)? + "\n",
    )?;
    Ok(())
}
