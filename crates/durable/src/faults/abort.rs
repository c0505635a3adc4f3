//! Sudden death of this process at a named point.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::fs::Point;

static ARMED: AtomicBool = AtomicBool::new(false);
static WHERE: Mutex<Option<(Point, u64)>> = Mutex::new(None);

/// Aborts this process when the real disk passes `point` for the `nth` time, counted from 0. For crash tests
/// of the program as a whole.
pub fn abort_at(point: Point, nth: u64) {
    *WHERE.lock().unwrap_or_else(PoisonError::into_inner) = Some((point, nth));
    ARMED.store(true, Ordering::Release);
}

/// Called at each point of the real disk; costs one load where nothing is armed.
pub(crate) fn pass(point: Point) {
    if !ARMED.load(Ordering::Acquire) {
        return;
    }
    let mut armed = WHERE.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *armed {
        Some((wanted, 0)) if *wanted == point => std::process::abort(),
        Some((wanted, left)) if *wanted == point => *left -= 1,
        _ => {}
    }
}
