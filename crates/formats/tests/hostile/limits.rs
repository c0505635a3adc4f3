//! The table of limits: each takes what is just below it, and refuses what is just above.

use std::io::Read;
use std::path::{Path, PathBuf};

use lowrank_formats::adapter_config::AdapterConfig;
use lowrank_formats::hf_config::{GenerationConfig, HfConfig};
use lowrank_formats::rows::MAX_ROW_BYTES;
use lowrank_formats::safetensors::{Header, MAX_HEADER_BYTES};
use lowrank_formats::weights::{MAX_INDEX_BYTES, WeightStore};
use lowrank_formats::{MAX_CONFIG_BYTES, Rows};
use tempfile::TempDir;
use testkit::Hostile;

/// A text with spaces behind it, up to `size` bytes.
fn padded(path: &Path, text: &str, size: u64) {
    let mut file = std::fs::File::create(path).expect("a temporary folder can be written");
    let spaces = std::io::repeat(b' ').take(size - text.len() as u64);
    let text = text.as_bytes();
    std::io::copy(&mut text.chain(spaces), &mut file).expect("written");
}

fn file(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

/// The same reader on what is just below a limit and on what is just above it.
fn both<T, E: std::fmt::Display>(
    row: &mut Hostile,
    limit: &str,
    size: usize,
    read: impl Fn(bool) -> Result<T, E>,
) {
    row.harmless(&format!("{limit}, below"), size, || {
        read(false).map(|_| "taken")
    });
    row.refused(&format!("{limit}, above"), size, || read(true));
}

#[test]
fn sizes_of_files_are_taken_up_to_their_limit() {
    let folder = TempDir::new().expect("a temporary folder");
    let mut row = Hostile::new("limits, sizes of files");
    let config = MAX_CONFIG_BYTES as u64;
    both(&mut row, "config.json", MAX_CONFIG_BYTES, |above| {
        padded(
            &file(&folder, "config.json"),
            "{\"vocab_size\": 8}",
            config + u64::from(above),
        );
        HfConfig::open(folder.path()).map_err(|e| e.to_string())
    });
    both(&mut row, "adapter_config.json", MAX_CONFIG_BYTES, |above| {
        padded(
            &file(&folder, "adapter_config.json"),
            "{\"peft_type\": \"LORA\"}",
            config + u64::from(above),
        );
        AdapterConfig::open(folder.path()).map_err(|e| e.to_string())
    });
    both(&mut row, "shard index", MAX_INDEX_BYTES as usize, |above| {
        let index = file(&folder, "model.safetensors.index.json");
        padded(
            &index,
            "{\"weight_map\": {}}",
            MAX_INDEX_BYTES + u64::from(above),
        );
        WeightStore::open(folder.path()).map_err(|e| e.to_string())
    });
    // The header itself fills the limit: `{}` and spaces.
    both(&mut row, "safetensors header", MAX_HEADER_BYTES, |above| {
        let mut bytes = (MAX_HEADER_BYTES as u64 + u64::from(above))
            .to_le_bytes()
            .to_vec();
        bytes.extend(b"{}");
        bytes.resize(8 + MAX_HEADER_BYTES + usize::from(above), b' ');
        Header::parse(&bytes)
    });
    let said = row
        .finish(8)
        .replace(&format!("{}/", folder.path().display()), "");
    insta::assert_snapshot!(said);
}

#[test]
fn values_are_taken_up_to_their_limit() {
    let mut row = Hostile::new("limits, values");
    both(&mut row, "token id", 64, |above| {
        let text = format!("{{\"eos_token_id\": {}}}", (1 << 24) - 1 + u32::from(above));
        GenerationConfig::of(&HfConfig::parse(text.as_bytes(), Path::new("config.json"))?)
    });
    let adapter =
        |text: String| AdapterConfig::parse(text.as_bytes(), Path::new("adapter_config.json"));
    both(&mut row, "rank", 64, |above| {
        adapter(format!(
            "{{\"peft_type\": \"LORA\", \"r\": {}}}",
            4_096 + u32::from(above)
        ))
    });
    both(&mut row, "rank of a pattern", 64, |above| {
        let rank = 4_096 + u32::from(above);
        adapter(format!(
            "{{\"peft_type\": \"LORA\", \"rank_pattern\": {{\"q\": {rank}}}}}"
        ))
    });
    both(&mut row, "depth of a config", 64, |above| {
        let depth = 63 + usize::from(above);
        let text = format!("{{\"a\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
        HfConfig::parse(text.as_bytes(), Path::new("config.json"))
    });
    insta::assert_snapshot!(row.finish(8));
}

#[test]
fn rows_are_taken_up_to_their_limit() {
    let folder = TempDir::new().expect("a temporary folder");
    let open = |name: &str, text: String| {
        let path = file(&folder, name);
        std::fs::write(&path, text).expect("a temporary folder can be written");
        let rows = Rows::open(&path, None).map_err(|e| e.to_string())?;
        rows.row(0).map_err(|e| e.to_string())
    };
    // `{"a": ""}` around the text of each row.
    let wide = |above: bool| "x".repeat(MAX_ROW_BYTES - 9 + usize::from(above));
    let mut row = Hostile::new("limits, rows");
    both(&mut row, "a row of JSON Lines", MAX_ROW_BYTES, |above| {
        open("a.jsonl", format!("{{\"a\": \"{}\"}}\n", wide(above)))
    });
    both(&mut row, "a row of a JSON list", MAX_ROW_BYTES, |above| {
        open("a.json", format!("[{{\"a\": \"{}\"}}]", wide(above)))
    });
    both(&mut row, "depth of a row", 64, |above| {
        let depth = 63 + usize::from(above);
        open(
            "a.json",
            format!("[{{\"a\": {}{}}}]", "[".repeat(depth), "]".repeat(depth)),
        )
    });
    both(&mut row, "columns of CSV", 1 << 20, |above| {
        let names: Vec<String> = (0..10_000 + u32::from(above))
            .map(|at| at.to_string())
            .collect();
        let cells = ",".repeat(names.len() - 1);
        open("a.csv", format!("{}\n{cells}\n", names.join(","))).map(|row| row.len())
    });
    both(&mut row, "columns of JSON Lines", 1 << 20, |above| {
        let lines = 0..10_000 + u32::from(above);
        let lines: String = lines.map(|at| format!("{{\"{at}\": 0}}\n")).collect();
        open("a.jsonl", lines).map(|row| row.len())
    });
    both(&mut row, "a row of CSV", MAX_ROW_BYTES, |above| {
        open(
            "a.csv",
            format!(
                "a\n{}\n",
                "x".repeat(MAX_ROW_BYTES - 1 + 2 * usize::from(above))
            ),
        )
    });
    let said = row
        .finish(12)
        .replace(&format!("{}/", folder.path().display()), "");
    insta::assert_snapshot!(said);
}
