//! Tables of hostile inputs: each is refused (or read) as it must be, without a panic, in bounded time and memory.
//!
//! A table prints its count in the form of the fault suites, so that `cargo xtask faults` adds it up.

use std::fmt::{Debug, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peak_alloc::PeakAlloc;

/// What refusing a file may take beyond twice its size.
pub(crate) const SLACK_BYTES: usize = 64 << 20;
/// No input may keep a reader busy for longer.
const LIMIT: Duration = Duration::from_secs(30);

/// Allocations are counted for the whole process: tables take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until nothing else of this program is measured.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that `act` has allocated at its peak; 0 where [`PeakAlloc`] is not the program's allocator. What runs
/// beside it is counted too.
pub fn peak_of<T>(act: impl FnOnce() -> T) -> (T, usize) {
    PeakAlloc.reset_peak_usage();
    let before = PeakAlloc.current_usage();
    let done = act();
    (done, PeakAlloc.peak_usage().saturating_sub(before))
}

/// What this thread has worked so far: a busy machine makes no difference.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// One row of the bar list.
pub struct Hostile {
    row: &'static str,
    limit: Duration,
    memory: Option<usize>,
    cases: u64,
    faults: Vec<String>,
    said: String,
    slowest: (Duration, String),
    largest: (usize, String),
    _turn: MutexGuard<'static, ()>,
}

impl Hostile {
    /// A table; `row` is its number and title.
    pub fn new(row: &'static str) -> Self {
        Self {
            row,
            limit: LIMIT,
            memory: None,
            cases: 0,
            faults: Vec::new(),
            said: String::new(),
            slowest: Default::default(),
            largest: Default::default(),
            _turn: turn(),
        }
    }

    /// No case may work for longer.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// No case may allocate more; else it is twice its size and 64 MiB.
    pub fn allocating(mut self, bytes: usize) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Gives one input of `size` bytes to its reader, which must refuse it.
    pub fn refused<T, E: Display>(
        &mut self,
        name: &str,
        size: usize,
        read: impl FnOnce() -> Result<T, E>,
    ) {
        let said = self.run(name, size, || read().map(drop).map_err(|e| e.to_string()));
        match said {
            Some(Err(error)) => self.said += &format!("{name}\n    {error}\n"),
            Some(Ok(())) => self.faults.push(format!("{name}: accepted")),
            None => {}
        }
    }

    /// Gives one input to its reader, which must make something harmless of it.
    pub fn harmless<T: Debug, E: Display>(
        &mut self,
        name: &str,
        size: usize,
        read: impl FnOnce() -> Result<T, E>,
    ) {
        let said = self.run(name, size, || read().map_err(|e| e.to_string()));
        match said {
            Some(Ok(found)) => self.said += &format!("{name}\n    read: {found:?}\n"),
            Some(Err(error)) => self.faults.push(format!("{name}: {error}")),
            None => {}
        }
    }

    fn run<T>(
        &mut self,
        name: &str,
        size: usize,
        read: impl FnOnce() -> Result<T, String>,
    ) -> Option<Result<T, String>> {
        self.cases += 1;
        if std::env::var_os("LOWRANK_HOSTILE_NAMES").is_some() {
            println!("{}: {name}", self.row);
        }
        let start = worked();
        let (outcome, used) = peak_of(|| catch_unwind(AssertUnwindSafe(read)));
        let took = worked().saturating_sub(start);
        if took > self.limit {
            self.faults.push(format!("{name}: took {took:?}"));
        }
        if used > self.memory.unwrap_or(2 * size + SLACK_BYTES) {
            let fault = format!("{name}: {used} bytes allocated for {size}");
            self.faults.push(fault);
        }
        if took > self.slowest.0 {
            self.slowest = (took, name.to_owned());
        }
        if used > self.largest.0 {
            self.largest = (used, name.to_owned());
        }
        if outcome.is_err() {
            self.faults.push(format!("{name}: panicked"));
        }
        outcome.ok()
    }

    /// Prints the count and gives what was said of each case, for a snapshot.
    ///
    /// # Panics
    /// Where a case went wrong, or there were fewer than `least`.
    pub fn finish(self, least: u64) -> String {
        let Self {
            row,
            cases,
            faults,
            said,
            ..
        } = self;
        println!(
            "{row}: faults: {cases} injected, 0 lost, {} different (slowest {:?}: {}; most memory {} KiB: {})",
            faults.len(),
            self.slowest.0,
            self.slowest.1,
            self.largest.0 >> 10,
            self.largest.1,
        );
        assert!(faults.is_empty(), "{row}: {faults:#?}");
        assert!(cases >= least, "{row}: {cases} cases, wanted {least}");
        said
    }
}
