//! The checkpoints of one run: saved whole, found by what they say of themselves, thinned out with care.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Entry};
use crate::error::{DurableError, Result, Skipped};
use crate::fs::{Kind, Point};
use crate::links::same_place;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::staged::StagedFolder;

const PREFIX: &str = "checkpoint-";

/// A checkpoint whose manifest was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// What its manifest says.
    pub manifest: Manifest,
}

impl Checkpoint {
    /// The training step of which it is the state.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// The folder's name.
    pub fn name(&self) -> String {
        self.path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// All that is in a run's folder, as far as checkpoints go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Folders with a readable manifest, newest step first. Their files are not verified yet.
    pub checkpoints: Vec<Checkpoint>,
    /// `checkpoint-N` folders that cannot be used, with the reason.
    pub skipped: Vec<Skipped>,
    /// Left-overs of killed runs and names that only look like ours, with what they are. Never used.
    pub strays: Vec<Skipped>,
}

/// The newest good checkpoint, and those that were passed over to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Every file of it has the size and digest that its manifest says.
    pub checkpoint: Checkpoint,
    /// Newer or unreadable ones, with the reason.
    pub skipped: Vec<Skipped>,
}

/// The `checkpoint-N` folders in a run's folder. Hold its [`crate::FolderLock`] while writing.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    disk: Disk,
    run: PathBuf,
}

impl CheckpointStore {
    /// The store in a run's folder on the real disk.
    pub fn new(run: impl AsRef<Path>) -> Self {
        Self::on(&Disk::real(), run)
    }

    /// As [`CheckpointStore::new`], on another disk.
    pub fn on(disk: &Disk, run: impl AsRef<Path>) -> Self {
        Self {
            disk: disk.clone(),
            run: run.as_ref().to_owned(),
        }
    }

    /// The disk it is on.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The folder of a step's checkpoint.
    pub fn path_of(&self, step: u64) -> PathBuf {
        self.run.join(format!("{PREFIX}{step}"))
    }

    /// Saves a step's checkpoint: `fill` writes the files, then the manifest is added and the folder appears in
    /// one step. Where a sync fails, everything is tried once more with new files, then given up.
    ///
    /// A checkpoint of the same step that is there (a damaged one, or of an abandoned continuation) is replaced;
    /// a folder of that name without a manifest is not ours and is set aside as `checkpoint-N.replaced-…`.
    ///
    /// # Errors
    /// What `fill` returns, or as [`StagedFolder::publish`]. Earlier checkpoints are untouched.
    pub fn save<E: From<DurableError>>(
        &self,
        step: u64,
        digests: &BTreeMap<String, String>,
        mut fill: impl FnMut(&mut StagedFolder) -> Result<(), E>,
    ) -> Result<Checkpoint, E> {
        match self.try_save(step, digests, &mut fill) {
            Err((_, true)) => self
                .try_save(step, digests, &mut fill)
                .map_err(|(error, _)| error),
            other => other.map_err(|(error, _)| error),
        }
    }

    /// One attempt; the flag of a failure says that a file of it was condemned by a failed sync.
    fn try_save<E: From<DurableError>>(
        &self,
        step: u64,
        digests: &BTreeMap<String, String>,
        fill: &mut impl FnMut(&mut StagedFolder) -> Result<(), E>,
    ) -> Result<Checkpoint, (E, bool)> {
        let path = self.path_of(step);
        let fresh = StagedFolder::staged(&self.disk, &path);
        let mut staged = fresh.map_err(|error| (error.into(), false))?;
        fill(&mut staged).map_err(|error| (error, staged.condemned()))?;
        let sealed = staged.seal_with_manifest(step, digests.clone());
        let manifest = sealed.map_err(|error| (error.into(), staged.condemned()))?;
        self.put_in_place(staged, &path)
            .map_err(|error| (error.into(), false))?;
        Ok(Checkpoint { path, manifest })
    }

    fn put_in_place(&self, staged: StagedFolder, path: &Path) -> Result<()> {
        if !self.disk.present(path)? {
            return staged.publish_sealed();
        }
        if !self.disk.present(&path.join(MANIFEST_NAME))? {
            // Before the swap, which would give it a name that is swept, were this process to die then.
            self.disk.set_aside(path)?;
            return staged.publish_sealed();
        }
        let old = staged.swap_into_place()?;
        self.disk.remove_tree(&old)
    }

    /// What is in the run's folder, without verifying files. A run folder that is absent lists nothing.
    ///
    /// # Errors
    /// [`DurableError::NotAFolder`] or [`DurableError::Io`] on the run's folder itself.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        if !self.disk.present(&self.run)? {
            return Ok(listing);
        }
        for entry in self.disk.list_dir(&self.run)? {
            match class_of(&entry) {
                Class::Checkpoint => self.enter(entry, &mut listing),
                Class::LeftOver => {
                    let why = self.disk.state_of_staged(&entry.path);
                    listing.strays.push(skipped(entry.path, why));
                }
                Class::Stray(why) => listing.strays.push(skipped(entry.path, why)),
                Class::Foreign => {}
            }
        }
        listing
            .checkpoints
            .sort_by_key(|one| (Reverse(one.step()), one.path.clone()));
        Ok(listing)
    }

    fn enter(&self, entry: Entry, listing: &mut Listing) {
        match Manifest::read_on(&self.disk, &entry.path) {
            Ok(manifest) => listing.checkpoints.push(Checkpoint {
                path: entry.path,
                manifest,
            }),
            Err(error) => listing.skipped.push(skipped(entry.path, reason_of(&error))),
        }
    }

    /// The newest checkpoint that verifies, by the step in its manifest; never by name or clock.
    ///
    /// # Errors
    /// [`DurableError::NoCheckpoint`] with the reason for each that is bad, [`DurableError::NewerFormat`] where
    /// one is intact but from a newer version (its work would be lost unseen), or as [`CheckpointStore::list`].
    pub fn newest(&self) -> Result<Newest> {
        let mut listing = self.list()?;
        self.refuse_newer(&listing)?;
        for checkpoint in listing.checkpoints {
            match checkpoint.manifest.verify_on(&self.disk, &checkpoint.path) {
                Ok(()) => {
                    return Ok(Newest {
                        checkpoint,
                        skipped: listing.skipped,
                    });
                }
                Err(error) => {
                    listing
                        .skipped
                        .push(skipped(checkpoint.path, reason_of(&error)));
                }
            }
        }
        Err(DurableError::NoCheckpoint {
            path: self.run.clone(),
            skipped: listing.skipped,
        })
    }

    fn refuse_newer(&self, listing: &Listing) -> Result<()> {
        for one in &listing.skipped {
            if let Err(error @ DurableError::NewerFormat { .. }) =
                Manifest::read_on(&self.disk, &one.path)
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes out of the order what would stand before all that a run is to write which goes on from `resumed`: the
    /// checkpoints behind its step, and another one of that very step. They are kept as `checkpoint-N.replaced-…`. Returns
    /// where they were and where they are, newest first.
    ///
    /// # Errors
    /// As [`CheckpointStore::list`], or [`DurableError::Io`] of a renaming.
    pub fn set_aside_behind(&self, resumed: &Checkpoint) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut left = self.list()?.checkpoints;
        left.retain(|one| {
            let is_other = || !same_place(&one.path, &resumed.path);
            one.step() > resumed.step() || (one.step() == resumed.step() && is_other())
        });
        let aside = |one: Checkpoint| {
            let aside = self.disk.set_aside(&one.path)?;
            Ok((one.path, aside))
        };
        left.into_iter().map(aside).collect()
    }

    /// Opens and verifies one checkpoint folder, wherever it is.
    ///
    /// # Errors
    /// [`DurableError::NotFound`], [`DurableError::NoManifest`], [`DurableError::NewerFormat`] or
    /// [`DurableError::Damaged`] with all that is wrong.
    pub fn open(&self, folder: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = folder.as_ref().to_owned();
        if !self.disk.present(&path)? {
            return Err(DurableError::NotFound { path });
        }
        let manifest = Manifest::read_on(&self.disk, &path)?;
        manifest.verify_on(&self.disk, &path)?;
        Ok(Checkpoint { path, manifest })
    }

    /// Removes the oldest checkpoints until `keep` are left, those with a protected folder name (best, resumed
    /// from, just saved) counted and never removed. Where one that is to stay does not verify, a good older one stays in its
    /// place, so that never fewer than `keep` good ones are left. Returns the removed folders.
    ///
    /// # Errors
    /// As [`CheckpointStore::list`] and [`Disk::remove_folder`].
    pub fn retain(&self, keep: usize, protected: &[&str]) -> Result<Vec<PathBuf>> {
        let listing = self.list()?;
        let (left, victims) = split(listing.checkpoints, keep.max(1), protected);
        let verifies = |one: &&Checkpoint| one.manifest.verify_on(&self.disk, &one.path).is_ok();
        let damaged_left = left.iter().filter(|one| !verifies(one)).count();
        // A good victim stands in for each one that is to be left but is damaged.
        let mut stand_ins = damaged_left;
        let mut doomed = Vec::new();
        for victim in victims {
            if stand_ins > 0 && verifies(&&victim) {
                stand_ins -= 1;
            } else {
                doomed.push(victim.path);
            }
        }
        doomed.reverse(); // oldest first
        for path in &doomed {
            self.disk.point(Point::VictimChosen);
            self.disk.remove_folder(path)?;
        }
        Ok(doomed)
    }

    /// Removes what killed runs left in the run's folder: staging and trash folders, half-written files. Only
    /// under the lock, because another writer's looks the same; a staging folder that a process fills stays all the same.
    /// Returns what was removed.
    ///
    /// # Errors
    /// As [`CheckpointStore::list`], or [`DurableError::Io`] of a removal.
    pub fn sweep(&self) -> Result<Vec<PathBuf>> {
        self.sweep_folder(&self.run)
    }

    /// As [`CheckpointStore::sweep`], in a folder inside the run's, where other parts of a run keep files. Where it
    /// is no folder, there is nothing of ours.
    ///
    /// # Errors
    /// As [`CheckpointStore::sweep`].
    pub fn sweep_within(&self, name: &str) -> Result<Vec<PathBuf>> {
        let folder = self.run.join(name);
        if self.disk.is_dir(&folder) {
            self.sweep_folder(&folder)
        } else {
            Ok(Vec::new())
        }
    }

    fn sweep_folder(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        if !self.disk.present(folder)? {
            return Ok(removed);
        }
        let mut entries = self.disk.list_dir(folder)?;
        entries.retain(is_left_over);
        if !entries.is_empty() {
            // Whoever died may have renamed one without making that safe: a power cut must not give half of it its name back.
            self.disk.sync_folder(folder)?;
        }
        for entry in entries {
            let gone = match entry.kind {
                // Under the run's lock, what no system can tell to be held is not.
                Kind::Folder => self.disk.remove_staged(&entry.path, true)?,
                _ => self.disk.remove_file(&entry.path).map(|()| true)?,
            };
            if gone {
                removed.push(entry.path);
            }
        }
        Ok(removed)
    }
}

/// Newest first: what is left, and the victims. A protected one takes the place of an unprotected one.
fn split(
    newest_first: Vec<Checkpoint>,
    keep: usize,
    protected: &[&str],
) -> (Vec<Checkpoint>, Vec<Checkpoint>) {
    let protected: BTreeSet<&str> = protected.iter().copied().collect();
    let is_protected = |one: &Checkpoint| protected.contains(one.name().as_str());
    let guarded = newest_first.iter().filter(|one| is_protected(one)).count();
    // The newest is never a victim, even where protected ones fill all places.
    let mut places = keep.saturating_sub(guarded);
    let (mut left, mut victims) = (Vec::new(), Vec::new());
    for (index, one) in newest_first.into_iter().enumerate() {
        if is_protected(&one) {
            left.push(one);
        } else if places > 0 || index == 0 {
            places = places.saturating_sub(1);
            left.push(one);
        } else {
            victims.push(one);
        }
    }
    (left, victims)
}

enum Class {
    Checkpoint,
    LeftOver,
    Stray(&'static str),
    Foreign,
}

fn class_of(entry: &Entry) -> Class {
    if is_left_over(entry) {
        return Class::LeftOver;
    }
    let Some(number) = entry.name.strip_prefix(PREFIX) else {
        return Class::Foreign;
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Class::Stray("not a checkpoint: no plain number after `checkpoint-`");
    }
    if number.parse::<u64>().is_err() {
        return Class::Stray("not a checkpoint: the number is too large");
    }
    match entry.kind {
        Kind::Folder => Class::Checkpoint,
        _ => Class::Stray("not a checkpoint: not a folder"),
    }
}

/// Names that only this crate gives: `.staging-NAME-PID-N`, `.trash-NAME-PID-N`, `.NAME.tmp-PID-N`.
fn is_left_over(entry: &Entry) -> bool {
    let numbers = entry.name.rsplitn(3, '-').take(2);
    let numbered = numbers.into_iter().all(|part| part.parse::<u64>().is_ok());
    let staged = entry.name.starts_with(".staging-") || entry.name.starts_with(".trash-");
    let folder = staged && entry.kind == Kind::Folder;
    let half = entry.name.starts_with('.') && entry.name.contains(".tmp-");
    numbered && (folder || (half && entry.kind == Kind::File))
}

fn skipped(path: PathBuf, reason: impl Into<String>) -> Skipped {
    Skipped {
        path,
        reason: reason.into(),
    }
}

/// The reason without the path, which stands beside it.
fn reason_of(error: &DurableError) -> String {
    match error {
        DurableError::Damaged { reasons, .. } => reasons.join("; "),
        DurableError::NoManifest { .. } => "no manifest.json".to_owned(),
        DurableError::NewerFormat { found, ours, .. } => {
            format!("format_version {found}, this build reads up to {ours}")
        }
        other => other.to_string(),
    }
}
