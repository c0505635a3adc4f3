//! Dataset rows: folders that `Dataset.save_to_disk` wrote, and JSON, JSON Lines and CSV files.
//!
//! Files stay mapped, so memory does not grow with the dataset; a row is turned into JSON values when it is asked for.
//! Nothing is reserved or trusted because a file claims it. What a template needs of the columns is not known here.

mod arrow;
mod arrow_file;
mod arrow_layout;
mod arrow_stream;
#[cfg(test)]
mod arrow_tests;
mod csv_file;
mod dictionaries;
mod error;
mod folder;
pub mod fuzzing;
mod json;
mod json_file;
mod starts;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use durable::Mapped;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use error::RowsError;

/// The largest row that is read, as it is written and as values.
pub const MAX_ROW_BYTES: usize = 16 << 20;

/// Most columns of a JSON or CSV file: each has its name here, and its place in every row.
const MAX_COLUMNS: usize = 10_000;

/// A row: column name to value, in the order of the columns.
pub type Row = Map<String, Value>;

/// The rows of one dataset (one split).
pub struct Rows {
    path: PathBuf,
    source: Source,
    columns: Vec<String>,
    unreadable: Vec<(String, String)>,
    fingerprint: OnceLock<String>,
}

enum Source {
    Arrow(arrow_file::ArrowRows),
    Json(json_file::JsonRows),
    Csv(csv_file::CsvRows),
}

/// What a file's name promises.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    JsonLines,
    Csv,
    Arrow,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match ending.as_str() {
            "json" => Self::Json,
            "jsonl" | "ndjson" => Self::JsonLines,
            "csv" => Self::Csv,
            "arrow" => Self::Arrow,
            _ => return None,
        })
    }
}

fn map(path: &Path) -> Result<Mapped, RowsError> {
    Mapped::open(path).map_err(|source| RowsError::File {
        path: path.to_owned(),
        source,
    })
}

impl Rows {
    /// Opens a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, or a `.json`, `.jsonl`,
    /// `.ndjson`, `.csv` or `.arrow` (stream) file.
    ///
    /// * `split`: needed for a `DatasetDict` with more than one split. A plain dataset has only its own name, a file only
    ///   `train`, as with `load_dataset`.
    ///
    /// # Errors
    /// [`RowsError`]; a JSON or CSV file is read through once here, so that a broken line is found before any work.
    pub fn open(path: impl AsRef<Path>, split: Option<&str>) -> Result<Self, RowsError> {
        let path = path.as_ref();
        if durable::is_dir(path) {
            return folder::open(path, split);
        }
        if let Some(asked) = split.filter(|&name| name != "train") {
            let splits = vec!["train".to_owned()];
            return Err(RowsError::NoSplit {
                path: path.to_owned(),
                asked: asked.to_owned(),
                splits,
            });
        }
        match Format::of(path) {
            Some(format) => Self::read(format, path, map(path)?),
            None => Err(folder::not_a_dataset(path)),
        }
    }

    /// Reads one file that is mapped already; `path` is for messages.
    fn read(format: Format, path: &Path, bytes: Mapped) -> Result<Self, RowsError> {
        let (source, columns) = match format {
            Format::Json | Format::JsonLines => {
                let lines = format == Format::JsonLines;
                let (rows, columns) = json_file::JsonRows::read(path, bytes, lines)?;
                (Source::Json(rows), columns)
            }
            Format::Csv => {
                let (rows, columns) = csv_file::CsvRows::read(path, bytes)?;
                (Source::Csv(rows), columns)
            }
            Format::Arrow => return Self::shards(path, vec![(path.to_owned(), bytes)]),
        };
        Ok(Self::new(path, source, columns))
    }

    fn new(path: &Path, source: Source, columns: Vec<String>) -> Self {
        let (path, unreadable, fingerprint) = (path.to_owned(), Vec::new(), OnceLock::new());
        Self {
            path,
            source,
            columns,
            unreadable,
            fingerprint,
        }
    }

    /// Arrow streams that follow each other.
    fn shards(path: &Path, files: Vec<(PathBuf, Mapped)>) -> Result<Self, RowsError> {
        let rows = arrow_file::ArrowRows::read(files)?;
        let (columns, unreadable) = (rows.columns(), rows.unreadable());
        let mut this = Self::new(path, Source::Arrow(rows), columns);
        this.unreadable = unreadable;
        Ok(this)
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Arrow(rows) => rows.len(),
            Source::Json(rows) => rows.len(),
            Source::Csv(rows) => rows.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the columns that every [`Rows::row`] holds.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Columns that are in the files but have no JSON value (images, dates …), with their Arrow type; rows leave them out.
    pub fn unreadable_columns(&self) -> &[(String, String)] {
        &self.unreadable
    }

    /// Row `index`, with every column; what is missing is null.
    ///
    /// Integers of any width, floats (not finite: null), booleans, text, lists and structs come as JSON values; a
    /// dictionary column as its value; a `ClassLabel` as its integer, as in `datasets`.
    ///
    /// # Errors
    /// [`RowsError`] when `index` is out of range or the bytes of that row are damaged.
    pub fn row(&self, index: usize) -> Result<Row, RowsError> {
        match &self.source {
            Source::Arrow(rows) => rows.row(index),
            Source::Json(rows) => rows.row(index, &self.columns),
            Source::Csv(rows) => rows.row(index, &self.columns),
        }
    }

    /// Where row `index` is written, for a message: `line 12`, or `row 3 of data-00001-of-00002.arrow`.
    pub fn place(&self, index: usize) -> String {
        match &self.source {
            Source::Arrow(rows) => rows.place(index),
            Source::Json(rows) => rows.place(index),
            Source::Csv(rows) => rows.place(index),
        }
    }

    /// SHA-256 (hex) over the bytes of the data files in their order, each preceded by its length.
    ///
    /// A row edited, added, removed or moved changes it; renaming or moving the files does not. It is not the
    /// `_fingerprint` of `datasets`, which names the steps that made a dataset rather than its content.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let mut hash = Sha256::new_with_prefix(b"lowrank rows 1\n");
            for bytes in self.data() {
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
            hash.finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        })
    }

    fn data(&self) -> Vec<&[u8]> {
        match &self.source {
            Source::Arrow(rows) => rows.bytes(),
            Source::Json(rows) => vec![rows.bytes()],
            Source::Csv(rows) => vec![rows.bytes()],
        }
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("path", &self.path)
            .field("len", &self.len())
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}
