//! How far each panel of y is: where the runs of k are passes, one thread may take a panel's next pass while another
//! is still at this one.

use super::panels::Unit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Passes that are done of each panel.
///
/// Nobody waits for ever: tasks of a part are taken in order, each thread does its own in the order in which it took them,
/// so the one taken first of all that are left waits for nobody.
pub(super) struct Progress<'a> {
    passes: &'a [AtomicU32],
    failed: AtomicBool,
}

impl<'a> Progress<'a> {
    /// No pass is done; the slice has a place for each panel.
    pub(super) fn new(passes: &'a mut [u32]) -> Self {
        passes.fill(0);
        // SAFETY: an atomic has the layout of its integer, and the slice is borrowed for as long.
        let passes = unsafe { &*(std::ptr::from_mut(passes) as *const [AtomicU32]) };
        Self {
            passes,
            failed: AtomicBool::new(false),
        }
    }

    fn of(&self, unit: &Unit) -> &[AtomicU32] {
        &self.passes[unit.first_panel..][..unit.panels().len()]
    }

    /// Until all passes before a unit's are done, or a thread has panicked.
    pub(super) fn wait_for(&self, unit: &Unit) {
        let before = |passes: &AtomicU32| passes.load(Ordering::Acquire) as usize >= unit.pass;
        while !self.of(unit).iter().all(before) && !self.failed.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }

    pub(super) fn done(&self, unit: &Unit) {
        for passes in self.of(unit) {
            passes.store(unit.pass as u32 + 1, Ordering::Release);
        }
    }

    /// To be held while units are worked on: tells the others of a panic, since what this thread took is left undone.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch(&self.failed)
    }
}

pub(super) struct Watch<'a>(&'a AtomicBool);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn unit(first_panel: usize, pass: usize) -> Unit {
        Unit {
            rows: 0..8,
            panels: [0..48, 48..96, 96..96],
            k: 0..8,
            first_panel,
            pass,
        }
    }

    #[test]
    fn a_unit_waits_for_all_its_panels_last_passes() {
        let mut passes = [7; 6];
        let progress = Progress::new(&mut passes);
        progress.wait_for(&unit(2, 0));
        progress.done(&unit(1, 0));
        let waited = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                progress.wait_for(&unit(2, 1));
                waited.store(true, Ordering::Release);
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waited.load(Ordering::Acquire), "panel 3 has no pass yet");
            progress.done(&unit(3, 0));
        });
        assert!(waited.into_inner());
    }

    #[test]
    fn nobody_waits_for_a_thread_that_panicked() {
        let mut passes = [0; 2];
        let progress = Progress::new(&mut passes);
        let (told, start) = (AtomicBool::new(false), std::time::Instant::now());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                progress.wait_for(&unit(0, 1));
                told.store(true, Ordering::Release);
            });
            let panic = catch_unwind(AssertUnwindSafe(|| {
                let _watch = progress.watch();
                panic!("a task");
            }));
            while !told.load(Ordering::Acquire) && start.elapsed().as_secs() < 10 {
                std::thread::yield_now();
            }
            let told = told.load(Ordering::Acquire);
            // Or the scope would wait for ever where nobody was told.
            progress.done(&unit(0, 0));
            assert!(panic.is_err() && told);
        });
    }
}
