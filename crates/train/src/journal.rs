//! `metrics.jsonl` and `loss.svg`: what a run leaves for eyes. Neither may cost a run its life.

use std::path::PathBuf;

use durable::{AppendLog, Disk, DurableError};
use formats::pyjson::{Style, parse, to_string};
use formats::trainer_state::LogEntry;

use crate::checkpoints::Checkpoints;
use crate::observer::{Event, Observer};
use crate::plot::loss_svg;

/// The log, one JSON object a line.
pub(crate) const METRICS: &str = "metrics.jsonl";

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
            plot: folder.join("loss.svg"),
            log: None,
            warned: false,
            lost: 0,
        }
    }

    /// Opens the log and goes back to what the run has logged: what lines of another course say is cut, and what is
    /// not there, in another folder or where a disk was full, is written again.
    pub(crate) fn open(&mut self, logged: &[LogEntry], observer: &mut dyn Observer) {
        let mut missing = logged.iter();
        let says_next = |line: &[u8]| {
            let entry = missing.as_slice().first();
            let is_next = entry.is_some_and(|entry| parse(line) == Ok(entry.to_json()));
            is_next && missing.next().is_some()
        };
        let opened = AppendLog::on(&self.disk, &self.metrics)
            .and_then(|mut log| log.keep_while(says_next).map(|()| log));
        match opened {
            Ok(log) => self.log = Some(log),
            Err(error) => return self.warn(&error, observer),
        }
        missing.for_each(|entry| self.add(entry, observer));
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

    /// Makes the log so far survive a power cut, where it could be opened.
    pub(crate) fn sync(&mut self, observer: &mut dyn Observer) {
        if let Some(Err(error)) = self.log.as_mut().map(AppendLog::sync) {
            self.warn(&error, observer);
        }
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
