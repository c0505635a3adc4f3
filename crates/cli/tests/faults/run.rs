//! A run of a tiny model as a process, what it left, and whether that is what an undisturbed one leaves.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use durable::CheckpointStore;
use durable::faults::{Dice, Tally};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::sandbox::Sandbox;

/// Updates of the run, a save after every second.
pub(crate) const STEPS: u64 = 60;
pub(crate) const SAVE_EVERY: u64 = 2;
/// Nobody waits longer for a process that should end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many times something is tried: in a plain `cargo test`, in CI, and for the whole list.
pub(crate) fn reach(plain: u64, ci: u64, full: u64) -> u64 {
    match std::env::var("LOWRANK_FAULTS").as_deref() {
        Ok("full") => full,
        Ok("ci") => ci,
        _ => plain,
    }
}

/// A folder for the runs of one test, each in an output folder of its own.
pub(crate) struct World(Sandbox);

impl World {
    pub(crate) fn new() -> Self {
        Self::of("bloom")
    }

    pub(crate) fn of(family: &str) -> Self {
        Self(Sandbox::within(&place(), family))
    }
}

impl Deref for World {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.0
    }
}

/// In memory, where a sync costs nothing: a killed process loses no page that it wrote, so syncs decide nothing
/// here. The whole list goes to the disk all the same, for its timing.
fn place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if reach(0, 0, 1) == 0 && memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// Dropout and accumulation on, so that a resumed run has generators and a place in the epoch to restore.
pub(crate) fn words(output: &str, more: &str) -> String {
    words_saving(SAVE_EVERY, output, more)
}

/// With saves after every so many updates.
pub(crate) fn words_saving(save_every: u64, output: &str, more: &str) -> String {
    format!(
        "train --model model --dataset rows.jsonl --output-dir {output} --max-steps {STEPS} \
         --save-steps {save_every} --save-total-limit 3 --per-device-train-batch-size 1 \
         --gradient-accumulation-steps 3 --lora-dropout 0.1 --learning-rate 0.01 --logging-steps 5 --threads 1 {more}"
    )
}

/// `--resume-from-checkpoint latest` where there is something to resume.
pub(crate) fn going_on(output: &Path) -> &'static str {
    let listing = CheckpointStore::new(output).list().unwrap();
    if listing.checkpoints.is_empty() && listing.skipped.is_empty() {
        ""
    } else {
        "--resume-from-checkpoint latest"
    }
}

/// What a process said and how it ended.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: ExitStatus,
    pub(crate) lines: Vec<String>,
}

impl Told {
    pub(crate) fn text(&self) -> String {
        self.lines.join("\n")
    }

    pub(crate) fn says(&self, what: &str) -> bool {
        self.lines.iter().any(|line| line.contains(what))
    }

    /// The step of the last checkpoint that it called saved.
    pub(crate) fn saved(&self) -> u64 {
        let step = |line: &String| {
            let (_, rest) = line.strip_prefix("saved `")?.split_once("checkpoint-")?;
            rest.split('`').next()?.parse().ok()
        };
        self.lines.iter().filter_map(step).next_back().unwrap_or(0)
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }
}

/// Starts a command and hands each line of its stderr to `then`, with the process, until it ends.
pub(crate) fn follow(mut command: Command, mut then: impl FnMut(&str, &mut Child)) -> Told {
    let mut child = command.spawn().unwrap();
    let _watch = Watch::over(&child);
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = Vec::new();
    for line in stderr.lines() {
        let line = line.unwrap();
        then(&line, &mut child);
        lines.push(line);
    }
    Told {
        status: ends_in(&mut child, PATIENCE),
        lines,
    }
}

/// Kills a process that hangs: its test then fails with what it said, instead of never.
struct Watch(Option<(Sender<()>, JoinHandle<()>)>);

impl Watch {
    fn over(child: &Child) -> Self {
        let pid = pid_of(child);
        let (done, waiting) = mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if waiting.recv_timeout(2 * PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::ABORT);
                let _ = kill_process(pid, Signal::CONT);
            }
        });
        Self(Some((done, watch)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((done, watch)) = self.0.take() {
            drop(done);
            let _ = watch.join();
        }
    }
}

/// How a process ends that should do so in `limit`.
pub(crate) fn ends_in(child: &mut Child, limit: Duration) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            panic!("process {} did not end in {limit:?}", child.id());
        }
        std::thread::yield_now();
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

pub(crate) fn send(child: &Child, signal: Signal) {
    // It may have ended by itself.
    let _ = kill_process(pid_of(child), signal);
}

/// Waits until a process has stopped itself, which it does just behind the line in which it says so.
pub(crate) fn await_stop(child: &Child) {
    let stopped = waitpid(Some(pid_of(child)), WaitOptions::UNTRACED).unwrap();
    assert!(stopped.is_some_and(|(_, status)| status.stopped()));
}

/// Waits without sleeping: a sleep is never shorter than the scheduler likes.
pub(crate) fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Runs a command and kills it after a time from its start.
pub(crate) fn killed_after(mut command: Command, time: Duration) -> Told {
    let mut child = command.spawn().unwrap();
    spin(time);
    send(&child, Signal::KILL);
    let mut text = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    Told {
        status: child.wait().unwrap(),
        lines: text.lines().map(str::to_owned).collect(),
    }
}

/// Every file under a folder, by its path in it, without what tells the time or the process.
pub(crate) type Contents = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) fn contents(folder: &Path) -> Contents {
    let files = tree(folder).into_iter();
    let files = files.filter(|(path, _)| !path.ends_with(".lock"));
    files
        .map(|(path, bytes)| (path.clone(), timeless(&path, bytes)))
        .collect()
}

/// Every file under a folder, as it is.
pub(crate) fn tree(folder: &Path) -> Contents {
    let mut files = Contents::new();
    collect(folder, Path::new(""), &mut files);
    files
}

pub(crate) fn put_tree(files: &Contents, folder: &Path) {
    for (path, bytes) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn collect(root: &Path, inside: &Path, files: &mut Contents) {
    for entry in std::fs::read_dir(root.join(inside)).unwrap() {
        let entry = entry.unwrap();
        let path = inside.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, files);
        } else {
            let bytes = std::fs::read(root.join(&path)).unwrap();
            files.insert(path, bytes);
        }
    }
}

/// What of it is in checkpoints.
pub(crate) fn checkpoints(files: &Contents) -> Contents {
    let inside = files.iter().filter(|(path, _)| {
        let first = path.components().next();
        first.is_some_and(|first| {
            first
                .as_os_str()
                .to_string_lossy()
                .starts_with("checkpoint-")
        })
    });
    inside
        .map(|(path, bytes)| (path.clone(), bytes.clone()))
        .collect()
}

/// Without the fields of the log that are times or rates.
fn timeless(path: &Path, bytes: Vec<u8>) -> Vec<u8> {
    let is_time = |text: &str| text.contains("_runtime") || text.contains("per_second");
    match path.file_name().and_then(|name| name.to_str()) {
        // By bytes: a fault may have left the file of a checkpoint set aside without being UTF-8.
        Some("trainer_state.json") => {
            let lines = bytes.split(|byte| *byte == b'\n');
            let kept = lines.filter(|line| !is_time(&String::from_utf8_lossy(line)));
            kept.collect::<Vec<_>>().join(&b'\n')
        }
        Some("metrics.jsonl") => {
            let text = String::from_utf8(bytes).unwrap();
            let kept = text.lines().map(|line| {
                let mut entry: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
                entry.retain(|name, _| !is_time(name));
                serde_json::to_string(&entry).unwrap()
            });
            kept.collect::<Vec<_>>().join("\n").into_bytes()
        }
        _ => bytes,
    }
}

/// Every checkpoint that is there is complete, and none older than `acknowledged` is the newest.
pub(crate) fn check(output: &Path, acknowledged: u64, tally: &mut Tally, what: &str) {
    let store = CheckpointStore::new(output);
    let listing = store.list().unwrap();
    if !listing.skipped.is_empty() {
        tally.differ(format!(
            "{what}: visible but incomplete: {:?}",
            listing.skipped
        ));
    }
    for one in &listing.checkpoints {
        if let Err(error) = store.open(&one.path) {
            tally.differ(format!("{what}: {error}"));
        }
    }
    let newest = listing.checkpoints.first().map_or(0, |one| one.step());
    let want = (acknowledged / SAVE_EVERY).min(3);
    if newest < acknowledged || (listing.checkpoints.len() as u64) < want {
        tally.lose(format!("{what}: told {acknowledged}, found {newest}"));
    }
}

/// All that the undisturbed run left is there, the same. Checkpoints besides (a signal's own) may be there.
pub(crate) fn same_as_whole(path: &Path, tally: &mut Tally, what: &str) {
    let found = contents(path);
    let last = format!("checkpoint-{STEPS}");
    for (name, bytes) in &whole().contents {
        let must = !name.starts_with("checkpoint-56") && !name.starts_with("checkpoint-58");
        match found.get(name) {
            Some(same) if same == bytes => {}
            None if !must => {} // an extra checkpoint may have taken its place
            Some(_) => return tally.differ(format!("{what}: `{}` differs", name.display())),
            None => return tally.differ(format!("{what}: no `{}`", name.display())),
        }
    }
    let known = |name: &&PathBuf| {
        let in_checkpoint = name.components().next().is_some_and(|first| {
            let first = first.as_os_str().to_string_lossy();
            first.starts_with("checkpoint-") && first != last.as_str()
        });
        in_checkpoint || whole().contents.contains_key(*name)
    };
    if let Some(stray) = found.keys().find(|name| !known(name)) {
        tally.differ(format!("{what}: `{}` is left over", stray.display()));
    }
}

/// Prints the count, and fails where something was lost or different, or less was tried than wanted.
pub(crate) fn finish(row: u8, name: &str, tally: &Tally, at_least: u64) {
    println!("{}", tally.line(row, name));
    assert!(
        tally.is_clean(),
        "{name}: {tally}; first: {}",
        tally.first().unwrap_or("")
    );
    assert!(
        tally.injected >= at_least,
        "{name}: only {}",
        tally.injected
    );
}

impl World {
    /// Runs what must succeed.
    pub(crate) fn must(&self, line: &str) -> Told {
        let told = follow(self.command(line), |_, _| {});
        assert!(told.status.success(), "{line}: {}", told.text());
        told
    }

    /// With a trap in one of its saves.
    pub(crate) fn trapped(&self, line: &str, trap: &str) -> Command {
        let mut command = self.command(line);
        command.env("LOWRANK_TRAP", trap);
        command
    }

    /// Kills a run behind a line of its talk that the dice choose, some way to the next.
    pub(crate) fn killed_somewhere(&self, line: &str, dice: &mut Dice) -> Told {
        let (lines, gap) = (whole().lines, whole().gap);
        let (at, wait) = (dice.below(lines), part_of(gap, dice));
        let mut count = 0;
        follow(self.command(line), |_, child| {
            if count == at {
                spin(wait);
                send(child, Signal::KILL);
            }
            count += 1;
        })
    }

    /// The run in `output` goes on to the bytes of the undisturbed one; its folder is then removed.
    pub(crate) fn ends_the_same(&self, output: &str, tally: &mut Tally, what: &str) {
        let path = self.path(output);
        let told = follow(self.command(&words(output, going_on(&path))), |_, _| {});
        if !told.status.success() {
            return tally.lose(format!("{what}: the next run failed: {}", told.text()));
        }
        same_as_whole(&path, tally, what);
        std::fs::remove_dir_all(path).unwrap();
    }

    /// Puts the folder of a half done run in place.
    pub(crate) fn half_in(&self, output: &str) -> PathBuf {
        let path = self.path(output);
        put_tree(half(), &path);
        path
    }
}

/// A random part of a time.
pub(crate) fn part_of(time: Duration, dice: &mut Dice) -> Duration {
    time.mul_f64(dice.below(1_000) as f64 / 1_000.0)
}

/// The run that nothing disturbed: what it left, how many lines it said, the mean time between two.
pub(crate) struct Whole {
    pub(crate) contents: Contents,
    pub(crate) lines: usize,
    pub(crate) gap: Duration,
}

pub(crate) fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let (world, start) = (World::new(), Instant::now());
        let lines = world.must(&words("whole", "")).lines.len();
        Whole {
            contents: contents(&world.path("whole")),
            lines,
            gap: start.elapsed() / lines as u32,
        }
    })
}

/// The folder of a run with checkpoints 26, 28 and 30, which died in step 31 or 32.
pub(crate) fn half() -> &'static Contents {
    static HALF: OnceLock<Contents> = OnceLock::new();
    HALF.get_or_init(|| dead_at(30))
}

/// As [`half`], two updates before the end.
pub(crate) fn nearly_whole() -> &'static Contents {
    static NEAR: OnceLock<Contents> = OnceLock::new();
    NEAR.get_or_init(|| dead_at(STEPS - SAVE_EVERY))
}

fn dead_at(step: u64) -> Contents {
    let world = World::new();
    let trap = format!("abort FilesDone {}", step / SAVE_EVERY);
    let told = follow(world.trapped(&words("dead", ""), &trap), |_, _| {});
    assert_eq!(
        (told.saved(), told.status.success()),
        (step, false),
        "{}",
        told.text()
    );
    tree(&world.path("dead"))
}
