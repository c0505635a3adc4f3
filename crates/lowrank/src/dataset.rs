//! `datasets.Dataset`, as far as fine-tuning needs it.

use std::path::Path;

use data::{EncodedDataset, Template, Tokenizer};
use formats::rows::{Row, Rows};

use crate::error::Result;

/// Rows with named columns, looked at in their files.
#[derive(Debug)]
pub struct Dataset {
    rows: Rows,
}

/// Rows as ids and labels, ready to be learnt.
pub struct TokenizedDataset {
    pub(crate) encoded: EncodedDataset,
    pub(crate) fingerprint: String,
}

impl Dataset {
    /// A folder that `Dataset.save_to_disk` wrote.
    ///
    /// # Errors
    /// A folder that is not one, or whose Arrow files are missing or broken.
    pub fn load_from_disk(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open(folder, None)
    }

    /// A `save_to_disk` folder (of a `DatasetDict`: with the `split` named), or a `.json`, `.jsonl`, `.ndjson`,
    /// `.csv` or `.arrow` file.
    ///
    /// # Errors
    /// What is neither, or is broken.
    pub fn open(path: impl AsRef<Path>, split: Option<&str>) -> Result<Self> {
        Ok(Self {
            rows: Rows::open(path, split)?,
        })
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Names of the columns.
    pub fn column_names(&self) -> &[String] {
        self.rows.columns()
    }

    /// One row, as a JSON object.
    ///
    /// # Errors
    /// A row that is broken in its file.
    pub fn row(&self, index: usize) -> Result<Row> {
        Ok(self.rows.row(index)?)
    }

    /// Renders and tokenises every row; what is longer than `max_length` tokens is cut from the right.
    ///
    /// # Errors
    /// A column that the template needs and the rows lack, or a row that cannot be rendered.
    pub fn tokenize(
        &self,
        template: &Template,
        tokenizer: &Tokenizer,
        max_length: usize,
    ) -> Result<TokenizedDataset> {
        self.tokenize_cached(template, tokenizer, max_length, None, &|_, _| {})
    }

    /// The same, kept in `cache` so that it is not repeated while nothing changes; `progress` hears of (done, total).
    ///
    /// # Errors
    /// As [`Dataset::tokenize`].
    pub fn tokenize_cached(
        &self,
        template: &Template,
        tokenizer: &Tokenizer,
        max_length: usize,
        cache: Option<&Path>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<TokenizedDataset> {
        let encoded =
            EncodedDataset::build(&self.rows, template, tokenizer, max_length, cache, progress)?;
        Ok(TokenizedDataset {
            encoded,
            fingerprint: data::encoded::fingerprint(&self.rows, template, tokenizer, max_length),
        })
    }
}

impl TokenizedDataset {
    /// Rows.
    pub fn len(&self) -> usize {
        self.encoded.len()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Ids and labels of one row.
    ///
    /// # Panics
    /// As slices do, where `index` is out of range.
    pub fn get(&self, index: usize) -> data::Example {
        self.encoded.get(index)
    }

    /// Nothing is learnt from rows of which every token is masked.
    pub(crate) fn refuse_unlabelled(&self) -> Result<()> {
        if self.is_empty() || self.report().label_tokens > 0 {
            return Ok(());
        }
        let rows = self.len();
        Err(train::TrainError::NothingLabelled { rows }.into())
    }

    /// What was cut, how long rows are, how many have nothing to learn.
    pub fn report(&self) -> &data::Report {
        self.encoded.report()
    }
}
