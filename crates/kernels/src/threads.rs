//! Persistent workers that share out a fixed grid of tasks.
//!
//! A caller names a number of tasks; each thread takes those of its own part of them one by one, and
//! then what is left of the others'. So neighbours in memory are written by one thread, and in the next
//! run by the same one: where threads sit on different dies, a line that passes between them costs
//! as much as memory does. What a task computes depends on its index alone, so the result is the
//! same for any number of threads. Workers spin for a moment after each run, since kernels follow
//! each other closely, and then sleep.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// About 30 µs: longer than the gap between two kernels of a step, shorter than a time slice.
const SPINS_BEFORE_SLEEP: usize = 1500;

// Layout of `Shared::state`: run number << 32 | OPEN | workers inside.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

thread_local! {
    /// Set while this thread is inside a run: a run started from a task is done by that task alone.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// A pool of workers. The thread that calls [`Threads::run`] takes part.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held by the caller whose run the workers serve; a second caller works alone meanwhile.
    caller: Mutex<()>,
}

struct Worker {
    handle: Option<JoinHandle<()>>,
    asleep: Arc<AtomicBool>,
}

struct Shared {
    state: AtomicU64,
    /// One for each thread's part.
    taken: Box<[Taken]>,
    exit: AtomicBool,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Tasks that were taken of a part; in lines of its own, also where lines are fetched in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Taken(AtomicUsize);

/// The tasks that one thread takes of a run, as it asks for them.
pub(crate) struct Turns<'a> {
    taken: &'a [Taken],
    /// That tasks are taken of at present.
    part: usize,
    tasks: usize,
}

impl Iterator for Turns<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let parts = self.taken.len();
        for _ in 0..parts {
            let start = self.tasks * self.part / parts;
            let end = self.tasks * (self.part + 1) / parts;
            let task = start + self.taken[self.part].0.fetch_add(1, Ordering::Relaxed);
            if task < end {
                return Some(task);
            }
            self.part = (self.part + 1) % parts;
        }
        None
    }
}

#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    call: unsafe fn(*const (), Turns<'_>),
    tasks: usize,
}

// SAFETY: `job` is written only by the caller that holds `Threads::caller`, while the state is
// closed and no worker is inside; workers read it only after entering an open state.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in a job is used only while its owner waits inside `run`.
unsafe impl Send for Shared {}

impl Threads {
    /// A pool in which `num_threads` threads work, the caller among them.
    pub fn new(num_threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            taken: (0..num_threads.max(1)).map(|_| Taken::default()).collect(),
            exit: AtomicBool::new(false),
            job: UnsafeCell::new(Job {
                data: std::ptr::null(),
                call: no_job,
                tasks: 0,
            }),
            panic: Mutex::new(None),
        });
        // Where the system refuses a thread the pool is smaller; the results are the same.
        let workers = (1..num_threads.max(1))
            .map_while(|index| start_worker(index, &shared))
            .collect();
        Self {
            shared,
            workers,
            caller: Mutex::new(()),
        }
    }

    /// Threads that work, the caller among them.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Parts that the tasks of a run fall into, each of which is taken in order: as many as threads were
    /// asked for.
    pub(crate) fn parts(&self) -> usize {
        self.shared.taken.len()
    }

    /// Calls `task` once for each index below `tasks`, in any order, on any thread, and returns
    /// when all are done. A panic in a task is raised again here, after all threads have stopped.
    pub fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        self.share(tasks, |turns| turns.for_each(&task));
    }

    /// As [`Self::run`], with one call of `work` for each thread that takes part: it asks for tasks until
    /// there are none.
    pub(crate) fn share<F: Fn(Turns<'_>) + Sync>(&self, tasks: usize, work: F) {
        if tasks <= 1 || self.workers.is_empty() || BUSY.get() {
            return work_alone(tasks, &work);
        }
        match self.caller.try_lock() {
            Ok(_held) => self.share_out(tasks, &work),
            Err(std::sync::TryLockError::Poisoned(_held)) => self.share_out(tasks, &work),
            Err(std::sync::TryLockError::WouldBlock) => work_alone(tasks, &work),
        }
    }

    fn share_out<F: Fn(Turns<'_>) + Sync>(&self, tasks: usize, work: &F) {
        let shared = &*self.shared;
        let job = Job {
            data: std::ptr::from_ref(work).cast(),
            call: call_work::<F>,
            tasks,
        };
        shared.set_taken(0);
        // SAFETY: the state is closed and nobody is inside, see `Shared`.
        unsafe { *shared.job.get() = job };
        let run = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) << 32;
        shared.state.store(run | OPEN, Ordering::SeqCst);
        for worker in &self.workers {
            worker.wake();
        }
        shared.work(job, 0);
        shared.close();
        if let Some(panic) = shared.panic_slot().take() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.exit.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.wake();
            if let Some(handle) = worker.handle.take() {
                // A worker catches every panic of a task, so there is nothing to report here.
                let _ = handle.join();
            }
        }
    }
}

impl Worker {
    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(handle) = &self.handle
        {
            handle.thread().unpark();
        }
    }
}

impl Shared {
    fn panic_slot(&self) -> std::sync::MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of every part.
    fn set_taken(&self, count: usize) {
        for taken in &self.taken {
            taken.0.store(count, Ordering::Relaxed);
        }
    }

    /// Does the part of one thread, and what others have left; keeps the first panic.
    fn work(&self, job: Job, part: usize) {
        let turns = Turns {
            taken: &self.taken,
            part,
            tasks: job.tasks,
        };
        BUSY.set(true);
        // SAFETY: the closure outlives the run: its owner leaves only when nobody is inside.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.data, turns) }));
        BUSY.set(false);
        if let Err(panic) = result {
            self.set_taken(job.tasks);
            self.panic_slot().get_or_insert(panic);
        }
    }

    /// Lets no further worker in and waits for those inside.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut spins = 0usize;
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_SLEEP {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Enters the run that is open, unless it is the one served `last`.
    fn enter(&self, last: u64) -> Option<u64> {
        let state = self.state.load(Ordering::SeqCst);
        if state & OPEN == 0 || state >> 32 == last {
            return None;
        }
        self.state
            .compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::Relaxed)
            .ok()
            .map(|_| state >> 32)
    }
}

fn start_worker(index: usize, shared: &Arc<Shared>) -> Option<Worker> {
    let asleep = Arc::new(AtomicBool::new(false));
    let (shared, flag) = (Arc::clone(shared), Arc::clone(&asleep));
    let handle = std::thread::Builder::new()
        .name(format!("kernels-{index}"))
        .spawn(move || worker_loop(index, &shared, &flag))
        .ok()?;
    Some(Worker {
        handle: Some(handle),
        asleep,
    })
}

fn worker_loop(index: usize, shared: &Shared, asleep: &AtomicBool) {
    let mut last = 0;
    let mut spins = 0;
    while !shared.exit.load(Ordering::SeqCst) {
        if let Some(run) = shared.enter(last) {
            last = run;
            // SAFETY: this worker is inside an open run, during which nobody writes the job.
            let job = unsafe { *shared.job.get() };
            shared.work(job, index);
            shared.state.fetch_sub(1, Ordering::Release);
            spins = 0;
        } else if spins < SPINS_BEFORE_SLEEP {
            spins += 1;
            std::hint::spin_loop();
        } else {
            sleep(shared, asleep, last);
        }
    }
}

/// Sleeps until woken. The flag is raised before the last look at the state, so that a caller who
/// opens a run either is seen here or sees the flag.
fn sleep(shared: &Shared, asleep: &AtomicBool, last: u64) {
    asleep.store(true, Ordering::SeqCst);
    let state = shared.state.load(Ordering::SeqCst);
    let open = state & OPEN != 0 && state >> 32 != last;
    if open || shared.exit.load(Ordering::SeqCst) {
        asleep.store(false, Ordering::SeqCst);
        return;
    }
    while asleep.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn work_alone<F: Fn(Turns<'_>)>(tasks: usize, work: &F) {
    let taken = [Taken::default()];
    let (taken, part) = (&taken[..], 0);
    work(Turns { taken, part, tasks });
}

/// # Safety
/// `data` is a live `F`.
unsafe fn call_work<F: Fn(Turns<'_>) + Sync>(data: *const (), turns: Turns<'_>) {
    // SAFETY: the caller's promise.
    let work = unsafe { &*data.cast::<F>() };
    work(turns);
}

/// Stands in the job of a pool that has not run yet; never called, since its state is closed.
///
/// # Safety
/// None needed: it does nothing.
unsafe fn no_job(_data: *const (), _turns: Turns<'_>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_for_any_number_of_threads() {
        for num_threads in 1..=4 {
            let threads = Threads::new(num_threads);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                threads.run(tasks, |index| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts
                        .iter()
                        .all(|count| count.load(Ordering::Relaxed) == 1)
                );
            }
        }
    }

    #[test]
    fn each_thread_begins_in_its_own_part() {
        let threads = Threads::new(2);
        let (first, start) = (Mutex::new(Vec::new()), std::time::Instant::now());
        threads.share(10, |mut turns| {
            first.lock().unwrap().extend(turns.next());
            // So that neither takes a second before the other has its first.
            while first.lock().unwrap().len() < 2 {
                assert!(start.elapsed().as_secs() < 60, "one thread alone");
                std::thread::yield_now();
            }
            turns.for_each(drop);
        });
        let mut first = first.into_inner().unwrap();
        first.sort_unstable();
        assert_eq!(first, [0, 5]);
    }

    #[test]
    fn threads_take_what_others_have_left() {
        let threads = Threads::new(2);
        let (done, start) = (AtomicUsize::new(0), std::time::Instant::now());
        threads.run(9, |index| {
            // The first task lasts until all others are done, those of its own part too.
            while index == 0 && done.load(Ordering::Relaxed) < 8 {
                assert!(start.elapsed().as_secs() < 60, "nobody took them");
                std::thread::yield_now();
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 9);
    }

    #[test]
    fn a_run_inside_a_task_finishes() {
        let threads = Threads::new(3);
        let sum = AtomicUsize::new(0);
        threads.run(5, |outer| {
            threads.run(4, |inner| {
                sum.fetch_add(outer * 10 + inner, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 400 + 30);
    }

    #[test]
    fn two_callers_at_once_both_finish() {
        let threads = Threads::new(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        threads.run(16, |index| {
                            sum.fetch_add(index, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 120);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let threads = Threads::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            threads.run(8, |index| assert_ne!(index, 5, "task five"));
        }));
        assert!(caught.is_err());
        let sum = AtomicUsize::new(0);
        threads.run(8, |index| {
            sum.fetch_add(index, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 28);
    }
}
