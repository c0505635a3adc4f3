//! What befalls this process at a named point.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::fs::Point;

static ARMED: AtomicBool = AtomicBool::new(false);
static TRAP: Mutex<Option<Trap>> = Mutex::new(None);

struct Trap {
    point: Point,
    /// Passes of the point that are let through first.
    left: u64,
    action: fn(Point),
}

/// Calls `action` when the real disk passes `point` for the `nth` time, counted from 0. For crash tests of the
/// program as a whole.
pub fn trap_at(point: Point, nth: u64, action: fn(Point)) {
    *TRAP.lock().unwrap_or_else(PoisonError::into_inner) = Some(Trap {
        point,
        left: nth,
        action,
    });
    ARMED.store(true, Ordering::Release);
}

/// Operations left before the trap of [`trap_at_operation`] springs.
static OPERATIONS: AtomicU64 = AtomicU64::new(u64::MAX);
static AT_OPERATION: Mutex<Option<fn()>> = Mutex::new(None);

/// Calls `action`, once, at the `nth` operation of this process on a disk, counted from 0: whatever is opened,
/// looked at, created, renamed or removed. Reading and writing open files are none.
pub fn trap_at_operation(nth: u64, action: fn()) {
    *AT_OPERATION.lock().unwrap_or_else(PoisonError::into_inner) = Some(action);
    OPERATIONS.store(nth, Ordering::Release);
}

/// Called at each operation of the real disk; costs one load where nothing is armed.
pub(crate) fn operate() {
    if OPERATIONS.load(Ordering::Acquire) == u64::MAX {
        return;
    }
    if OPERATIONS.fetch_sub(1, Ordering::AcqRel) != 0 {
        return;
    }
    OPERATIONS.store(u64::MAX, Ordering::Release);
    let mut action = AT_OPERATION.lock().unwrap_or_else(PoisonError::into_inner);
    let action = action.take();
    if let Some(action) = action {
        action();
    }
}

/// Aborts this process there; see [`trap_at`].
pub fn abort_at(point: Point, nth: u64) {
    trap_at(point, nth, |_| std::process::abort());
}

/// Called at each point of the real disk; costs one load where nothing is armed.
pub(crate) fn pass(point: Point) {
    if !ARMED.load(Ordering::Acquire) {
        return;
    }
    if let Some(action) = sprung(point) {
        action(point);
    }
}

/// Each trap springs once: what the action leaves alive goes on undisturbed.
fn sprung(point: Point) -> Option<fn(Point)> {
    let mut trap = TRAP.lock().unwrap_or_else(PoisonError::into_inner);
    let here = trap.as_mut().filter(|trap| trap.point == point)?;
    if here.left > 0 {
        here.left -= 1;
        return None;
    }
    ARMED.store(false, Ordering::Release);
    trap.take().map(|trap| trap.action)
}
