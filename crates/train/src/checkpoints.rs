//! The checkpoints of a run: written whole, found again, and refused where they belong to another run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use durable::{Checkpoint, CheckpointStore, Disk, FolderLock, Skipped, same_place};
use peft::{CARD_NAME, may_replace_card};
use serde_json::Value;

use crate::arguments::TrainingArguments;
use crate::error::{ChangedSetting, TrainError};
use crate::identity::{differing, means};
use crate::learner::Learner;
use crate::optimizer::Optimizer;
use crate::output_folder::{no_checkpoint, refuse_model};
use crate::plan::Plan;
use crate::state::{RESUME_STATE, RunState, TRAINER_STATE};
use crate::tensors::Stored;

pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
/// Where in a run's folder the ids of its rows may be kept for the next run.
pub const TOKEN_CACHE: &str = ".tokens";
/// Asks for the newest checkpoint that verifies.
const LATEST: &str = "latest";
/// Room for what is not counted: logs, tokenizer files, the file system's own.
const SPARE_BYTES: u64 = 64 << 20;
/// Arguments that are of this call, not of the run: none of its bytes hang on them.
const UNCOMPARED: [&str; 5] = [
    "activation_checkpointing",
    "output_dir",
    "resume_from_checkpoint",
    "resume_with_changed",
    "save_failure",
];
/// Arguments that may differ: they change nothing of what was learnt, only when it is written down, or how long a
/// run is borne with.
const FREE: [&str; 9] = [
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "load_best_model_at_end",
    "max_skipped_updates",
];

/// A run's folder, held for writing.
pub(crate) struct Checkpoints {
    pub(crate) disk: Disk,
    pub(crate) folder: PathBuf,
    store: CheckpointStore,
    /// What a checkpoint belongs to: data, base, settings.
    identity: BTreeMap<String, String>,
    /// Name of a checkpoint that was asked for by name: it is not for us to remove.
    resumed_from: Option<String>,
    _lock: FolderLock,
}

impl Checkpoints {
    /// Takes the folder. What killed runs left half-written in it is removed.
    pub(crate) fn open(
        disk: &Disk,
        plan: &Plan,
        identity: &BTreeMap<String, String>,
    ) -> Result<Self, TrainError> {
        let folder = PathBuf::from(&plan.arguments.output_dir);
        refuse_model(disk, &folder)?;
        disk.prepare_folder(&folder)?;
        let lock = FolderLock::take_on(disk, &folder)?;
        let store = CheckpointStore::on(disk, &folder);
        store.sweep()?;
        store.sweep_within(TOKEN_CACHE)?;
        let mut identity = identity.clone();
        identity.extend(settings(plan));
        Ok(Self {
            disk: disk.clone(),
            folder,
            store,
            identity,
            resumed_from: None,
            _lock: lock,
        })
    }

    /// Refuses to begin a run in a folder that has another's checkpoints, or what it ended with.
    pub(crate) fn refuse_if_used(&self) -> Result<(), TrainError> {
        refuse_if_used(&self.store, &self.folder)
    }

    /// Finds the checkpoint to resume from; also those passed over, with reasons.
    pub(crate) fn find(&self, asked: &str) -> Result<(Checkpoint, Vec<Skipped>), TrainError> {
        find(&self.store, &self.folder, asked)
    }

    /// Whether a checkpoint is the one of its step in this folder.
    pub(crate) fn is_here(&self, checkpoint: &Checkpoint) -> bool {
        same_place(self.store.path_of(checkpoint.step()), &checkpoint.path)
    }

    /// Loads a checkpoint that belongs to this run. Returns the state, and the settings that differ
    /// but may.
    pub(crate) fn resume<L: Learner>(
        &mut self,
        plan: &Plan,
        checkpoint: &Checkpoint,
        learner: &mut L,
        optimizer: &mut Optimizer<L::Backend>,
    ) -> Result<(RunState, Vec<ChangedSetting>), TrainError> {
        let allowed = self.refuse_changed(plan, checkpoint)?;
        let folder = &checkpoint.path;
        let has = |name: &str| checkpoint.manifest.files.contains_key(name);
        if ![OPTIMIZER, TRAINER_STATE, RESUME_STATE]
            .into_iter()
            .all(has)
        {
            return Err(TrainError::ModelOnly {
                folder: folder.clone(),
            });
        }
        let state = RunState::read(&self.disk, folder, plan)?;
        let stored = Stored::open(&self.disk, &folder.join(OPTIMIZER))?;
        optimizer.restore(learner.parameters(), state.resume.optimizer_steps, &stored)?;
        learner.load(folder)?;
        let asked = plan.arguments.resume_from_checkpoint.as_deref();
        self.resumed_from = asked
            .filter(|asked| *asked != LATEST)
            .map(|_| checkpoint.name());
        Ok((state, allowed))
    }

    fn refuse_changed(
        &self,
        plan: &Plan,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<ChangedSetting>, TrainError> {
        let named = &plan.arguments.resume_with_changed.0;
        let may_differ = |one: &ChangedSetting| {
            FREE.contains(&one.name.as_str()) || named.iter().any(|given| means(given, &one.name))
        };
        let changed = differing(&checkpoint.manifest.digests, &self.identity);
        let (allowed, refused): (Vec<_>, Vec<_>) = changed.into_iter().partition(may_differ);
        let useless = named
            .iter()
            .find(|given| allowed.iter().all(|one| !means(given, &one.name)));
        if !refused.is_empty() {
            let checkpoint = checkpoint.path.clone();
            return Err(TrainError::Changed {
                checkpoint,
                changed: refused,
                named: named.clone(),
            });
        }
        match useless {
            Some(name) => Err(TrainError::NotChanged { name: name.clone() }),
            None => Ok(allowed),
        }
    }

    /// Refuses where the disk has not the room for two checkpoints and what is beside them.
    pub(crate) fn need_room<L: Learner>(&self, learner: &L) -> Result<(), TrainError> {
        let bytes = 2 * checkpoint_bytes(learner) + SPARE_BYTES;
        Ok(self.disk.need_space(&self.folder, bytes)?)
    }

    /// Writes the checkpoint of the state. `whole`: with all that resuming takes.
    pub(crate) fn save<L: Learner>(
        &self,
        plan: &Plan,
        learner: &L,
        optimizer: &Optimizer<L::Backend>,
        state: &mut RunState,
        whole: bool,
    ) -> Result<Checkpoint, TrainError> {
        self.disk
            .need_space(&self.folder, checkpoint_bytes(learner))?;
        let step = state.step();
        state.resume.optimizer_steps = optimizer.updates();
        if let Some(best) = state.file.best_global_step {
            let path = self.store.path_of(best);
            if best == step || self.disk.exists(&path) {
                state.file.best_model_checkpoint = Some(path.display().to_string());
            }
        }
        self.store.save(step, &self.identity, |folder| {
            learner.save(folder)?;
            if whole {
                optimizer
                    .state(learner.parameters())?
                    .save(folder, OPTIMIZER)?;
                folder.write(RESUME_STATE, state.resume_json().as_bytes())?;
            }
            folder.write(TRAINER_STATE, state.file_text(plan).as_bytes())?;
            Ok(())
        })
    }

    /// Takes what is behind the checkpoint resumed from out of the way; where it was and where it is.
    pub(crate) fn leave_behind(
        &self,
        resumed: &Checkpoint,
    ) -> Result<Vec<(PathBuf, PathBuf)>, TrainError> {
        Ok(self.store.set_aside_behind(resumed)?)
    }

    /// Removes what `save_total_limit` leaves no room for, never the best, the one that this run saved last, nor
    /// one that was resumed from by name.
    pub(crate) fn retain(
        &self,
        plan: &Plan,
        state: &RunState,
        saved: Option<u64>,
    ) -> Result<Vec<PathBuf>, TrainError> {
        let Some(keep) = plan.arguments.save_total_limit else {
            return Ok(Vec::new());
        };
        let steps = [state.file.best_global_step, saved].into_iter().flatten();
        let names: Vec<String> = steps.map(|step| format!("checkpoint-{step}")).collect();
        let protected: Vec<&str> = names
            .iter()
            .chain(&self.resumed_from)
            .map(String::as_str)
            .collect();
        Ok(self.store.retain(keep, &protected)?)
    }

    /// The folder of a step's checkpoint, where it is there.
    pub(crate) fn path_of(&self, step: u64) -> Option<PathBuf> {
        Some(self.store.path_of(step)).filter(|path| self.disk.exists(path))
    }

    /// The same, where it must be.
    pub(crate) fn saved(&self, step: u64) -> Result<PathBuf, TrainError> {
        self.path_of(step).ok_or_else(|| TrainError::Gone {
            checkpoint: self.store.path_of(step),
        })
    }

    /// Writes what was learnt into the run's folder itself, one whole file after the other.
    pub(crate) fn save_final<L: Learner>(&self, learner: &L) -> Result<(), TrainError> {
        let mut staged = durable::StagedFolder::beside_on(&self.disk, self.folder.join("final"))?;
        learner.save(&mut staged)?;
        for name in staged.files().keys() {
            let to = self.folder.join(name);
            if name == CARD_NAME && !may_replace_card(&self.disk, &self.folder) {
                continue;
            }
            self.disk.copy_file(staged.staging_path().join(name), to)?;
        }
        Ok(())
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        Path::new(&self.folder).join(name)
    }
}

/// Refuses a run that its folder alone makes impossible: it is a model's, there is another run's work in it, or nothing to
/// resume from.
/// Only reads, so that it can be asked before anything is made ready.
///
/// # Errors
/// [`TrainError::OutputIsModel`], [`TrainError::OutputInUse`], or as the search for the checkpoint.
pub fn check_output(disk: &Disk, arguments: &TrainingArguments) -> Result<(), TrainError> {
    let folder = Path::new(&arguments.output_dir);
    refuse_model(disk, folder)?;
    let store = CheckpointStore::on(disk, folder);
    match &arguments.resume_from_checkpoint {
        Some(asked) => find(&store, folder, asked).map(drop),
        None => refuse_if_used(&store, folder),
    }
}

fn refuse_if_used(store: &CheckpointStore, folder: &Path) -> Result<(), TrainError> {
    let listing = store.list()?;
    let ended = store.disk().exists(folder.join(TRAINER_STATE));
    if listing.checkpoints.is_empty() && listing.skipped.is_empty() && !ended {
        return Ok(());
    }
    Err(TrainError::OutputInUse {
        folder: folder.to_owned(),
    })
}

fn find(
    store: &CheckpointStore,
    folder: &Path,
    asked: &str,
) -> Result<(Checkpoint, Vec<Skipped>), TrainError> {
    if asked == LATEST {
        let newest = store.newest()?;
        return Ok((newest.checkpoint, newest.skipped));
    }
    let opened = store.open(asked);
    let checkpoint = opened.map_err(|error| no_checkpoint(store.disk(), asked, error))?;
    // Of another folder's run nothing here can be: it would be taken for a course that is left.
    let is_inside = checkpoint
        .path
        .parent()
        .is_some_and(|parent| same_place(parent, folder));
    if !is_inside {
        refuse_if_used(store, folder)?;
    }
    Ok((checkpoint, Vec::new()))
}

/// Values and both moments, in f32.
fn checkpoint_bytes<L: Learner>(learner: &L) -> u64 {
    crate::trainer::trainable_parameters(learner) * 12
}

/// The run's settings as a manifest has them, so that a difference can be told in words.
fn settings(plan: &Plan) -> BTreeMap<String, String> {
    let arguments =
        serde_json::to_value(&plan.arguments).expect("numbers, words and switches serialise");
    let Value::Object(map) = arguments else {
        return BTreeMap::new();
    };
    let compared = map
        .into_iter()
        .filter(|(name, _)| !UNCOMPARED.contains(&name.as_str()));
    compared
        .map(|(name, value)| (name, value.to_string()))
        .collect()
}
