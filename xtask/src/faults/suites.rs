//! The test programs of the workspace, as `cargo test --workspace` builds them.
//!
//! Built for one package alone, a test's dependencies have fewer features than for the whole workspace, and all of them
//! are compiled once more. So everything is built as the gate has built it already, and the programs are then run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::run;

/// One test program.
pub(super) struct Suite {
    /// Its package.
    pub(super) package: String,
    /// Its name; a library's own tests have the library's.
    pub(super) target: String,
    executable: PathBuf,
    folder: PathBuf,
}

impl Suite {
    /// Runs those of its tests whose names have `test` in them, from where `cargo test` would; in a network namespace of
    /// its own, where nothing can be reached, where the system has them.
    pub(super) fn command(&self, test: &str, offline: bool) -> Command {
        let mut command = if offline {
            let mut command = Command::new("unshare");
            command.args(["-n", "--"]).arg(&self.executable);
            command
        } else {
            Command::new(&self.executable)
        };
        command
            .args((!test.is_empty()).then_some(test))
            .args(["-q", "--nocapture"])
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .current_dir(&self.folder);
        command
    }
}

/// Whether programs can be run without a network.
pub(super) fn can_be_offline() -> bool {
    let probe = Command::new("unshare").args(["-n", "true"]).output();
    probe.is_ok_and(|output| output.status.success())
}

/// All of them.
pub(super) fn built() -> Result<Vec<Suite>> {
    let messages = run::built(&["test", "--workspace", "--no-run"], &[])?;
    Ok(messages.iter().filter_map(suite).collect())
}

/// The program that a message of cargo's tells of, where it is one of tests.
fn suite(message: &Value) -> Option<Suite> {
    let target = &message["target"];
    let is_test = message["profile"]["test"] == true;
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_owned();
    is_test.then_some(Suite {
        package: package(message["package_id"].as_str()?, &folder)?,
        target: target["name"].as_str()?.to_owned(),
        executable: PathBuf::from(message["executable"].as_str()?),
        folder,
    })
}

/// Of `path+file:///…/crates/cli#lowrank-cli@0.1.0`, or of `path+file:///…/crates/lowrank#0.1.0`, whose name is its folder's.
fn package(id: &str, folder: &std::path::Path) -> Option<String> {
    let (_, named) = id.split_once('#')?;
    match named.split_once('@') {
        Some((name, _)) => Some(name.to_owned()),
        None => Some(folder.file_name()?.to_string_lossy().into_owned()),
    }
}
