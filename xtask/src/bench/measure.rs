//! Running one side of a race, and watching its memory.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::run::root;

/// How often a side's memory is looked at: Linux keeps the peak of all memory, but not of the part without files.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs one side in the repository's root: the lines of JSON that it prints, the last one with the peak of its
/// memory that is no mapped file.
pub(crate) fn measure_lines(command: &mut Command) -> Result<Vec<Value>> {
    let shown = format!("{command:?}").replace('"', "");
    let child = command
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start: {shown}"))?;
    let (id, ended) = (child.id(), AtomicBool::new(false));
    let (output, peak) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(id, &ended));
        let output = child.wait_with_output();
        ended.store(true, Ordering::Relaxed);
        (output, watch.join().ok().flatten())
    });
    let output = output?;
    if !output.status.success() {
        let talk = String::from_utf8_lossy(&output.stderr);
        bail!("failed ({}): {shown}\n{talk}", output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let mut lines = lines
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    let last = lines.last_mut().context("no JSON was printed")?;
    last["peak_anonymous_bytes"] = json!(peak);
    Ok(lines)
}

/// The same of a side that prints one line.
pub(crate) fn measure(command: &mut Command) -> Result<Value> {
    let mut lines = measure_lines(command)?;
    lines.pop().context("no JSON was printed")
}

/// The most memory without files that a process has until it ended; none where it was never seen.
fn watch(id: u32, ended: &AtomicBool) -> Option<u64> {
    let mut most = None;
    while !ended.load(Ordering::Relaxed) {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        most = most.max(anonymous_bytes(&status));
        std::thread::sleep(LOOK_EVERY);
    }
    most
}

fn anonymous_bytes(status: &str) -> Option<u64> {
    let size = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let named = |line: &&str| line.starts_with("RssAnon:") || line.starts_with("RssShmem:");
    let sizes = status.lines().filter(named).filter_map(size);
    sizes.reduce(|sum, size| sum + size).map(|size| size * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_without_files_is_anonymous_and_shared() {
        let status = "VmHWM:\t 900 kB\nRssAnon:\t 100 kB\nRssFile:\t 700 kB\nRssShmem:\t 28 kB\n";
        assert_eq!(anonymous_bytes(status), Some(128 * 1024));
        assert_eq!(anonymous_bytes("State:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_process_that_was_never_seen_has_no_peak() {
        let ended = AtomicBool::new(true);
        assert_eq!(watch(std::process::id(), &ended), None);
    }

    #[test]
    fn the_last_line_of_a_side_tells_its_memory() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo talk; echo '{\"a\": 1}'; sleep 0.1; echo '{\"a\": 2}'",
        ]);
        let lines = measure_lines(&mut command).expect("sh runs");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["a"], 2);
        assert!(
            lines[1]["peak_anonymous_bytes"]
                .as_u64()
                .is_some_and(|bytes| bytes > 0)
        );
        assert!(measure(Command::new("sh").args(["-c", "exit 3"])).is_err());
    }
}
