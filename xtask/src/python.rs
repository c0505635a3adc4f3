//! The Python stack, for goldens and comparisons: an environment of its own with pinned versions.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::{program, root, run};

const REQUIREMENTS: &str = "tools/python/requirements.txt";
/// In the environment: the requirements that were installed to the end.
const INSTALLED: &str = "installed-requirements.txt";

/// The interpreter of the environment, which is made when it is not there, and filled when the requirements are others.
/// `LOWRANK_PYTHON` names another one.
pub(crate) fn interpreter() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("LOWRANK_PYTHON") {
        return Ok(named.into());
    }
    let environment = root().join(".venv");
    let python = environment.join("bin/python");
    if !python.is_file() {
        run(&mut program("python3", &["-m", "venv", ".venv"]))?;
    }
    let requirements = requirements()?;
    if !is_installed(&environment, &requirements) {
        run(&mut program(
            &python.to_string_lossy(),
            &["-m", "pip", "install", "-q", "-r", REQUIREMENTS],
        ))?;
        std::fs::write(environment.join(INSTALLED), requirements)?;
    }
    Ok(python)
}

/// What the environment is to have.
pub(crate) fn requirements() -> Result<String> {
    std::fs::read_to_string(root().join(REQUIREMENTS)).context(REQUIREMENTS)
}

fn is_installed(environment: &Path, requirements: &str) -> bool {
    let installed = std::fs::read_to_string(environment.join(INSTALLED));
    installed.is_ok_and(|installed| installed == requirements)
}

/// What writes `goldens`, in an order in which each finds what it reads.
const GOLDENS: [&str; 5] = [
    "tools/python/make_goldens.py",
    "tools/python/make_peft_goldens.py",
    "tools/python/make_small_goldens.py",
    "tools/python/make_trainer_goldens.py",
    "goldens/peft_rules/make.py",
];

/// Makes the golden files again.
pub(crate) fn goldens() -> Result<()> {
    let python = interpreter()?;
    for script in GOLDENS {
        run(program(&python.to_string_lossy(), &[script]).env("PYTHONHASHSEED", "0"))?;
    }
    run(&mut program("git", &["diff", "--stat", "--", "goldens"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_of_the_goldens_is_there() {
        for script in GOLDENS {
            assert!(root().join(script).is_file(), "{script}");
        }
    }

    #[test]
    fn requirements_are_installed_where_the_environment_holds_them_word_for_word() {
        let place = tempfile::tempdir().expect("a folder");
        assert!(!is_installed(place.path(), "peft==1"));
        std::fs::write(place.path().join(INSTALLED), "peft==1").expect("written");
        assert!(is_installed(place.path(), "peft==1"));
        assert!(!is_installed(place.path(), "peft==2"));
    }
}
