//! `metrics.jsonl` and `loss.svg`: what a run leaves for eyes. Neither may cost a run its life.

use std::path::PathBuf;

use durable::{AppendLog, Disk, DurableError};
use formats::pyjson::{Style, to_string};
use formats::trainer_state::LogEntry;

use crate::checkpoints::Checkpoints;
use crate::observer::{Event, Observer};
use crate::plot::loss_svg;

/// The log, one JSON object a line.
pub(crate) const METRICS: &str = "metrics.jsonl";

/// The losses, drawn.
pub(crate) const PLOT: &str = "loss.svg";

/// The two files.
pub(crate) struct Journal {
    disk: Disk,
    metrics: PathBuf,
    plot: PathBuf,
    log: Option<AppendLog>,
    warned: bool,
    lost: u64,
}

impl Journal {
    pub(crate) fn new(folder: &Checkpoints) -> Self {
        Self {
            disk: folder.disk.clone(),
            metrics: folder.join(METRICS),
            plot: folder.join(PLOT),
            log: None,
            warned: false,
            lost: 0,
        }
    }

    /// Opens the log and goes back to `size_bytes` of it. Where a run goes on in another folder nothing is there to go
    /// back to: what it has logged is written again.
    pub(crate) fn open(
        &mut self,
        size_bytes: u64,
        logged: &[LogEntry],
        observer: &mut dyn Observer,
    ) {
        let opened = AppendLog::on(&self.disk, &self.metrics);
        let log = match opened.and_then(|mut log| log.rewind(size_bytes).map(|()| log)) {
            Ok(log) => log,
            Err(error) => return self.warn(&error, observer),
        };
        let elsewhere = size_bytes > 0 && log.size_bytes() == 0;
        self.log = Some(log);
        if elsewhere {
            logged.iter().for_each(|entry| self.add(entry, observer));
        }
    }

    /// Adds an entry of the log.
    pub(crate) fn add(&mut self, entry: &LogEntry, observer: &mut dyn Observer) {
        let line = to_string(&entry.to_json(), Style::LINE);
        match self.log.as_mut().map(|log| log.append(&line)) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                self.lost += 1;
                self.warn(&error, observer);
            }
            None => self.lost += 1,
        }
    }

    /// Makes the log so far survive a power cut, and says how long it is, where it could be opened.
    pub(crate) fn sync(&mut self, observer: &mut dyn Observer) -> Option<u64> {
        let log = self.log.as_mut()?;
        let (done, size_bytes) = (log.sync(), log.size_bytes());
        if let Err(error) = done {
            self.warn(&error, observer);
        }
        Some(size_bytes)
    }

    /// Draws the losses so far.
    pub(crate) fn plot(&mut self, log: &[LogEntry], observer: &mut dyn Observer) {
        let Some(svg) = loss_svg(log) else { return };
        if let Err(error) = self.disk.write_atomic(&self.plot, svg.as_bytes()) {
            self.warn(&error, observer);
        }
    }

    /// Lines that could not be written.
    pub(crate) fn lost_lines(&self) -> u64 {
        self.lost
    }

    fn warn(&mut self, error: &DurableError, observer: &mut dyn Observer) {
        if !std::mem::replace(&mut self.warned, true) {
            let text = format!("the run goes on without its log: {error}");
            observer.on(Event::Notice(&text));
        }
    }
}
