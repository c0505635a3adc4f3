//! The promises of docs/ARCHITECTURE.md that a program can check. Each returns what breaks it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::{output, program, root};

/// The rooms, lowest first: a crate may depend on those before it only.
const ROOMS: [&str; 11] = [
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
    broken.extend(unsafe_places(&files)?);
    broken.extend(long_files(&files)?);
    broken.extend(family_tables(&files)?);
    broken.extend(large_files(&files)?);
    broken.extend(fuzz_targets(&files)?);
    if broken.is_empty() {
        println!("\narchitecture: {} files, every promise holds", files.len());
        return Ok(());
    }
    bail!("docs/ARCHITECTURE.md is broken:\n  {}", broken.join("\n  "));
}

fn tracked() -> Result<Vec<PathBuf>> {
    Ok(output(&mut program("git", &["ls-files"]))?
        .lines()
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
    let mut broken = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(from) = room(name) else { continue };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let normal = dependency["kind"].is_null();
            let to = dependency["name"].as_str().and_then(room);
            if normal && to.is_some_and(|to| to >= from) {
                broken.push(format!(
                    "`{name}` depends on `{}`, which is not below it",
                    dependency["name"]
                ));
            }
        }
    }
    Ok(broken)
}

fn room(package: &str) -> Option<usize> {
    let short = package
        .strip_prefix("lowrank-")
        .filter(|short| *short != "cli")
        .unwrap_or(package);
    ROOMS.iter().position(|room| *room == short)
}

fn sources(files: &[PathBuf]) -> impl Iterator<Item = (&Path, String)> {
    let rust = files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    rust.filter_map(|file| {
        Some((
            file.as_path(),
            std::fs::read_to_string(root().join(file)).ok()?,
        ))
    })
}

fn unsafe_places(files: &[PathBuf]) -> Result<Vec<String>> {
    let outside = |file: &Path| !UNSAFE_ROOMS.iter().any(|room| file.starts_with(room));
    let uses = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"]
            .iter()
            .any(|word| code.contains(word))
    };
    let found = sources(files).filter(|(file, text)| {
        outside(file) && !file.starts_with("xtask/src/architecture.rs") && text.lines().any(uses)
    });
    Ok(found
        .map(|(file, _)| format!("unsafe code in `{}`", file.display()))
        .collect())
}

fn long_files(files: &[PathBuf]) -> Result<Vec<String>> {
    let long = sources(files).filter(|(_, text)| text.lines().count() > FILE_LINES);
    Ok(long
        .map(|(file, _)| format!("`{}` has more than {FILE_LINES} lines", file.display()))
        .collect())
}

fn family_tables(files: &[PathBuf]) -> Result<Vec<String>> {
    let families = root().join("crates/model/src/families/mod.rs");
    let list = std::fs::read_to_string(families)?;
    let tables = sources(files).filter(|(file, _)| {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        file.starts_with("crates/model/src/families") && list.contains(&format!("{stem}::FAMILY"))
    });
    let long = tables.filter(|(_, text)| text.lines().count() > FAMILY_LINES);
    let name = |file: &Path| {
        format!(
            "family table `{}` has more than {FAMILY_LINES} lines",
            file.display()
        )
    };
    Ok(long.map(|(file, _)| name(file)).collect())
}

fn large_files(files: &[PathBuf]) -> Result<Vec<String>> {
    let size =
        |file: &&PathBuf| std::fs::metadata(root().join(file)).map_or(0, |metadata| metadata.len());
    let large = files.iter().filter(|file| size(file) > FILE_BYTES);
    Ok(large
        .map(|file| format!("`{}` has more than {FILE_BYTES} bytes", file.display()))
        .collect())
}

/// Each `pub fn fuzz_NAME` of a crate has its `fuzz/fuzz_targets/NAME.rs`, which calls it, and its program in
/// `fuzz/Cargo.toml`; and there is no other.
fn fuzz_targets(files: &[PathBuf]) -> Result<Vec<String>> {
    let named = |text: &str, open: &str, close: char| -> BTreeSet<String> {
        let parts = text.split(open).skip(1);
        parts
            .filter_map(|part| Some(part.split_once(close)?.0.to_owned()))
            .collect()
    };
    let functions: BTreeSet<String> = sources(files)
        .filter(|(file, _)| file.starts_with("crates"))
        .flat_map(|(_, text)| named(&text, "\npub fn fuzz_", '('))
        .collect();
    let callers: BTreeSet<String> = sources(files)
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
