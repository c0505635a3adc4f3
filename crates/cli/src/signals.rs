//! SIGINT and SIGTERM: the first ends the run after the update at hand, a second one ends the process. SIGXFSZ is
//! caught, so that a file beyond the limit of `ulimit -f` is an error of its write and not a death.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use lowrank::StopFlag;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// A flag that the signals raise.
pub(crate) fn stop_flag() -> Result<StopFlag> {
    let stop = StopFlag::default();
    let armed = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the exit unarmed, arms it, and raises the flag.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))?;
        flag::register(signal, Arc::clone(&armed))?;
        flag::register_usize(signal, stop.cell(), signal as usize)?;
    }
    Ok(stop)
}

/// Makes a write beyond RLIMIT_FSIZE fail with EFBIG.
#[cfg(unix)]
pub(crate) fn survive_size_limit() -> Result<()> {
    flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn survive_size_limit() -> Result<()> {
    Ok(())
}
