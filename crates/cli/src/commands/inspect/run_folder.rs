//! What is in a run's output folder.

use std::path::Path;

use anyhow::Result;
use durable::{CheckpointStore, Skipped};
use lowrank::LowrankError;
use serde::Serialize;

use crate::output::{self, say};

/// Checkpoints, and what is none.
#[derive(Debug, Serialize)]
struct RunFolder {
    /// Newest step first, then those without a readable manifest.
    checkpoints: Vec<CheckpointState>,
    strays: Vec<Stray>,
}

#[derive(Debug, Serialize)]
struct CheckpointState {
    path: String,
    step: Option<u64>,
    /// Why it cannot be resumed from.
    problem: Option<String>,
}

/// What no run will ever use.
#[derive(Debug, Serialize)]
struct Stray {
    path: String,
    reason: String,
}

/// Verifies each checkpoint, and lists strays in the folder and beside it.
///
/// # Errors
/// A folder that is not there or cannot be listed.
pub(super) fn show(folder: &Path, json: bool) -> Result<()> {
    let found = read(folder)?;
    if json {
        return output::json(&found);
    }
    for one in &found.checkpoints {
        let step = one.step.map(|step| format!("step {step}, "));
        let state = one.problem.as_deref().unwrap_or("complete");
        output::print(&format!(
            "checkpoint `{}`: {}{state}",
            one.path,
            step.unwrap_or_default()
        ))?;
    }
    for one in &found.strays {
        output::print(&format!("stray `{}`: {}", one.path, one.reason))?;
    }
    let usable = found.checkpoints.iter().filter(|one| one.problem.is_none());
    output::print(&format!(
        "{} checkpoints of {} can be resumed from; {} strays",
        usable.count(),
        found.checkpoints.len(),
        found.strays.len()
    ))
}

/// Says what a killed process left in a folder or beside it.
///
/// # Errors
/// A folder that cannot be listed.
pub(super) fn note_strays(folder: &Path) -> Result<()> {
    for one in strays(folder)? {
        say(&format!("note: stray `{}`: {}", one.path, one.reason));
    }
    Ok(())
}

fn read(folder: &Path) -> Result<RunFolder> {
    durable::list_dir(folder).map_err(LowrankError::from)?;
    let store = CheckpointStore::new(folder);
    let listing = store.list().map_err(LowrankError::from)?;
    let mut checkpoints = Vec::new();
    for one in listing.checkpoints {
        checkpoints.push(CheckpointState {
            path: one.path.display().to_string(),
            step: Some(one.step()),
            problem: store.open(&one.path).err().map(|error| error.to_string()),
        });
    }
    checkpoints.extend(listing.skipped.into_iter().map(|one| CheckpointState {
        path: one.path.display().to_string(),
        step: None,
        problem: Some(one.reason),
    }));
    let strays = strays(folder)?;
    Ok(RunFolder {
        checkpoints,
        strays,
    })
}

/// In the folder and beside it. One that is no folder has none.
fn strays(folder: &Path) -> Result<Vec<Stray>> {
    let mut all = durable::staged_beside(folder).map_err(LowrankError::from)?;
    if durable::is_dir(folder) {
        let listing = CheckpointStore::new(folder).list();
        all.extend(listing.map_err(LowrankError::from)?.strays);
    }
    let told = |one: Skipped| Stray {
        path: one.path.display().to_string(),
        reason: one.reason,
    };
    Ok(all.into_iter().map(told).collect())
}
