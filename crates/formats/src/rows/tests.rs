#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests make their own files and say why they skip"
)]

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

#[test]
fn json_array_and_lines_give_the_same_rows() {
    let want = vec![
        json!({"a": "x\u{0}", "b": null}),
        json!({"a": "é😀", "b": [1, 2.5]}),
    ];
    let array =
        "\u{feff}[ {\"a\": \"x\\u0000\"},\r\n {\"a\": \"é\\ud83d\\ude00\", \"b\": [1, 2.5]} ]\r\n";
    let lines =
        "\u{feff}{\"a\": \"x\\u0000\"}\r\n\r\n{\"a\": \"é\\ud83d\\ude00\", \"b\": [1, 2.5]}";
    assert_eq!(open("rows.json", array), Ok(want.clone()));
    assert_eq!(open("rows.jsonl", lines), Ok(want.clone()));
    assert_eq!(open("rows.json", lines), Ok(want));
}

/// One line per input: its head, and what was said of it.
fn said(cases: &[(&str, &[u8])]) -> String {
    let line = |(name, bytes): &(&str, &[u8])| {
        let head: String = String::from_utf8_lossy(bytes).chars().take(40).collect();
        match open(name, bytes) {
            Ok(rows) => format!("{head:?}\n    {} rows\n", rows.len()),
            Err(message) => format!("{head:?}\n    {message}\n"),
        }
    };
    cases.iter().map(line).collect()
}

#[test]
fn broken_json_is_refused_with_its_line() {
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(super::MAX_ROW_BYTES));
    let array = format!("[{long}]");
    let deep = format!("[{{\"a\": {}1{}}}]", "[".repeat(70), "]".repeat(70));
    let deepest = format!("[{{\"a\": {}", "[".repeat(100_000));
    let cases: &[(&str, &[u8])] = &[
        ("a.json", b""),
        ("a.json", b"[\n{\"a\": \"x\"},\n]"),
        ("a.json", b"[{\"a\": 1},\n{\"a\": "),
        ("a.json", b"[{\"a\": \"x"),
        ("a.json", b"[{\"a\": 1}"),
        ("a.json", b"[{\"a\": 1} {"),
        ("a.json", b"[{\"a\": 1, \"a\": 2}]"),
        ("a.json", b"[{\"a\": \"\\ud800\"}]"),
        ("a.json", b"[{\"a\": 1e400}]"),
        ("a.json", b"[{\"a\": 01}]"),
        ("a.json", b"[{\"a\": NaN}]"),
        ("a.json", b"[{\"a\": \"\0\"}]"),
        ("a.json", b"[\n{\"a\": \"\xe4\xb8\"}]"),
        ("a.json", deep.as_bytes()),
        ("a.json", deepest.as_bytes()),
        ("a.json", b"[{\"a\": 1}, {\"a\": \"x\"}]"),
        ("a.json", b"[{\"a\": 1}, 7]"),
        ("a.json", b"[] x"),
        ("a.json", b"\"x\""),
        ("a.json", b"{\n \"a\": 1\n}"),
        ("a.jsonl", b"{\"a\": 1}\n[2]"),
        ("a.jsonl", b"[{\"a\": 1}]"),
        ("a.jsonl", b"{\"a\": 1} {\"a\": 2}"),
        ("a.jsonl", long.as_bytes()),
        ("a.json", array.as_bytes()),
        ("a.parquet", b"PAR1"),
        ("a.arrow", b""),
        ("a.arrow", b"version https://git-lfs.github.com/spec/v1\n"),
    ];
    insta::assert_snapshot!(said(cases));
}

#[test]
fn csv_cells_are_text_as_written() {
    let text = "\u{feff}a,,b\r\n\r\n007,\"x, \"\"y\"\"\",\r\n\n\"two\nlines\",NA,é\r\n";
    let want = vec![
        json!({"a": "007", "Unnamed: 1": "x, \"y\"", "b": ""}),
        json!({"a": "two\nlines", "Unnamed: 1": "NA", "b": "é"}),
    ];
    assert_eq!(open("rows.csv", text), Ok(want));
    assert_eq!(
        open("rows.csv", "a\nit \"is\" 5\" long"),
        Ok(vec![json!({"a": "it \"is\" 5\" long"})])
    );
    // In quotes it is a name, not cells with another delimiter.
    for bom in ["", "\u{feff}"] {
        let text = format!("{bom}\"question; short\"\nwhy\n");
        let want = vec![json!({"question; short": "why"})];
        assert_eq!(open("rows.csv", text), Ok(want));
    }
}

#[test]
fn broken_csv_is_refused_with_its_line() {
    insta::assert_snapshot!(said(&[
        ("a.csv", b""),
        ("a.csv", b"a,b\n1,2\n\n1,2,3\n"),
        ("a.csv", b"a,b\n1\n"),
        ("a.csv", b"a,a\n1,2\n"),
        ("a.csv", b"a,b\n1,2\n3,\"open\n5,6\n"),
        ("a.csv", b"a\n\xff\n"),
    ]));
}

#[test]
fn what_is_wrong_with_a_folder_is_said_with_how_to_mend_it() {
    let folder = TempDir::new().expect("a temporary folder");
    let root = folder.path();
    let put = |name: &str, text: &str| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent"))
            .expect("a temporary folder can be written");
        std::fs::write(path, text).expect("a temporary folder can be written");
    };
    put("loose/a.json", "[]");
    put(
        "missing/state.json",
        r#"{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}"#,
    );
    put(
        "outside/state.json",
        r#"{"_data_files": [{"filename": "../secret.arrow"}]}"#,
    );
    put("broken/state.json", r#"{"_data_files": "#);
    put("odd/state.json", r#"{"_data_files": 7}"#);
    put(
        "plain/state.json",
        r#"{"_data_files": [], "_split": "train"}"#,
    );
    put("dict/dataset_dict.json", r#"{"splits": ["train", "test"]}"#);
    put(
        "dict/test/state.json",
        r#"{"_data_files": [], "_split": "test"}"#,
    );
    put("one/dataset_dict.json", r#"{"splits": ["only"]}"#);
    put("one/only/state.json", r#"{"_data_files": []}"#);
    put("none/dataset_dict.json", r#"{"splits": []}"#);
    put("climbing/dataset_dict.json", r#"{"splits": [".."]}"#);
    put("a.json", "[]");
    let cases = [
        ("absent", None),
        ("loose", None),
        ("missing", None),
        ("outside", None),
        ("broken", None),
        ("odd", None),
        ("plain", Some("train")),
        ("plain", Some("test")),
        ("dict", None),
        ("dict", Some("train")),
        ("dict", Some("test")),
        ("dict", Some("validation")),
        ("one", None),
        ("none", None),
        ("climbing", None),
        ("a.json", Some("test")),
    ];
    let said = |&(name, split): &(&str, Option<&str>)| match Rows::open(root.join(name), split) {
        Ok(rows) => format!("{name} {split:?}\n    {} rows\n", rows.len()),
        Err(error) => {
            let hint = error.hint().expect("a refusal says how to mend it");
            format!(
                "{name} {split:?}\n    {}\n    {hint}\n",
                message(&error, root)
            )
        }
    };
    insta::assert_snapshot!(cases.iter().map(said).collect::<String>());
}

#[test]
fn real_bad_inputs_are_refused_by_name() {
    let Some(missing) = shared("alpaca_data_zh-metadata-only") else {
        return;
    };
    let error = Rows::open(&missing, None).expect_err("its data file is missing");
    assert!(
        matches!(&error, RowsError::MissingShard { file, .. } if file == "data-00000-of-00001.arrow"),
        "{error}"
    );
    let Some(cut) = shared("bad/truncated_array.json") else {
        return;
    };
    let error = Rows::open(&cut, None).expect_err("it breaks off");
    assert!(
        matches!(error, RowsError::Json { line: 14007, .. }),
        "{error}"
    );
}

#[test]
fn real_json_files_give_their_rows() {
    for (name, len, columns) in [
        (
            "alpaca_zh_demo.json",
            1000,
            vec!["instruction", "input", "output"],
        ),
        (
            "alpaca_en_demo.json",
            999,
            vec!["instruction", "input", "output"],
        ),
        ("identity.json", 91, vec!["instruction", "input", "output"]),
        (
            "dpo_zh_demo.json",
            300,
            vec!["conversations", "chosen", "rejected"],
        ),
    ] {
        let Some(path) = shared(&format!("alpaca_zh_demo/{name}")) else {
            return;
        };
        let rows = Rows::open(&path, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (rows.len(), rows.columns().to_vec()),
            (len, columns.iter().map(ToString::to_string).collect())
        );
        let bytes = std::fs::read(&path).expect("a shared input reads");
        let whole: Vec<Value> =
            serde_json::from_slice(&bytes).expect("a shared input is valid JSON");
        let read: Vec<Value> = (0..len)
            .map(|at| Value::Object(rows.row(at).expect("a row reads")))
            .collect();
        assert_eq!(read, whole);
    }
}
