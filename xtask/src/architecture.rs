//! The promises of docs/ARCHITECTURE.md that a program can check. Each returns what breaks it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::run::{output, program, root};

/// All crates, lowest first: each may depend on those before it only. `testkit` is last, because none may depend on it but
/// for its tests.
const ROOMS: [&str; 12] = [
    "durable",
    "kernels",
    "engine",
    "formats",
    "data",
    "model",
    "peft",
    "train",
    "lowrank",
    "lowrank-cli",
    "xtask",
    "testkit",
];
/// The rooms that may hold unsafe code.
const UNSAFE_ROOMS: [&str; 2] = ["crates/kernels/", "crates/durable/"];
/// A family is a table.
const FAMILY_LINES: usize = 80;
/// Lines of one source file.
const FILE_LINES: usize = 600;
/// Bytes of one file in the repository.
const FILE_BYTES: u64 = 16 << 20;

/// Checks all of them and reports everything that is broken.
pub(crate) fn check() -> Result<()> {
    let mut broken = arrows()?;
    let files = tracked()?;
    let sources = sources(&files)?;
    broken.extend(unsafe_places(&sources));
    broken.extend(long_files(&sources));
    broken.extend(family_tables(&sources)?);
    broken.extend(large_files(&files)?);
    broken.extend(fuzz_targets(&sources)?);
    if broken.is_empty() {
        println!("\narchitecture: {} files, every promise holds", files.len());
        return Ok(());
    }
    bail!("docs/ARCHITECTURE.md is broken:\n  {}", broken.join("\n  "));
}

fn tracked() -> Result<Vec<PathBuf>> {
    // With zeros between them, names are not quoted.
    Ok(output(&mut program("git", &["ls-files", "-z"]))?
        .split_terminator('\0')
        .map(PathBuf::from)
        .collect())
}

/// Arrows between rooms point down.
fn arrows() -> Result<Vec<String>> {
    let metadata = output(&mut program(
        "cargo",
        &["metadata", "--no-deps", "--format-version", "1"],
    ))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata without packages")?;
    Ok(arrows_up(packages))
}

fn arrows_up(packages: &[Value]) -> Vec<String> {
    let mut broken = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(from) = room(name) else {
            broken.push(format!("`{name}` is no crate that the architecture knows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let for_tests = dependency["kind"] == "dev";
            let to = dependency["name"].as_str().and_then(room);
            if !for_tests && to.is_some_and(|to| to >= from) {
                broken.push(format!(
                    "`{name}` depends on `{}`, which is not below it",
                    dependency["name"]
                ));
            }
        }
    }
    broken
}

fn room(package: &str) -> Option<usize> {
    let short = package
        .strip_prefix("lowrank-")
        .filter(|short| *short != "cli")
        .unwrap_or(package);
    ROOMS.iter().position(|room| *room == short)
}

/// A file and its text.
type Source<'a> = (&'a Path, String);

fn sources(files: &[PathBuf]) -> Result<Vec<Source<'_>>> {
    let rust = files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|file| {
        let text = std::fs::read_to_string(root().join(file));
        Ok((
            file.as_path(),
            text.with_context(|| file.display().to_string())?,
        ))
    })
    .collect()
}

fn unsafe_places(sources: &[Source<'_>]) -> Vec<String> {
    let outside = |file: &Path| !UNSAFE_ROOMS.iter().any(|room| file.starts_with(room));
    let found = sources.iter().filter(|(file, text)| {
        // This file has the words that it looks for.
        outside(file)
            && *file != Path::new("xtask/src/architecture.rs")
            && text.lines().any(is_unsafe)
    });
    found
        .map(|(file, _)| format!("unsafe code in `{}`", file.display()))
        .collect()
}

/// Whether a line has `unsafe`, or the lint's name other than to deny it; comments may say both.
fn is_unsafe(line: &str) -> bool {
    let is_comment = line.trim_start().starts_with("//");
    // A space before it, because there is none in an address.
    let code = line.split(" //").next().unwrap_or_default();
    let code = ["deny(unsafe_code", "forbid(unsafe_code"]
        .iter()
        .fold(code.to_owned(), |code, denial| code.replace(denial, ""));
    let mut words = code.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    !is_comment && words.any(|word| ["unsafe", "unsafe_code"].contains(&word))
}

fn long_files(sources: &[Source<'_>]) -> Vec<String> {
    let long = sources
        .iter()
        .filter(|(_, text)| text.lines().count() > FILE_LINES);
    long.map(|(file, _)| format!("`{}` has more than {FILE_LINES} lines", file.display()))
        .collect()
}

fn family_tables(sources: &[Source<'_>]) -> Result<Vec<String>> {
    let families = root().join("crates/model/src/families/mod.rs");
    let list = std::fs::read_to_string(families)?;
    let is_table = |file: &Path| {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        file.starts_with("crates/model/src/families") && list.contains(&format!("{stem}::FAMILY"))
    };
    let tables: Vec<_> = sources.iter().filter(|(file, _)| is_table(file)).collect();
    ensure!(!tables.is_empty(), "no family table was found");
    let long = tables
        .into_iter()
        .filter(|(_, text)| text.lines().count() > FAMILY_LINES);
    let name = |file: &Path| {
        format!(
            "family table `{}` has more than {FAMILY_LINES} lines",
            file.display()
        )
    };
    Ok(long.map(|(file, _)| name(file)).collect())
}

fn large_files(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut large = Vec::new();
    for file in files {
        let metadata = std::fs::metadata(root().join(file));
        if metadata.with_context(|| file.display().to_string())?.len() > FILE_BYTES {
            large.push(format!(
                "`{}` has more than {FILE_BYTES} bytes",
                file.display()
            ));
        }
    }
    Ok(large)
}

/// Each `pub fn fuzz_NAME` of a crate has its `fuzz/fuzz_targets/NAME.rs`, which calls it, and its program in
/// `fuzz/Cargo.toml`; and there is no other.
fn fuzz_targets(sources: &[Source<'_>]) -> Result<Vec<String>> {
    let named = |text: &str, open: &str, close: char| -> BTreeSet<String> {
        let parts = text.split(open).skip(1);
        parts
            .filter_map(|part| Some(part.split_once(close)?.0.to_owned()))
            .collect()
    };
    let functions: BTreeSet<String> = sources
        .iter()
        .filter(|(file, _)| file.starts_with("crates"))
        .flat_map(|(_, text)| named(text, "\npub fn fuzz_", '('))
        .collect();
    let callers: BTreeSet<String> = sources
        .iter()
        .filter_map(|(file, text)| {
            let name = file.strip_prefix("fuzz/fuzz_targets").ok()?.file_stem()?;
            let name = name.to_string_lossy().into_owned();
            text.contains(&format!("::fuzz_{name}(bytes)"))
                .then_some(name)
        })
        .collect();
    let manifest = std::fs::read_to_string(root().join("fuzz/Cargo.toml"))?;
    let mut programs = named(&manifest, "path = \"fuzz_targets/", '.');
    programs.retain(|name| manifest.contains(&format!("name = \"{name}\"")));
    ensure!(!functions.is_empty(), "no fuzz target was found");
    let all: BTreeSet<&String> = functions.iter().chain(&callers).chain(&programs).collect();
    let sets = [
        (&functions, "function `fuzz_…` in the crates"),
        (&callers, "file in fuzz/fuzz_targets that calls it"),
        (&programs, "program in fuzz/Cargo.toml"),
    ];
    let missing = |name: &&String| {
        let without = sets.iter().filter(|(set, _)| !set.contains(*name));
        without
            .map(|(_, what)| format!("fuzz target `{name}` has no {what}"))
            .collect::<Vec<_>>()
    };
    Ok(all.iter().flat_map(missing).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arrows_that_point_up_and_unknown_crates_are_told() {
        let told = |name: &str, kind: Value, to: &str| {
            let dependencies = json!([{"name": to, "kind": kind}]);
            !arrows_up(&[json!({"name": name, "dependencies": dependencies})]).is_empty()
        };
        assert!(!told("lowrank-train", Value::Null, "lowrank-model"));
        assert!(!told("lowrank-train", Value::Null, "serde"));
        assert!(told("lowrank-model", Value::Null, "lowrank-train"));
        assert!(told("lowrank-model", json!("build"), "lowrank-train"));
        assert!(told("lowrank-train", Value::Null, "lowrank-testkit"));
        assert!(told("xtask", Value::Null, "lowrank-testkit"));
        assert!(!told("lowrank-train", json!("dev"), "lowrank-testkit"));
        assert!(told("lowrank-attic", Value::Null, "serde"));
    }

    #[test]
    fn a_source_that_cannot_be_read_is_an_error() {
        let files = ["xtask/src/main.rs", "xtask/src/no-such-file.rs"].map(PathBuf::from);
        assert_eq!(sources(&files[..1]).expect("this crate").len(), 1);
        assert!(sources(&files).is_err());
    }

    #[test]
    fn every_way_to_write_unsafe_code_is_found_and_comments_may_speak_of_it() {
        let found = [
            "unsafe {",
            "let x = unsafe{ *p };",
            "pub unsafe fn f() {}",
            "unsafe extern \"C\" {",
            "unsafe trait T {}",
            "#[unsafe(no_mangle)]",
            "#![allow(unsafe_code)]",
            "#![allow(unsafe_code, reason = \"fast\")]",
            "    unsafe_code,",
            "#[expect(unsafe_code)] // as the other",
            "get(\"http://a\"); unsafe { f() }",
        ];
        let fine = [
            "// unsafe { never }",
            "    /// No unsafe code.",
            "f(); // not unsafe",
            "#![forbid(unsafe_code)]",
            "#![deny(unsafe_code, reason = \"two rooms have it\")]",
            "fn unsafe_places() {}",
        ];
        assert_eq!(found.iter().find(|line| !is_unsafe(line)), None);
        assert_eq!(fine.iter().find(|line| is_unsafe(line)), None);
    }
}
