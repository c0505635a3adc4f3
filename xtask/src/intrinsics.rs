//! No vector intrinsic of the kernels is left a call.
//!
//! The compiler inlines an intrinsic only into a function that has its instructions: one with `#[target_feature]`, or what is
//! inlined into one. Elsewhere, in a closure above all, each is a call that hands its vectors over in memory: as right as
//! before, many times slower, and seen by no test. The crate that calls it then holds a copy of the intrinsic under its
//! name, so what is looked at is the kernels' own library, as it is released: other crates may leave copies in theirs
//! (aho-corasick and memchr do, and they are in the binary), and with debug assertions every load and store is a call.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use object::read::archive::ArchiveFile;
use object::{File, Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolKind};

use crate::run::built;

const PACKAGE: &str = "lowrank-kernels";
const CRATE: &str = "lowrank_kernels";

/// Where intrinsics live, of every processor.
const INTRINSICS: &str = "core::core_arch::";

/// Fails where the kernels call an intrinsic, and names it with its callers.
pub(crate) fn check() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        println!(
            "\nintrinsics: nothing to check, only for x86-64 are there kernels with intrinsics"
        );
        return Ok(());
    }
    let path = library()?;
    let bytes = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
    let found = Found::of(&bytes).with_context(|| format!("{}", path.display()))?;
    ensure!(
        found.functions > 0,
        "no function of {CRATE} in {}",
        path.display()
    );
    if found.calls.is_empty() {
        println!(
            "\nintrinsics: {} functions of the kernels, none calls one",
            found.functions
        );
        return Ok(());
    }
    let lines = found.calls.iter().map(|(callee, callers)| {
        let callers: Vec<&str> = callers.iter().map(String::as_str).collect();
        format!("{callee}\n    in {}", callers.join("\n    in "))
    });
    bail!(
        "intrinsics are called where they should be inlined:\n  {}\nuse them in `#[inline(always)]` or `#[target_feature]` \
         functions, never in closures",
        lines.collect::<Vec<_>>().join("\n  ")
    );
}

/// The kernels' library, built as it is released.
fn library() -> Result<PathBuf> {
    let arguments = ["rustc", "--release", "--package", PACKAGE, "--lib"];
    // Names that tell which closure a generic function was made for.
    let messages = built(&arguments, &["-C", "symbol-mangling-version=v0"])?;
    let artifacts = messages
        .iter()
        .filter(|message| message["target"]["name"] == CRATE);
    let files = artifacts.flat_map(|message| message["filenames"].as_array().into_iter().flatten());
    let mut libraries = files
        .filter_map(|file| file.as_str())
        .filter(|file| file.ends_with(".rlib"));
    libraries
        .next()
        .map(PathBuf::from)
        .with_context(|| format!("cargo names no library of {PACKAGE}"))
}

/// What the symbols of a library tell.
#[derive(Default)]
struct Found {
    /// Functions of the crate.
    functions: usize,
    /// Intrinsics that are called, and what calls them.
    calls: BTreeMap<String, BTreeSet<String>>,
}

impl Found {
    fn of(library: &[u8]) -> Result<Self> {
        let mut found = Self::default();
        for member in ArchiveFile::parse(library)?.members() {
            let member = member?;
            // What the compiler keeps for itself is no code.
            if !member.name().ends_with(b".rmeta") {
                found.add(&File::parse(member.data(library)?)?);
            }
        }
        Ok(found)
    }

    fn add(&mut self, object: &File<'_>) {
        // By place, since a call may name only the section of what it calls.
        let mut places = BTreeMap::new();
        for symbol in object.symbols() {
            let Some(name) = symbol.name().ok().and_then(path) else {
                continue;
            };
            if is_intrinsic(&name) {
                self.calls.entry(name.clone()).or_default();
            }
            if let (SymbolKind::Text, Some(section)) = (symbol.kind(), symbol.section_index()) {
                self.functions += usize::from(name.contains(CRATE));
                places.insert((section.0, symbol.address()), name);
            }
        }
        for section in object.sections() {
            for (at, relocation) in section.relocations() {
                let RelocationTarget::Symbol(target) = relocation.target() else {
                    continue;
                };
                let Ok(target) = object.symbol_by_index(target) else {
                    continue;
                };
                let start = target
                    .section_index()
                    .map(|section| (section.0, target.address()));
                let callee = start.and_then(|start| places.get(&start));
                let mut caller = places.range((section.index().0, 0)..=(section.index().0, at));
                let callers = callee.and_then(|callee| self.calls.get_mut(callee));
                if let (Some(callers), Some((_, caller))) = (callers, caller.next_back()) {
                    callers.insert(caller.clone());
                }
            }
        }
    }
}

/// A symbol's path, without its hash.
fn path(symbol: &str) -> Option<String> {
    let name = rustc_demangle::try_demangle(symbol).ok()?;
    Some(format!("{name:#}"))
}

fn is_intrinsic(path: &str) -> bool {
    path.starts_with(INTRINSICS)
}

#[cfg(test)]
mod tests {
    use super::{is_intrinsic, path};

    /// A function that lacks the instructions of what it calls, and one that has them.
    #[cfg(target_arch = "x86_64")]
    const LACKING: &str = include_str!("intrinsics/lacking.rs.txt");

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_call_that_is_there_is_found_with_its_caller() {
        use super::{CRATE, Found};
        use crate::run::{program, run};

        let folder = tempfile::tempdir().unwrap();
        let [source, library] = ["lacking.rs", "lacking.rlib"].map(|name| folder.path().join(name));
        std::fs::write(&source, LACKING).unwrap();
        let arguments = ["--edition=2024", "--crate-type=rlib", "--crate-name", CRATE];
        let mut rustc = program("rustc", &arguments);
        rustc.args(["-O", "-C", "symbol-mangling-version=v0", "-o"]);
        run(rustc.arg(&library).arg(&source)).unwrap();
        let found = Found::of(&std::fs::read(&library).unwrap()).unwrap();
        assert!(found.functions >= 2);
        let calls: Vec<_> = found.calls.iter().collect();
        let [(callee, callers)] = calls[..] else {
            panic!("{calls:?}")
        };
        assert_eq!(callee, "core::core_arch::x86::avx::_mm256_hadd_ps");
        assert_eq!(
            callers.iter().collect::<Vec<_>>(),
            ["lowrank_kernels::lacking"]
        );
    }

    #[test]
    fn copies_of_intrinsics_are_told_from_other_functions() {
        let copies = [
            "_RNvNtNtNtCsgEmfK2I1SDS_4core9core_arch3x863avx18__mm256_unpackhi_ps",
            "_RNvNtNtNtCsgEmfK2I1SDS_4core9core_arch3x863avx18__mm256_loadu_si256.llvm.9275019047782516391",
            "_ZN4core9core_arch3x863avx17_mm256_shuffle_ps17h697bc0a3a6d20ff8E",
            "_ZN4core9core_arch3x867avx512f15_mm512_loadu_ps17h0123456789abcdefE",
            // As a Mac has it.
            "__ZN4core9core_arch3x863avx17_mm256_shuffle_ps17h697bc0a3a6d20ff8E",
        ];
        let others = [
            "_ZN15lowrank_kernels6vector9with_avx217h5822f4e9b80faf68E",
            "_ZN15lowrank_kernels4gemm4avx24pack10transposed28_$u7b$$u7b$closure$u7d$$u7d$17h98f7be25029258b9E",
            "_RNvXs_NtNtCsgEmfK2I1SDS_4core3str6traitsNtB4_3StrNtNtB6_3fmt7Display3fmt",
            ".text._ZN4core9core_arch3x863avx17_mm256_shuffle_ps17h697bc0a3a6d20ff8E",
            "memcpy",
        ];
        let told = |symbol: &&str| path(symbol).is_some_and(|path| is_intrinsic(&path));
        assert_eq!(copies.iter().find(|symbol| !told(symbol)), None);
        assert_eq!(others.iter().find(|symbol| told(symbol)), None);
        assert_eq!(
            path(copies[2]).as_deref(),
            Some("core::core_arch::x86::avx::_mm256_shuffle_ps")
        );
    }
}
