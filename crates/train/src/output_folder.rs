//! What lies in a folder that a run is to write to or to go on from, where no run of ours put it there.

use std::path::{Path, PathBuf};

use durable::{CheckpointStore, Disk, DurableError};
use formats::weights::{ADAPTER_FILES, MODEL_FILES};
use serde_json::Value;

use crate::error::TrainError;
use crate::journal::{METRICS, PLOT};

/// More than a run logs before its first checkpoint.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// Refuses a model's own folder: a run writes its card and its tokenizer over the model's.
pub(crate) fn refuse_model(disk: &Disk, folder: &Path) -> Result<(), TrainError> {
    let has = |name: &str| disk.is_file(folder.join(name));
    if has("config.json") && MODEL_FILES.into_iter().any(has) {
        let folder = folder.to_owned();
        return Err(TrainError::OutputIsModel { folder });
    }
    Ok(())
}

/// Refuses a folder with a log or a plot that no run of ours wrote: a run would replace both.
pub(crate) fn refuse_foreign_log(disk: &Disk, folder: &Path) -> Result<(), TrainError> {
    let (log, plot) = (folder.join(METRICS), folder.join(PLOT));
    // What is no file is not replaced: the run goes on without its log.
    let has_log = disk.is_file(&log);
    let foreign = if has_log && !is_our_log(disk, &log) {
        log
    } else if !has_log && disk.is_file(&plot) {
        plot
    } else {
        return Ok(());
    };
    Err(TrainError::OutputHasForeign { path: foreign })
}

/// A run that died early leaves an empty log, or a line that was cut short.
fn is_our_log(disk: &Disk, path: &Path) -> bool {
    let Ok(text) = disk.read_text_capped(path, MAX_LOG_BYTES) else {
        return false;
    };
    match text.split_once('\n') {
        None => text.is_empty() || text.starts_with('{'),
        Some((line, _)) => {
            let entry: Option<Value> = serde_json::from_str(line).ok();
            entry.is_some_and(|entry| entry.get("epoch").is_some() && entry.get("step").is_some())
        }
    }
}

/// Says what a folder is that was named to resume from and is no checkpoint of ours.
pub(crate) fn no_checkpoint(disk: &Disk, asked: &str, error: DurableError) -> TrainError {
    let folder = PathBuf::from(asked);
    if !matches!(error, DurableError::NoManifest { .. }) {
        return error.into();
    }
    let listing = CheckpointStore::on(disk, &folder).list();
    if listing.is_ok_and(|listing| !listing.checkpoints.is_empty()) {
        return TrainError::ResumeFromRun { folder };
    }
    if ADAPTER_FILES
        .iter()
        .any(|name| disk.is_file(folder.join(name)))
    {
        return TrainError::ForeignCheckpoint { folder };
    }
    error.into()
}
