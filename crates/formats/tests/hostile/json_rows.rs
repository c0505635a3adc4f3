//! Row 55: rows as JSON and JSON Lines that no writer makes.

use std::io::Write;
use std::path::Path;

use lowrank_formats::Rows;
use tempfile::TempDir;
use testkit::Hostile;

use crate::{shortened, told_of_rows};

/// Opens a file and reads every row of it.
fn read(path: &Path, root: &Path) -> Result<Vec<String>, String> {
    let told = |error| told_of_rows(&error, root);
    let rows = Rows::open(path, None).map_err(told)?;
    let text = |at| {
        rows.row(at)
            .map(|row| serde_json::Value::Object(row).to_string())
    };
    (0..rows.len().min(4))
        .map(text)
        .collect::<Result<_, _>>()
        .map_err(told)
}

/// A name, the file's name, its bytes.
type Input = (&'static str, &'static str, Vec<u8>);

fn values() -> Vec<Input> {
    let deep = |depth: usize| format!("{{\"a\": {}1{}}}", "[".repeat(depth), "]".repeat(depth));
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (
            "bytes that are not utf-8",
            "a.jsonl",
            b"{\"a\": 1}\n{\"a\": \"\xff\"}".to_vec(),
        ),
        (
            "a character cut at the end",
            "a.json",
            b"[{\"a\": \"\xe4\xb8\"}]".to_vec(),
        ),
        (
            "an overlong character",
            "a.json",
            b"[{\"a\": \"\xc0\x80\"}]".to_vec(),
        ),
        (
            "a lone high surrogate",
            "a.json",
            text(r#"[{"a": "\ud800"}]"#),
        ),
        (
            "a lone low surrogate",
            "a.jsonl",
            text("{\"a\": 1}\n{\"a\": \"\\udc00x\"}"),
        ),
        (
            "surrogates in the wrong order",
            "a.json",
            text(r#"[{"a": "\udc00\ud800"}]"#),
        ),
        ("NUL inside text", "a.json", b"[{\"a\": \"x\0y\"}]".to_vec()),
        ("NUL between values", "a.json", b"[{\"a\": 1}\0]".to_vec()),
        (
            "a line break inside text",
            "a.json",
            text("[{\"a\": \"x\ny\"}]"),
        ),
        (
            "a byte order mark in the middle",
            "a.jsonl",
            text("{\"a\": 1}\n\u{feff}{\"a\": 2}"),
        ),
        ("utf-16", "a.json", b"\xff\xfe[\0{\0}\0]\0".to_vec()),
        (
            "a key twice",
            "a.jsonl",
            text("{\"a\": 1}\n{\"a\": 1, \"a\": 2}"),
        ),
        (
            "a key twice, once escaped",
            "a.json",
            text(r#"[{"a": 1, "\u0061": 2}]"#),
        ),
        (
            "a key twice inside a value",
            "a.json",
            text(r#"[{"a": {"b": 1, "b": 1}}]"#),
        ),
        ("a depth of 65", "a.jsonl", text(&deep(65))),
        (
            "a depth of 100,000",
            "a.json",
            text(&format!("[{}", deep(100_000))),
        ),
        (
            "a depth of 100,000 objects",
            "a.json",
            text(&format!("[{}", "{\"a\":".repeat(100_000))),
        ),
        ("a number beyond f64", "a.json", text(r#"[{"a": 1e400}]"#)),
        (
            "a number of 10,000 digits",
            "a.json",
            text(&format!("[{{\"a\": {}}}]", "9".repeat(10_000))),
        ),
        ("NaN", "a.json", text(r#"[{"a": NaN}]"#)),
        (
            "a number with a leading zero",
            "a.json",
            text(r#"[{"a": 01}]"#),
        ),
    ]
}

/// Rows that do not follow each other as they should.
fn structures() -> Vec<Input> {
    let text = |text: &str| text.as_bytes().to_vec();
    let wide = format!(
        "{{\"a\": \"{}\"}}",
        "x".repeat(lowrank_formats::rows::MAX_ROW_BYTES)
    );
    vec![
        ("a comma at the end", "a.json", text(r#"[{"a": 1},]"#)),
        (
            "a comment",
            "a.jsonl",
            text("{\"a\": 1}\n// note\n{\"a\": 2}"),
        ),
        ("single quotes", "a.json", text("[{'a': 1}]")),
        (
            "a number, then text",
            "a.jsonl",
            text("{\"a\": 1}\n{\"a\": \"1\"}"),
        ),
        (
            "a list, then an object",
            "a.json",
            text(r#"[{"a": []}, {"a": {}}]"#),
        ),
        ("a row that is a list", "a.jsonl", text("{\"a\": 1}\n[1]")),
        ("a row that is null", "a.json", text("[{\"a\": 1}, null]")),
        (
            "two rows on a line",
            "a.jsonl",
            text("{\"a\": 1}{\"a\": 2}"),
        ),
        (
            "a row over two lines",
            "a.jsonl",
            text("{\"a\": 1}\n{\"a\":\n2}"),
        ),
        (
            "a file that breaks off",
            "a.json",
            text("[{\"a\": 1},\n{\"a\": \"tex"),
        ),
        (
            "a file that breaks off in an escape",
            "a.json",
            text("[{\"a\": \"\\u12"),
        ),
        ("a row above 16 MiB", "a.jsonl", text(&wide)),
        (
            "a row above 16 MiB in a list",
            "a.json",
            text(&format!("[{wide}]")),
        ),
        (
            "a row of two million numbers",
            "a.jsonl",
            text(&format!("{{\"a\": [0{}]}}", ",0".repeat(2_000_000))),
        ),
        (
            "a row of 300,000 objects",
            "a.json",
            text(&format!(
                "[{{\"a\": [{{}}{}]}}]",
                ",{\"\":0}".repeat(300_000)
            )),
        ),
        (
            "lines that end with CR alone",
            "a.jsonl",
            text("{\"a\": 1}\r{\"a\": 2}"),
        ),
    ]
}

fn harmless() -> Vec<Input> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("a byte order mark", "a.jsonl", text("\u{feff}{\"a\": 1}\n")),
        (
            "CRLF",
            "a.jsonl",
            text("{\"a\": \"x\"}\r\n\r\n{\"a\": \"y\"}\r\n"),
        ),
        (
            "a missing field",
            "a.jsonl",
            text("{\"a\": 1}\n{\"b\": 2}\n"),
        ),
        ("an escaped NUL", "a.json", text(r#"[{"a": "x\u0000"}]"#)),
        (
            "a null, then a number",
            "a.jsonl",
            text("{\"a\": null}\n{\"a\": 2}\n"),
        ),
        (
            "a depth of 62",
            "a.json",
            text(&format!(
                "[{{\"a\": {}{}}}]",
                "[".repeat(62),
                "]".repeat(62)
            )),
        ),
    ]
}

#[test]
fn row_55_json_that_no_writer_makes_is_refused_with_its_line() {
    let folder = TempDir::new().expect("a temporary folder");
    let mut row = Hostile::new("row 55, JSON rows");
    for (name, file, bytes) in values().into_iter().chain(structures()) {
        let path = folder.path().join(file);
        std::fs::write(&path, &bytes).expect("a temporary folder can be written");
        row.refused(name, bytes.len(), || read(&path, folder.path()));
    }
    for (name, file, bytes) in harmless() {
        let path = folder.path().join(file);
        std::fs::write(&path, &bytes).expect("a temporary folder can be written");
        row.harmless(name, bytes.len(), || read(&path, folder.path()));
    }
    // A line of 1 GB takes no disk: it is a hole of zeros behind its first characters.
    let path = folder.path().join("a.jsonl");
    for (name, start) in [("a line of 1 GB", "{\"a\": \""), ("1 GB of zeros", "")] {
        let mut file = std::fs::File::create(&path).expect("a temporary folder can be written");
        file.write_all(start.as_bytes()).expect("written");
        file.set_len(1 << 30).expect("holes");
        row.refused(name, start.len(), || read(&path, folder.path()));
    }
    insta::assert_snapshot!(shortened(&row.finish(25)));
}
