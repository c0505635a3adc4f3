//! The Python stack, for goldens and comparisons: an environment of its own with pinned versions.

use std::path::PathBuf;

use anyhow::Result;

use crate::run::{program, root, run};

/// The interpreter of the environment, which is made when it is not there. `LOWRANK_PYTHON` names another one.
pub(crate) fn interpreter() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("LOWRANK_PYTHON") {
        return Ok(named.into());
    }
    let environment = root().join(".venv");
    let python = environment.join("bin/python");
    if !python.is_file() {
        run(&mut program("python3", &["-m", "venv", ".venv"]))?;
        let requirements = "tools/python/requirements.txt";
        run(&mut program(
            &python.to_string_lossy(),
            &["-m", "pip", "install", "-q", "-r", requirements],
        ))?;
    }
    Ok(python)
}

/// Makes the golden files again.
pub(crate) fn goldens() -> Result<()> {
    let python = interpreter()?;
    let script = "tools/python/make_goldens.py";
    run(program(&python.to_string_lossy(), &[script]).env("PYTHONHASHSEED", "0"))?;
    run(&mut program("git", &["diff", "--stat", "--", "goldens"]))
}
