//! What can go wrong between a dataset row and its labels.

use std::path::PathBuf;

use durable::DurableError;
use formats::RowsError;

/// Why text could not be turned into ids and labels.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The dataset could not be read.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A file of the tokenizer, or the cache, could not be reached.
    #[error("`{}` cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: DurableError,
    },
    /// The folder has no tokenizer of a kind that is read.
    #[error("no tokenizer in `{}`: {why}", .path.display())]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
        /// What was looked for, or found instead.
        why: String,
    },
    /// A tokenizer file is not what it should be.
    #[error("tokenizer file `{}` is refused: {why}", .path.display())]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
    /// The tokenizer could not encode or decode.
    #[error("tokenizer failed on a text of {len} bytes: {why}")]
    Encode {
        /// Length of the text.
        len: usize,
        /// What it said.
        why: String,
    },
    /// The default template ends each response with the end-of-sequence token, and there is none.
    #[error("tokenizer in `{}` names no eos_token", .path.display())]
    NoEos {
        /// The folder.
        path: PathBuf,
    },
    /// The template needs columns that the dataset lacks.
    #[error("{template} needs the columns {}, the dataset has: {}", list(.missing), list(.columns))]
    MissingColumns {
        /// Which template.
        template: String,
        /// What it needs and is not there.
        missing: Vec<String>,
        /// What is there, unreadable columns with their type.
        columns: Vec<String>,
    },
    /// A cell that should be text is something else.
    #[error("column `{column}` is {found}, the template needs text")]
    NotText {
        /// The column.
        column: String,
        /// What it is.
        found: String,
    },
    /// A template is not valid Jinja, or too large.
    #[error("{template} is refused{}: {why}", in_line(.line))]
    TemplateSyntax {
        /// Which template.
        template: String,
        /// Line in it, from 1.
        line: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// A template failed while it rendered a row.
    #[error("{template} failed{}: {why}", in_line(.line))]
    TemplateRender {
        /// Which template.
        template: String,
        /// Line in it, from 1.
        line: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// What went wrong with one row.
    #[error("row {index} ({place}): {source}")]
    Row {
        /// The row, from 0.
        index: usize,
        /// Where it is written.
        place: String,
        /// What went wrong.
        source: Box<DataError>,
    },
    /// `max_length` leaves no room.
    #[error("max_length must be at least 1, it is: {0}")]
    MaxLength(usize),
    /// More rows than an order can hold.
    #[error("{0} rows are too many, the most is: {max}", max = u32::MAX)]
    TooManyRows(usize),
}

fn list(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    if quoted.is_empty() {
        "none".into()
    } else {
        quoted.join(", ")
    }
}

fn in_line(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(" in line {line}"))
}

impl DataError {
    /// How to mend it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Rows(error) => return error.hint(),
            Self::Row { source, .. } => return source.hint(),
            Self::File { source, .. } => return source.hint(),
            Self::NoTokenizer { .. } => "give a folder with tokenizer.json; Python makes one with \
                 `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
                .into(),
            Self::TokenizerFile { .. } => "copy the tokenizer files of the model again".into(),
            Self::Encode { .. } => return None,
            Self::NoEos { .. } => {
                "name `eos_token` in tokenizer_config.json, or `eos_token_id` in config.json".into()
            }
            Self::MissingColumns { .. } => {
                "rename the columns of the dataset, or give a template that uses its names".into()
            }
            Self::NotText { .. } => "mend or drop that row, or convert the column to text".into(),
            Self::TemplateSyntax { .. } => {
                "mend the template; it is Jinja, as chat templates are".into()
            }
            Self::TemplateRender { .. } => "mend the template, or the row".into(),
            Self::MaxLength(_) => "256 suits short instructions".into(),
            Self::TooManyRows(_) => "train on a part of the dataset".into(),
        })
    }
}
