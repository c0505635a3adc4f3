//! A folder that is filled out of sight and then appears whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, parent_of, plain_name};
use crate::error::{DurableError, Result};
use crate::fs::{FsFile, Point};
use crate::manifest::{FileRecord, MANIFEST_NAME, Manifest};
use crate::writing::NewFile;

/// A folder in the making, beside its final place. Dropped unpublished, it is removed, with parents made for it alone; what
/// a process that was killed left there is removed by the next one that starts a folder for the same place.
#[derive(Debug)]
pub struct StagedFolder {
    disk: Disk,
    staging: PathBuf,
    target: PathBuf,
    files: BTreeMap<String, FileRecord>,
    large: BTreeSet<String>,
    open: Option<String>,
    condemned: bool,
    published: bool,
    /// Parents that were not there before, deepest first.
    made: Vec<PathBuf>,
    /// Ends with this process, however it dies: then the folder is a stray.
    _held: Option<Box<dyn FsFile>>,
}

impl StagedFolder {
    /// Starts a folder that will be `target`, on the real disk. Parents are created.
    ///
    /// # Errors
    /// [`DurableError::AlreadyExists`] where anything has that path, else as [`Disk::create_dir_all`].
    pub fn new(target: impl AsRef<Path>) -> Result<Self> {
        Self::on(&Disk::real(), target)
    }

    /// As [`StagedFolder::new`], on another disk.
    ///
    /// # Errors
    /// As [`StagedFolder::new`].
    pub fn on(disk: &Disk, target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref();
        if disk.present(target)? {
            return Err(DurableError::AlreadyExists {
                path: target.to_owned(),
            });
        }
        Self::beside_on(disk, target)
    }

    /// Starts a folder whatever is at `target` now, on the real disk; for [`StagedFolder::publish_over`].
    ///
    /// # Errors
    /// As [`Disk::create_dir_all`].
    pub fn beside(target: impl AsRef<Path>) -> Result<Self> {
        Self::beside_on(&Disk::real(), target)
    }

    /// As [`StagedFolder::beside`], on another disk.
    ///
    /// # Errors
    /// As [`StagedFolder::beside`].
    pub fn beside_on(disk: &Disk, target: impl AsRef<Path>) -> Result<Self> {
        disk.sweep_beside(target.as_ref());
        Self::staged(disk, target.as_ref())
    }

    /// As [`StagedFolder::beside_on`], where strays are seen to already.
    pub(crate) fn staged(disk: &Disk, target: &Path) -> Result<Self> {
        let made = disk.absent(parent_of(target));
        disk.create_dir_all(parent_of(target))?;
        let (staging, held) = disk.create_staging(target)?;
        disk.point(Point::StagingCreated);
        Ok(Self {
            disk: disk.clone(),
            staging,
            target: target.to_owned(),
            files: BTreeMap::new(),
            large: BTreeSet::new(),
            open: None,
            condemned: false,
            published: false,
            made,
            _held: held,
        })
    }

    /// Where the files are until the folder is published.
    pub fn staging_path(&self) -> &Path {
        &self.staging
    }

    /// Where the folder will be.
    pub fn target_path(&self) -> &Path {
        &self.target
    }

    /// The finished files that have a digest: size and digest by name.
    pub fn files(&self) -> &BTreeMap<String, FileRecord> {
        &self.files
    }

    /// Whether a sync failed, so that this staging folder can never be published.
    pub(crate) fn condemned(&self) -> bool {
        self.condemned
    }

    /// Writes one file, synced when this returns.
    ///
    /// # Errors
    /// [`DurableError::BadName`], [`DurableError::AlreadyExists`], [`DurableError::NoSpace`],
    /// [`DurableError::Sync`] or [`DurableError::Io`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(name)?;
        file.put(bytes)?;
        file.finish()
    }

    /// Copies one file in, from the same disk.
    ///
    /// # Errors
    /// As [`StagedFolder::write`], and as [`Disk::open_read`] for `from`.
    pub fn copy_in(&mut self, name: &str, from: impl AsRef<Path>) -> Result<()> {
        let disk = self.disk.clone();
        let mut file = self.create(name)?;
        disk.each_piece(from.as_ref(), |piece| file.put(piece))?;
        file.finish()
    }

    /// Starts one file; [`StagedFile::finish`] must be called, else the folder cannot be published.
    ///
    /// # Errors
    /// [`DurableError::BadName`], [`DurableError::AlreadyExists`], [`DurableError::NoSpace`] or
    /// [`DurableError::Io`].
    pub fn create(&mut self, name: &str) -> Result<StagedFile<'_>> {
        self.start(name, NewFile::create)
    }

    /// As [`StagedFolder::create`], for a file of gigabytes: a thread of its own writes it, on Linux past the page cache, and
    /// it has no digest, so that the folder can have no manifest.
    ///
    /// # Errors
    /// As [`StagedFolder::create`]; a write may fail when later bytes come.
    pub fn create_large(&mut self, name: &str) -> Result<StagedFile<'_>> {
        self.start(name, NewFile::create_large)
    }

    fn start<'a>(
        &'a mut self,
        name: &str,
        create: impl FnOnce(&'a Disk, &Path) -> Result<NewFile<'a>>,
    ) -> Result<StagedFile<'a>> {
        plain_name(name)?;
        self.refuse_unfinished()?;
        self.open = Some(name.to_owned());
        let file = create(&self.disk, &self.staging.join(name))?;
        Ok(StagedFile {
            file,
            name: name.to_owned(),
            files: &mut self.files,
            large: &mut self.large,
            open: &mut self.open,
            condemned: &mut self.condemned,
        })
    }

    /// Publishes without a manifest: sync, rename without replacing, sync the parent.
    ///
    /// # Errors
    /// [`DurableError::AlreadyExists`] where something took the path meanwhile, [`DurableError::Unfinished`],
    /// [`DurableError::Sync`] or [`DurableError::Io`]. Nothing is at the final path then, except where it was
    /// the very last sync, of the parent, that failed.
    pub fn publish(mut self) -> Result<()> {
        self.seal()?;
        self.rename_into_place()
    }

    /// Publishes what [`StagedFolder::seal_with_manifest`] has sealed.
    pub(crate) fn publish_sealed(mut self) -> Result<()> {
        self.rename_into_place()
    }

    /// Publishes with a manifest over the files so far, written last.
    ///
    /// # Errors
    /// As [`StagedFolder::publish`].
    pub fn publish_with_manifest(
        mut self,
        step: u64,
        digests: BTreeMap<String, String>,
    ) -> Result<Manifest> {
        let manifest = self.seal_with_manifest(step, digests)?;
        self.rename_into_place()?;
        Ok(manifest)
    }

    /// Publishes into a place that may be there: where it is absent as [`StagedFolder::publish`], else each
    /// file replaces its namesake in one step of its own and other files stay, as `save_pretrained` does.
    ///
    /// # Errors
    /// [`DurableError::NotAFolder`], else as [`StagedFolder::publish`]. Each file is then old or new.
    pub fn publish_over(mut self) -> Result<()> {
        self.seal()?;
        if !self.disk.present(&self.target)? {
            return self.rename_into_place();
        }
        self.disk.create_dir_all(&self.target)?;
        for name in self.files.keys().chain(&self.large) {
            let (from, to) = (self.staging.join(name), self.target.join(name));
            let moved = self.disk.fs().rename_over(&from, &to);
            moved.map_err(|source| self.disk.write_error("replace", &to, 0, source))?;
        }
        self.disk.sync_folder(&self.target)
    }

    pub(crate) fn seal_with_manifest(
        &mut self,
        step: u64,
        digests: BTreeMap<String, String>,
    ) -> Result<Manifest> {
        self.refuse_unfinished()?;
        if let Some(name) = self.large.first() {
            return Err(self.unfinished(name));
        }
        self.disk.point(Point::FilesDone);
        let manifest = Manifest::new(step, self.files.clone(), digests);
        self.write(MANIFEST_NAME, manifest.to_text().as_bytes())?;
        self.disk.point(Point::ManifestSynced);
        self.seal()?;
        Ok(manifest)
    }

    fn seal(&mut self) -> Result<()> {
        self.refuse_unfinished()?;
        if let Err(error) = self.disk.sync_folder(&self.staging) {
            self.condemned = true;
            return Err(error);
        }
        self.disk.point(Point::StagingSynced);
        Ok(())
    }

    fn rename_into_place(&mut self) -> Result<()> {
        let renamed = self.disk.fs().rename_new(&self.staging, &self.target);
        renamed.map_err(|source| self.disk.write_error("publish", &self.target, 0, source))?;
        self.published = true;
        self.disk.point(Point::Renamed);
        self.disk.sync_folder(parent_of(&self.target))?;
        self.disk.point(Point::Published);
        Ok(())
    }

    /// As publishing, but trades places with what is at the target now; returns where that went.
    pub(crate) fn swap_into_place(mut self) -> Result<PathBuf> {
        let swapped = self.disk.fs().swap(&self.staging, &self.target);
        swapped.map_err(|source| self.disk.write_error("publish", &self.target, 0, source))?;
        self.published = true;
        self.disk.point(Point::Renamed);
        self.disk.sync_folder(parent_of(&self.target))?;
        self.disk.point(Point::Published);
        Ok(self.staging.clone())
    }

    fn refuse_unfinished(&self) -> Result<()> {
        match &self.open {
            Some(name) => Err(self.unfinished(name)),
            None => Ok(()),
        }
    }

    fn unfinished(&self, name: &str) -> DurableError {
        DurableError::Unfinished {
            path: self.target.clone(),
            name: name.to_owned(),
        }
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is a stray that readers ignore and the next run sweeps.
            let _ = self.disk.remove_tree(&self.staging);
            // One that holds something by now refuses, and so do those above it.
            let fs = self.disk.fs();
            let _ = self
                .made
                .iter()
                .try_for_each(|folder| fs.remove_folder(folder));
        }
    }
}

/// One file of a [`StagedFolder`], being written.
#[derive(Debug)]
pub struct StagedFile<'a> {
    file: NewFile<'a>,
    name: String,
    files: &'a mut BTreeMap<String, FileRecord>,
    large: &'a mut BTreeSet<String>,
    open: &'a mut Option<String>,
    condemned: &'a mut bool,
}

impl StagedFile<'_> {
    /// Adds bytes. As [`Write`], with this crate's error.
    ///
    /// # Errors
    /// [`DurableError::NoSpace`] or [`DurableError::Io`].
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.put(bytes)
    }

    /// Syncs the file and enters it in the folder's list.
    ///
    /// # Errors
    /// [`DurableError::NoSpace`], [`DurableError::Sync`] or [`DurableError::Io`].
    pub fn finish(self) -> Result<()> {
        let (size_bytes, sha256) = self.file.finish().inspect_err(|error| {
            *self.condemned |= matches!(error, DurableError::Sync { .. });
        })?;
        match sha256 {
            Some(sha256) => {
                let record = FileRecord { size_bytes, sha256 };
                self.files.insert(self.name, record);
            }
            None => {
                self.large.insert(self.name);
            }
        }
        *self.open = None;
        Ok(())
    }
}

impl Write for StagedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // `finish` writes and syncs; flushing earlier would only cost
    }
}
