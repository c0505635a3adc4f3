//! A toy run on a simulated disk, and what must be true of its folder at any time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durable::faults::{Dice, FaultyFs, Plan, SimFs, Tally};
use durable::{
    AppendLog, Checkpoint, CheckpointStore, Disk, DurableError, FolderLock, StagedFolder,
};
use lowrank_durable as durable;

pub(crate) const RUN: &str = "/out/run";
/// How many checkpoints the toy run keeps.
pub(crate) const KEEP: usize = 2;
/// The step that the toy run never lets go, as it would its best one.
pub(crate) const BEST: u64 = 4;
pub(crate) const STEPS: [u64; 5] = [2, 4, 6, 8, 10];

/// The files of a step's checkpoint: sizes around the block sizes of disks, contents of their own.
pub(crate) fn content(step: u64) -> Vec<(&'static str, Vec<u8>)> {
    let sizes = [
        ("adapter.bin", 5_000),
        ("optimizer.bin", 9_001),
        ("config.json", 300),
    ];
    let mut files = Vec::new();
    for (index, (name, size)) in sizes.into_iter().enumerate() {
        let mut dice = Dice::new(step * 16 + index as u64);
        files.push((name, (0..size).map(|_| dice.bits() as u8).collect()));
    }
    files.push(("state.json", format!("{{\"step\": {step}}}").into_bytes()));
    files
}

pub(crate) fn fill(staged: &mut StagedFolder, step: u64) -> durable::Result<()> {
    for (name, bytes) in content(step) {
        staged.write(name, &bytes)?;
    }
    Ok(())
}

/// A disk with a plan of faults around it.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) sim: SimFs,
    pub(crate) faulty: FaultyFs,
    pub(crate) disk: Disk,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(SimFs::new())
    }

    pub(crate) fn on(sim: SimFs) -> Self {
        let faulty = FaultyFs::on_sim(&sim, Plan::none());
        let disk = Disk::with(Arc::new(faulty.clone()));
        Self { sim, faulty, disk }
    }

    /// With the checkpoints of some steps already there.
    pub(crate) fn with_saved(steps: &[u64]) -> Self {
        let world = Self::new();
        for &step in steps {
            world.save(step).unwrap();
        }
        world.faulty.set_plan(Plan::none());
        world
    }

    pub(crate) fn store(&self) -> CheckpointStore {
        CheckpointStore::on(&self.disk, RUN)
    }

    pub(crate) fn save(&self, step: u64) -> durable::Result<Checkpoint> {
        let digests = BTreeMap::from([("base_model".to_owned(), "b".repeat(64))]);
        self.store()
            .save::<DurableError>(step, &digests, |staged| fill(staged, step))
    }

    pub(crate) fn retain(&self) -> durable::Result<Vec<PathBuf>> {
        self.store().retain(KEEP, &[&format!("checkpoint-{BEST}")])
    }

    /// The whole toy run from wherever the folder is; `acknowledge` hears of each save that returned.
    pub(crate) fn run(&self, mut acknowledge: impl FnMut(u64)) -> durable::Result<()> {
        self.disk.prepare_folder(RUN)?;
        let _lock = FolderLock::take_on(&self.disk, RUN)?;
        let store = self.store();
        store.sweep()?;
        let done = match store.newest() {
            Ok(newest) => newest.checkpoint.step(),
            Err(DurableError::NoCheckpoint { .. }) => 0,
            Err(error) => return Err(error),
        };
        let mut log = AppendLog::on(&self.disk, Path::new(RUN).join("metrics.jsonl"))?;
        let logged = log_text(done);
        let mut logged = logged.lines();
        log.keep_while(|line| logged.next().map(str::as_bytes) == Some(line))?;
        for step in STEPS.into_iter().filter(|&step| step > done) {
            log.append(&log_line(step))?;
            log.sync()?;
            self.save(step)?;
            acknowledge(step);
            self.retain()?;
        }
        self.retain()?; // the run may have died between a save and its retention
        self.disk
            .write_atomic(Path::new(RUN).join("adapter.bin"), &content(10)[0].1)
    }
}

fn log_line(step: u64) -> String {
    format!("{{\"step\": {step}, \"loss\": {}}}", 3.0 / step as f64)
}

fn log_text(done: u64) -> String {
    STEPS
        .iter()
        .filter(|&&step| step <= done)
        .map(|&step| log_line(step) + "\n")
        .collect()
}

/// The folder of a run that nothing disturbed.
pub(crate) fn undisturbed() -> BTreeMap<PathBuf, Vec<u8>> {
    let world = World::new();
    world.run(|_| {}).unwrap();
    world.sim.files()
}

/// What must be true of the disk `sim` after saves up to `acknowledged` returned; a violation is counted.
pub(crate) fn check(sim: &SimFs, acknowledged: Option<u64>, tally: &mut Tally, what: &str) {
    let world = World::on(sim.clone());
    let store = world.store();
    let listing = store.list().unwrap();
    if !listing.skipped.is_empty() {
        tally.differ(format!(
            "{what}: visible but incomplete: {:?}",
            listing.skipped
        ));
    }
    let mut good = Vec::new();
    for one in &listing.checkpoints {
        match world.differs(one) {
            None => good.push(one.step()),
            Some(why) => tally.differ(format!("{what}: {why}")),
        }
    }
    let Some(acknowledged) = acknowledged else {
        return;
    };
    let newest = store
        .newest()
        .map(|newest| newest.checkpoint.step())
        .unwrap_or(0);
    let saved = STEPS.iter().filter(|&&step| step <= acknowledged).count();
    let best_gone = acknowledged >= BEST && !good.contains(&BEST);
    if newest < acknowledged || best_gone || good.len() < KEEP.min(saved) {
        tally.lose(format!(
            "{what}: acknowledged {acknowledged}, good {good:?}"
        ));
    }
}

impl World {
    fn differs(&self, one: &Checkpoint) -> Option<String> {
        if let Err(error) = one.manifest.verify_on(&self.disk, &one.path) {
            return Some(error.to_string());
        }
        let same = |(name, bytes): (&str, Vec<u8>)| {
            self.disk
                .read_capped(one.path.join(name), 1 << 20)
                .is_ok_and(|found| found == bytes)
        };
        let all_same = content(one.step()).into_iter().all(same);
        (!all_same).then(|| format!("{} has other bytes", one.name()))
    }
}

/// Prints the count, and fails where something was lost or different, or less was tried than promised.
pub(crate) fn finish(row: u8, name: &str, tally: &Tally, at_least: u64) {
    println!("{}", tally.line(row, name));
    assert!(
        tally.is_clean(),
        "{name}: {tally}; first: {}",
        tally.first().unwrap_or("")
    );
    assert!(
        tally.injected >= at_least,
        "{name}: only {} injected",
        tally.injected
    );
}
