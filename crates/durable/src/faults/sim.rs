//! A disk in memory with a journal of every change, and of what was synced.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::{Fs, FsFile, Hold, Kind, Stat};
use crate::mapped::Mapped;

pub(super) type NodeId = usize;

/// The root folder's node.
pub(super) const ROOT: NodeId = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    File(Vec<u8>),
    Folder(BTreeMap<OsString, NodeId>),
}

/// One change, in the order in which they were made.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write {
        node: NodeId,
        at: u64,
        bytes: Vec<u8>,
    },
    SetLen {
        node: NodeId,
        len: u64,
    },
    /// Entries of folders set or removed together, as a rename does.
    Names(Vec<Name>),
    Sync {
        node: NodeId,
        worked: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) folder: NodeId,
    pub(super) name: OsString,
    pub(super) node: Option<NodeId>,
}

#[derive(Debug, Clone)]
pub(super) struct Sim {
    /// What was on the disk when the journal began.
    pub(super) base: Vec<Node>,
    /// What a process sees.
    pub(super) nodes: Vec<Node>,
    pub(super) journal: Vec<Change>,
    locked: BTreeSet<NodeId>,
    capacity_bytes: Option<u64>,
    lies_about_sync: bool,
    next_sync_fails: bool,
}

/// A disk in memory. Clones are the same disk. It knows files and folders, no links; paths start at its root.
#[derive(Debug, Clone)]
pub struct SimFs {
    sim: Arc<Mutex<Sim>>,
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFs {
    /// An empty disk.
    pub fn new() -> Self {
        Self::of(vec![Node::Folder(BTreeMap::new())])
    }

    pub(super) fn of(nodes: Vec<Node>) -> Self {
        let sim = Sim {
            base: nodes.clone(),
            nodes,
            journal: Vec::new(),
            locked: BTreeSet::new(),
            capacity_bytes: None,
            lies_about_sync: false,
            next_sync_fails: false,
        };
        Self {
            sim: Arc::new(Mutex::new(sim)),
        }
    }

    pub(super) fn sim(&self) -> MutexGuard<'_, Sim> {
        self.sim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limits the bytes of all files together; more is refused as a full disk does.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.sim().capacity_bytes = bytes;
    }

    /// From now on syncing reports success and does nothing, as a bad disk does. For tests of tests.
    pub fn lie_about_sync(&self) {
        self.sim().lies_about_sync = true;
    }

    /// The next sync fails, and what it should have saved is lost for good: a later sync of the same file
    /// reports success without it, as Linux does.
    pub(super) fn fail_next_sync(&self) {
        self.sim().next_sync_fails = true;
    }

    /// Changes so far; a moment for [`SimFs::after_power_loss`].
    pub fn journal_len(&self) -> usize {
        self.sim().journal.len()
    }

    /// The disk as a new process finds it after the old one was killed: all that was done is there, locks are
    /// free.
    pub fn after_kill(&self) -> SimFs {
        let mut sim = self.sim().clone();
        sim.locked.clear();
        Self {
            sim: Arc::new(Mutex::new(sim)),
        }
    }

    /// Every file's path and bytes, to compare two disks.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let sim = self.sim();
        let mut files = BTreeMap::new();
        sim.collect(ROOT, Path::new("/"), &mut files);
        files
    }

    /// Changes a file's bytes behind everyone's back, as damage at rest does; `false` where it is absent.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut sim = self.sim();
        let Ok(node) = sim.find(path) else {
            return false;
        };
        let Node::File(bytes) = &mut sim.nodes[node] else {
            return false;
        };
        change(bytes);
        true
    }

    fn open(&self, node: NodeId, usage: Usage) -> Box<dyn FsFile> {
        Box::new(SimFile {
            disk: self.clone(),
            node,
            at: 0,
            usage,
        })
    }
}

fn error<T>(kind: io::ErrorKind) -> io::Result<T> {
    Err(kind.into())
}

impl Sim {
    fn collect(&self, node: NodeId, path: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        match &self.nodes[node] {
            Node::File(bytes) => {
                files.insert(path.to_owned(), bytes.clone());
            }
            Node::Folder(entries) => {
                for (name, &child) in entries {
                    self.collect(child, &path.join(name), files);
                }
            }
        }
    }

    fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for part in path.components() {
            match part {
                Component::Normal(name) => {
                    let entries = self.entries(node)?;
                    node = *entries.get(name).ok_or(io::ErrorKind::NotFound)?;
                }
                Component::ParentDir => return error(io::ErrorKind::Unsupported),
                _ => {}
            }
        }
        Ok(node)
    }

    fn entries(&self, node: NodeId) -> io::Result<&BTreeMap<OsString, NodeId>> {
        match &self.nodes[node] {
            Node::Folder(entries) => Ok(entries),
            Node::File(_) => error(io::ErrorKind::NotADirectory),
        }
    }

    fn bytes(&self, node: NodeId) -> io::Result<&Vec<u8>> {
        match &self.nodes[node] {
            Node::File(bytes) => Ok(bytes),
            Node::Folder(_) => error(io::ErrorKind::IsADirectory),
        }
    }

    fn place<'a>(&self, path: &'a Path) -> io::Result<(NodeId, &'a OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = self.find(path.parent().unwrap_or(Path::new("")))?;
        self.entries(folder)?;
        Ok((folder, name))
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<NodeId> {
        let (folder, name) = self.place(path)?;
        if self.entries(folder)?.contains_key(name) {
            return error(io::ErrorKind::AlreadyExists);
        }
        let id = self.nodes.len();
        let name = name.to_owned();
        self.nodes.push(node);
        self.change(Change::Names(vec![Name {
            folder,
            name,
            node: Some(id),
        }]));
        Ok(id)
    }

    fn take_name(&self, path: &Path) -> io::Result<(Name, NodeId)> {
        let (folder, name) = self.place(path)?;
        let node = *self
            .entries(folder)?
            .get(name)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok((
            Name {
                folder,
                name: name.to_owned(),
                node: None,
            },
            node,
        ))
    }

    fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        let (old, node) = self.take_name(from)?;
        let (folder, name) = self.place(to)?;
        let there = self.entries(folder)?.get(name).copied();
        match there.map(|other| &self.nodes[other]) {
            Some(Node::File(_)) if replace => {}
            Some(_) => return error(io::ErrorKind::AlreadyExists),
            None => {}
        }
        let new = Name {
            folder,
            name: name.to_owned(),
            node: Some(node),
        };
        self.change(Change::Names(vec![old, new]));
        Ok(())
    }

    /// Makes a change, and enters it in the journal.
    fn change(&mut self, change: Change) {
        apply(&mut self.nodes, &change);
        self.journal.push(change);
    }

    fn used_bytes(&self) -> u64 {
        // Removed files keep their node, but hold no space.
        let mut reached = BTreeMap::new();
        self.collect(ROOT, Path::new("/"), &mut reached);
        reached.values().map(|bytes| bytes.len() as u64).sum()
    }

    fn write(&mut self, node: NodeId, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let len = self.bytes(node)?.len() as u64;
        let growth = (at + bytes.len() as u64).saturating_sub(len);
        let room = match self.capacity_bytes {
            Some(capacity) => capacity.saturating_sub(self.used_bytes()),
            None => growth,
        };
        // As the real ones: what fits is written, and only the next write is refused.
        let count = bytes.len() - growth.saturating_sub(room).min(bytes.len() as u64) as usize;
        if count == 0 && !bytes.is_empty() {
            return error(io::ErrorKind::StorageFull);
        }
        self.change(Change::Write {
            node,
            at,
            bytes: bytes[..count].to_vec(),
        });
        Ok(count)
    }

    fn sync(&mut self, node: NodeId) -> io::Result<()> {
        let worked = !std::mem::take(&mut self.next_sync_fails);
        if !self.lies_about_sync {
            self.journal.push(Change::Sync { node, worked });
        }
        if worked {
            Ok(())
        } else {
            Err(io::Error::other("input/output error"))
        }
    }
}

/// Makes a change in a set of nodes.
pub(super) fn apply(nodes: &mut [Node], change: &Change) {
    match change {
        Change::Write { node, at, bytes } => {
            if let Node::File(old) = &mut nodes[*node] {
                let at = *at as usize;
                let end = at + bytes.len();
                old.resize(old.len().max(end), 0);
                old[at..end].copy_from_slice(bytes);
            }
        }
        Change::SetLen { node, len } => {
            if let Node::File(old) = &mut nodes[*node] {
                old.resize(*len as usize, 0);
            }
        }
        Change::Names(edits) => edits.iter().for_each(|edit| apply_name(nodes, edit)),
        Change::Sync { .. } => {}
    }
}

fn apply_name(nodes: &mut [Node], edit: &Name) {
    if let Node::Folder(entries) = &mut nodes[edit.folder] {
        match edit.node {
            Some(node) => entries.insert(edit.name.clone(), node),
            None => entries.remove(&edit.name),
        };
    }
}

impl Fs for SimFs {
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let sim = self.sim();
        let node = match sim.find(path) {
            Ok(node) => node,
            Err(error) => {
                use io::ErrorKind::{NotADirectory, NotFound};
                let absent = matches!(error.kind(), NotADirectory | NotFound);
                return if absent { Ok(None) } else { Err(error) };
            }
        };
        let (kind, size_bytes) = match &sim.nodes[node] {
            Node::File(bytes) => (Kind::File, bytes.len() as u64),
            Node::Folder(_) => (Kind::Folder, 0),
        };
        Ok(Some(Stat {
            kind,
            size_bytes,
            modified: None,
        }))
    }

    fn stat_link(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.stat(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let sim = self.sim();
        Ok(sim.entries(sim.find(folder)?)?.keys().cloned().collect())
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let node = self.sim().find(path)?;
        self.sim().bytes(node)?;
        Ok(self.open(node, Usage::Plain))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let node = self.sim().add(path, Node::File(Vec::new()))?;
        Ok(self.open(node, Usage::Plain))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let node = self.find_or_add(path)?;
        Ok(self.open(node, Usage::Append))
    }

    fn try_lock(&self, path: &Path) -> io::Result<(Box<dyn FsFile>, bool)> {
        let node = self.find_or_add(path)?;
        let locked = self.sim().locked.insert(node);
        let usage = if locked { Usage::Lock } else { Usage::Plain };
        Ok((self.open(node, usage), locked))
    }

    fn hold_folder(&self, path: &Path) -> io::Result<Hold> {
        let node = {
            let mut sim = self.sim();
            let node = sim.find(path)?;
            sim.entries(node)?;
            if !sim.locked.insert(node) {
                return Ok(Hold::Theirs);
            }
            node
        };
        Ok(Hold::Mine(self.open(node, Usage::Lock)))
    }

    fn map(&self, path: &Path) -> io::Result<Mapped> {
        let sim = self.sim();
        Ok(Mapped::from_vec(sim.bytes(sim.find(path)?)?.clone()))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.sim()
            .add(path, Node::Folder(BTreeMap::new()))
            .map(drop)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sim().rename(from, to, false)
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sim().rename(from, to, true)
    }

    fn swap(&self, one: &Path, other: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        let (mut first, one) = sim.take_name(one)?;
        let (mut second, other) = sim.take_name(other)?;
        (first.node, second.node) = (Some(other), Some(one));
        sim.change(Change::Names(vec![first, second]));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        let (name, node) = sim.take_name(path)?;
        sim.bytes(node)?;
        sim.change(Change::Names(vec![name]));
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        let (name, node) = sim.take_name(path)?;
        if !sim.entries(node)?.is_empty() {
            return error(io::ErrorKind::DirectoryNotEmpty);
        }
        sim.change(Change::Names(vec![name]));
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        let node = sim.find(path)?;
        sim.entries(node)?;
        sim.sync(node)
    }

    fn free_space(&self, _path: &Path) -> io::Result<Option<u64>> {
        let sim = self.sim();
        Ok(sim
            .capacity_bytes
            .map(|capacity| capacity.saturating_sub(sim.used_bytes())))
    }
}

impl SimFs {
    fn find_or_add(&self, path: &Path) -> io::Result<NodeId> {
        let mut sim = self.sim();
        match sim.find(path) {
            Ok(node) => sim.bytes(node).map(|_| node),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                sim.add(path, Node::File(Vec::new()))
            }
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimFs,
    node: NodeId,
    at: u64,
    usage: Usage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    Plain,
    Append,
    Lock,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if self.usage == Usage::Lock {
            self.disk.sim().locked.remove(&self.node);
        }
    }
}

impl Read for SimFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let sim = self.disk.sim();
        let bytes = sim.bytes(self.node)?;
        let at = self.at.min(bytes.len() as u64) as usize;
        let count = buffer.len().min(bytes.len() - at);
        buffer[..count].copy_from_slice(&bytes[at..at + count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sim = self.disk.sim();
        if self.usage == Usage::Append {
            self.at = sim.bytes(self.node)?.len() as u64;
        }
        let count = sim.write(self.node, self.at, bytes)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for SimFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let len = self.disk.sim().bytes(self.node)?.len() as u64;
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl FsFile for SimFile {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.sim().sync(self.node)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.disk.sim().change(Change::SetLen {
            node: self.node,
            len,
        });
        Ok(())
    }
}
