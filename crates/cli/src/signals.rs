//! SIGINT and SIGTERM: the first ends the run after the update at hand, a second one ends the process. SIGHUP, of a
//! terminal that closes, ends the run the same way, however often it comes. SIGXFSZ is caught, so that a file beyond the
//! limit of `ulimit -f` is an error of its write and not a death.

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
    heed_hangup(&stop)?;
    Ok(stop)
}

/// It arms nothing: the shell of a terminal that closes and the system send one each.
#[cfg(unix)]
fn heed_hangup(stop: &StopFlag) -> Result<()> {
    use signal_hook::consts::SIGHUP;
    if !is_ignored(SIGHUP) {
        flag::register_usize(SIGHUP, stop.cell(), SIGHUP as usize)?;
    }
    Ok(())
}

/// As `nohup` has it for the processes that it starts. Where the system does not say, it is left as it is.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = lowrank::read_text(std::path::Path::new("/proc/self/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    mask.is_none_or(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(not(unix))]
fn heed_hangup(_: &StopFlag) -> Result<()> {
    Ok(())
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
