//! What lies in a folder that a run is to write to or to go on from, where no run of ours put it there.

use std::path::{Path, PathBuf};

use durable::{CheckpointStore, Disk, DurableError};
use formats::weights::{ADAPTER_FILES, MODEL_FILES};

use crate::error::TrainError;

/// Refuses a model's own folder: a run writes its card and its tokenizer over the model's.
pub(crate) fn refuse_model(disk: &Disk, folder: &Path) -> Result<(), TrainError> {
    let has = |name: &str| disk.is_file(folder.join(name));
    if has("config.json") && MODEL_FILES.into_iter().any(has) {
        let folder = folder.to_owned();
        return Err(TrainError::OutputIsModel { folder });
    }
    Ok(())
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
