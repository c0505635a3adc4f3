//! What can be wrong with a dataset on disk.

use std::path::PathBuf;

use durable::DurableError;

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The file or folder could not be opened.
    #[error("dataset `{}` cannot be opened", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: DurableError,
    },
    /// The path holds nothing that is read as rows.
    #[error("`{}` is not a dataset: {why}", .path.display())]
    NotADataset {
        /// The path as given.
        path: PathBuf,
        /// What was looked for, or found instead.
        why: String,
    },
    /// A `DatasetDict` with several splits, and none was named.
    #[error("`{}` holds several splits and none was named: {}", .path.display(), .splits.join(", "))]
    SplitNeeded {
        /// The folder.
        path: PathBuf,
        /// What can be named.
        splits: Vec<String>,
    },
    /// The named split is not there.
    #[error("`{}` has no split `{asked}`, it has: {}", .path.display(), names(.splits))]
    NoSplit {
        /// The folder or file.
        path: PathBuf,
        /// The split asked for.
        asked: String,
        /// What can be named.
        splits: Vec<String>,
    },
    /// `state.json` or `dataset_dict.json` is not what `datasets` writes.
    #[error("`{}` is not what `datasets` writes: {why}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
    /// A data file that `state.json` lists is missing.
    #[error("`{}` lists the data file `{file}`, which is not beside it", .state.display())]
    MissingShard {
        /// The `state.json`.
        state: PathBuf,
        /// The file that it names.
        file: String,
    },
    /// An Arrow file is damaged, cut, or of a kind that is not read.
    #[error("`{}` at byte {offset}: {what}", .path.display())]
    Arrow {
        /// The Arrow file.
        path: PathBuf,
        /// Where in it.
        offset: usize,
        /// What is wrong.
        what: String,
    },
    /// A JSON file breaks off, or holds something that is not a row.
    #[error("`{}` line {line}, column {column} (byte {offset}): {what}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
        /// Where in the file.
        offset: usize,
        /// What is wrong.
        what: String,
    },
    /// A CSV file has a record that does not fit its header.
    #[error("`{}` line {line} (byte {offset}): {what}", .path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Where in the file.
        offset: usize,
        /// What is wrong.
        what: String,
    },
    /// A CSV file in another encoding.
    #[error("`{}` line {line} (byte {offset}): cell {cell} is not valid UTF-8", .path.display())]
    CsvNotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Where in the file.
        offset: usize,
        /// Cell of that line, from 0.
        cell: usize,
    },
    /// A CSV file whose header has no comma, but another delimiter.
    #[error("`{}` line 1: the header names one column, with {found:?} in it", .path.display())]
    CsvDelimiter {
        /// The file.
        path: PathBuf,
        /// The other delimiter.
        found: char,
    },
    /// One row is larger than is ever sensible.
    #[error("`{}` {place}: the row is larger than {} MiB, as it is written or as values", .path.display(), super::MAX_ROW_BYTES >> 20)]
    RowTooLarge {
        /// The file.
        path: PathBuf,
        /// Line or row in it.
        place: String,
    },
    /// A row that does not exist was asked for.
    #[error("row {index} was asked for, there are: {len}")]
    NoRow {
        /// The row asked for.
        index: usize,
        /// How many there are.
        len: usize,
    },
}

fn names(splits: &[String]) -> String {
    if splits.is_empty() {
        "none".into()
    } else {
        splits.join(", ")
    }
}

impl RowsError {
    /// How to mend it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File { .. } => "check the path and its permissions".into(),
            Self::NotADataset { .. } => {
                "give a folder that `Dataset.save_to_disk` wrote, or a .json, .jsonl, .ndjson, .csv or .arrow file"
                    .into()
            }
            Self::SplitNeeded { splits, .. } => {
                let example = splits.first().map_or("train", String::as_str);
                format!("name one, for example `{example}`")
            }
            Self::NoSplit { splits, .. } if splits.is_empty() => "name no split".into(),
            Self::NoSplit { .. } => "name one of those".into(),
            Self::State { .. } => "save the dataset again with `Dataset.save_to_disk`".into(),
            Self::MissingShard { file, .. } => format!(
                "copy `{file}` beside `state.json` (large files are often left out of a download), \
                 or save the dataset again with `Dataset.save_to_disk`"
            ),
            Self::Arrow { .. } => {
                "copy the file again, or save the dataset again with `Dataset.save_to_disk`".into()
            }
            Self::Json { .. } => {
                "mend that line; the file must be one JSON array of objects, or one object per line"
                    .into()
            }
            Self::Csv { .. } => {
                "mend that line; text with commas, quotes or line breaks goes in double quotes"
                    .into()
            }
            Self::CsvNotUtf8 { .. } => "save the file as UTF-8".into(),
            Self::CsvDelimiter { .. } => "save the file with commas between its cells".into(),
            Self::RowTooLarge { .. } => "split or drop that row".into(),
            Self::NoRow { .. } => return None,
        })
    }
}
