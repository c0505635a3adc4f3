//! What befalls this process at a named point.

use std::sync::atomic::{AtomicBool, Ordering};
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
