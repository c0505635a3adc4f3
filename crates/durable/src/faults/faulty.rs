//! A file system whose n-th operation fails, or at which the process dies.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dice::Dice;
use super::sim::SimFs;
use crate::fs::{Fs, FsFile, Hold, Point, Stat};
use crate::mapped::Mapped;

/// The kinds of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the operation of that name")]
pub enum Op {
    Stat,
    List,
    OpenRead,
    Create,
    OpenAppend,
    Lock,
    Map,
    CreateFolder,
    Rename,
    RemoveFile,
    RemoveFolder,
    SyncFolder,
    FreeSpace,
    Read,
    Write,
    Seek,
    SetLen,
    SyncFile,
}

/// What the system says of a failed operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// ENOSPC.
    NoSpace,
    /// EIO.
    Io,
    /// EFBIG, as under RLIMIT_FSIZE.
    TooBig,
    /// EROFS.
    ReadOnly,
    /// EACCES.
    Denied,
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Self::NoSpace => io::ErrorKind::StorageFull.into(),
            Self::Io => io::Error::other("input/output error"),
            Self::TooBig => io::ErrorKind::FileTooLarge.into(),
            Self::ReadOnly => io::ErrorKind::ReadOnlyFilesystem.into(),
            Self::Denied => io::ErrorKind::PermissionDenied.into(),
        }
    }
}

/// What goes wrong, and when. Operations are counted from 0.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    fail: Option<(u64, Failure)>,
    only: Option<BTreeSet<Op>>,
    applied: bool,
    forever: bool,
    die: Option<u64>,
    die_at: Option<(Point, u64)>,
    noise: Option<Dice>,
}

impl Plan {
    /// Nothing goes wrong; operations are counted.
    pub fn none() -> Self {
        Self::default()
    }

    /// The n-th operation fails.
    pub fn fail(n: u64, failure: Failure) -> Self {
        Self {
            fail: Some((n, failure)),
            ..Self::default()
        }
    }

    /// The process dies at the n-th operation: it and all later ones do nothing.
    pub fn die(n: u64) -> Self {
        Self {
            die: Some(n),
            ..Self::default()
        }
    }

    /// The process dies when it passes a point for the n-th time.
    pub fn die_at(point: Point, n: u64) -> Self {
        Self {
            die_at: Some((point, n)),
            ..Self::default()
        }
    }

    /// Reads and writes are cut short and interrupted at random, which is no error.
    pub fn noise(seed: u64) -> Self {
        Self {
            noise: Some(Dice::new(seed)),
            ..Self::default()
        }
    }

    /// Only these kinds are counted.
    pub fn only(mut self, ops: &[Op]) -> Self {
        self.only = Some(ops.iter().copied().collect());
        self
    }

    /// The failing operation takes effect all the same.
    pub fn applied(mut self) -> Self {
        self.applied = true;
        self
    }

    /// Not only the n-th but all from there on fail.
    pub fn forever(mut self) -> Self {
        self.forever = true;
        self
    }
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    count: u64,
    trace: Vec<(Op, PathBuf)>,
    points: Vec<Point>,
    dead: bool,
    injected: u64,
    sync_failed: BTreeSet<PathBuf>,
    retried_syncs: u64,
}

/// A file system around another one, which does what a [`Plan`] says. Clones share plan and counts.
#[derive(Debug, Clone)]
pub struct FaultyFs {
    inner: Arc<dyn Fs>,
    sim: Option<SimFs>,
    state: Arc<Mutex<State>>,
}

enum Go {
    /// As always.
    Well,
    /// Do it, then say that it failed.
    ThenFail(io::Error),
}

impl FaultyFs {
    /// Around any file system.
    pub fn new(inner: Arc<dyn Fs>, plan: Plan) -> Self {
        Self {
            inner,
            sim: None,
            state: Arc::new(Mutex::new(State {
                plan,
                ..State::default()
            })),
        }
    }

    /// Around a simulated disk, which then also loses what a failed sync should have saved.
    pub fn on_sim(sim: &SimFs, plan: Plan) -> Self {
        Self {
            sim: Some(sim.clone()),
            ..Self::new(Arc::new(sim.clone()), plan)
        }
    }

    /// Starts counting again, with another plan.
    pub fn set_plan(&self, plan: Plan) {
        *self.state() = State {
            plan,
            ..State::default()
        };
    }

    /// Operations counted so far.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    /// Every operation so far with its path.
    pub fn trace(&self) -> Vec<(Op, PathBuf)> {
        self.state().trace.clone()
    }

    /// The points passed so far.
    pub fn points(&self) -> Vec<Point> {
        self.state().points.clone()
    }

    /// Faults that took place so far.
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    /// Syncs of a file or folder whose sync had failed before: must stay 0.
    pub fn retried_syncs(&self) -> u64 {
        self.state().retried_syncs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<T>(&self, op: Op, path: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let go = self.state().enter(op, path)?;
        let done = act()?;
        match go {
            Go::Well => Ok(done),
            Go::ThenFail(error) => Err(error),
        }
    }

    /// As `run`; a failing sync reaches the simulated disk, which then loses what it was to save.
    fn sync(&self, op: Op, path: &Path, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let entered = self.state().enter_sync(op, path);
        match (entered, &self.sim) {
            (Err(error), Some(sim)) if !self.state().dead => {
                sim.fail_next_sync();
                let _ = act();
                Err(error)
            }
            (Err(error), _) => Err(error),
            (Ok(Go::Well), _) => act(),
            (Ok(Go::ThenFail(error)), _) => act().and(Err(error)),
        }
    }

    fn wrap(&self, file: Box<dyn FsFile>, path: &Path) -> Box<dyn FsFile> {
        Box::new(FaultyFile {
            inner: file,
            path: path.to_owned(),
            fs: self.clone(),
        })
    }
}

impl State {
    fn enter(&mut self, op: Op, path: &Path) -> io::Result<Go> {
        if self.dead {
            return Err(dead());
        }
        self.trace.push((op, path.to_owned()));
        if self
            .plan
            .only
            .as_ref()
            .is_some_and(|only| !only.contains(&op))
        {
            return Ok(Go::Well);
        }
        let index = self.count;
        self.count += 1;
        if self.plan.die == Some(index) {
            self.injected += 1;
            self.dead = true;
            return Err(dead());
        }
        let Some((n, failure)) = self.plan.fail else {
            return Ok(Go::Well);
        };
        if index != n && !(self.plan.forever && index > n) {
            return Ok(Go::Well);
        }
        self.injected += 1;
        match self.plan.applied {
            true => Ok(Go::ThenFail(failure.error())),
            false => Err(failure.error()),
        }
    }

    fn enter_sync(&mut self, op: Op, path: &Path) -> io::Result<Go> {
        if !self.dead && self.sync_failed.contains(path) {
            self.retried_syncs += 1;
        }
        let entered = self.enter(op, path);
        if !self.dead && !matches!(entered, Ok(Go::Well)) {
            self.sync_failed.insert(path.to_owned());
        }
        entered
    }

    /// How many of `len` bytes are moved, or an interruption; without noise all.
    fn noisy(&mut self, len: usize) -> io::Result<usize> {
        let Some(dice) = &mut self.plan.noise else {
            return Ok(len);
        };
        if dice.chance(25) {
            self.injected += 1;
            return Err(io::ErrorKind::Interrupted.into());
        }
        if len > 1 && dice.chance(50) {
            self.injected += 1;
            return Ok(1 + dice.below(len - 1));
        }
        Ok(len)
    }

    fn pass(&mut self, point: Point) {
        if self.dead {
            return;
        }
        let passed = self
            .points
            .iter()
            .filter(|&&before| before == point)
            .count() as u64;
        self.points.push(point);
        if self.plan.die_at == Some((point, passed)) {
            self.injected += 1;
            self.dead = true;
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

impl Fs for FaultyFs {
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.run(Op::Stat, path, || self.inner.stat(path))
    }

    fn stat_link(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.run(Op::Stat, path, || self.inner.stat_link(path))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.run(Op::List, folder, || self.inner.list(folder))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = self.run(Op::OpenRead, path, || self.inner.open_read(path))?;
        Ok(self.wrap(file, path))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = self.run(Op::Create, path, || self.inner.create_new(path))?;
        Ok(self.wrap(file, path))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = self.run(Op::OpenAppend, path, || self.inner.open_append(path))?;
        Ok(self.wrap(file, path))
    }

    fn try_lock(&self, path: &Path) -> io::Result<(Box<dyn FsFile>, bool)> {
        let (file, locked) = self.run(Op::Lock, path, || self.inner.try_lock(path))?;
        Ok((self.wrap(file, path), locked))
    }

    fn hold_folder(&self, path: &Path) -> io::Result<Hold> {
        self.run(Op::Lock, path, || self.inner.hold_folder(path))
    }

    fn map(&self, path: &Path) -> io::Result<Mapped> {
        self.run(Op::Map, path, || self.inner.map(path))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.run(Op::CreateFolder, path, || self.inner.create_folder(path))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Op::Rename, to, || self.inner.rename_new(from, to))
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Op::Rename, to, || self.inner.rename_over(from, to))
    }

    fn swap(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.run(Op::Rename, other, || self.inner.swap(one, other))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.run(Op::RemoveFile, path, || self.inner.remove_file(path))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.run(Op::RemoveFolder, path, || self.inner.remove_folder(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.sync(Op::SyncFolder, path, || self.inner.sync_folder(path))
    }

    fn free_space(&self, path: &Path) -> io::Result<Option<u64>> {
        self.run(Op::FreeSpace, path, || self.inner.free_space(path))
    }

    fn point(&self, point: Point) {
        self.state().pass(point);
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn FsFile>,
    path: PathBuf,
    fs: FaultyFs,
}

impl Read for FaultyFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fs.state().noisy(buffer.len())?;
        let inner = &mut self.inner;
        self.fs
            .run(Op::Read, &self.path, || inner.read(&mut buffer[..count]))
    }
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.fs.state().noisy(bytes.len())?;
        let inner = &mut self.inner;
        self.fs
            .run(Op::Write, &self.path, || inner.write(&bytes[..count]))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for FaultyFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let inner = &mut self.inner;
        self.fs.run(Op::Seek, &self.path, || inner.seek(to))
    }
}

impl FsFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        let inner = &mut self.inner;
        self.fs.sync(Op::SyncFile, &self.path, || inner.sync())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let inner = &mut self.inner;
        self.fs.run(Op::SetLen, &self.path, || inner.set_len(len))
    }
}
