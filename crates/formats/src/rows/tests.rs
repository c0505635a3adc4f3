#![allow(clippy::disallowed_methods, reason = "tests make their files themselves")]
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Rows, RowsError};

fn file(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary folder can be written");
    path
}

fn open(name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<Value>, String> {
    let folder = TempDir::new().expect("a temporary folder");
    let path = file(&folder, name, bytes);
    let rows = Rows::open(&path, None).map_err(|error| message(&error, folder.path()))?;
    (0..rows.len())
        .map(|index| {
            rows.row(index)
                .map(Value::Object)
                .map_err(|e| e.to_string())
        })
        .collect()
}

fn message(error: &RowsError, folder: &Path) -> String {
    error
        .to_string()
        .replace(&format!("{}/", folder.display()), "")
}

fn shared(relative: &str) -> Option<PathBuf> {
    let found = testkit::shared_inputs().map(|inputs| inputs.join("data").join(relative));
    if found.is_none() {
        eprintln!("skipped: no shared inputs");
    }
    found
}

#[test]
fn real_arrow_folders_give_their_rows() {
    for (folder, len, columns) in [
        (
            "alpaca_zh_demo_1k",
            1000,
            vec!["output", "input", "instruction"],
        ),
        (
            "carbonz0_zh_20k",
            20_465,
            vec!["output", "input", "instruction"],
        ),
        (
            "c3/validation",
            3816,
            vec!["id", "context", "question", "choice", "answer"],
        ),
        (
            "ner_data/validation",
            2319,
            vec!["id", "tokens", "ner_tags"],
        ),
    ] {
        let Some(path) = shared(folder) else { return };
        let rows = Rows::open(&path, None).unwrap_or_else(|error| panic!("{folder}: {error}"));
        assert_eq!(
            (rows.len(), rows.columns().to_vec()),
            (len, columns.iter().map(ToString::to_string).collect())
        );
        for index in 0..rows.len() {
            rows.row(index)
                .unwrap_or_else(|error| panic!("{folder}: {error}"));
        }
    }
}
