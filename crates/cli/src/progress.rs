//! What a training run shows: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowrank::{Banner, Event, LogEntry, Observer, UpdateDone};

use crate::output::say;

/// Draws a run on stderr.
pub(crate) struct Progress {
    bar: ProgressBar,
    drawn: bool,
    /// Tokens and seconds of this process's updates, for the rate.
    tokens: u64,
    seconds: f64,
    last_line: Instant,
}

/// Without a terminal, a line at least this often, so that a log shows that the run lives.
const LINE_EVERY: Duration = Duration::from_secs(30);

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            drawn: std::io::stderr().is_terminal(),
            tokens: 0,
            seconds: 0.0,
            last_line: Instant::now(),
        }
    }

    fn begin(&mut self, banner: &Banner) {
        say("***** Running training *****");
        say(&format!("  Num examples = {}", banner.num_examples));
        say(&format!("  Num Epochs = {}", banner.num_train_epochs));
        say(&format!(
            "  Num update steps per epoch = {}",
            banner.updates_per_epoch
        ));
        say(&format!(
            "  Instantaneous batch size per device = {}",
            banner.per_device_train_batch_size
        ));
        say(&format!(
            "  Total train batch size (with accumulation) = {}",
            banner.total_train_batch_size
        ));
        say(&format!(
            "  Gradient Accumulation steps = {}",
            banner.gradient_accumulation_steps
        ));
        say(&format!(
            "  Total optimization steps = {}",
            banner.max_steps
        ));
        say(&format!(
            "  Number of trainable parameters = {}",
            lowrank::grouped(banner.trainable_parameters)
        ));
        if self.drawn {
            let target = ProgressDrawTarget::stderr_with_hz(4);
            self.bar = ProgressBar::with_draw_target(Some(banner.max_steps), target);
            self.bar.set_style(style());
        }
    }

    fn update(&mut self, update: &UpdateDone) {
        self.tokens += update.tokens;
        self.seconds += update.seconds;
        let rate = self.tokens as f64 / self.seconds.max(1e-9);
        let numbers = format!(
            "loss {:.4} lr {:.3e} {rate:.0} tok/s",
            update.loss, update.learning_rate
        );
        self.bar.set_message(numbers.clone());
        self.bar.set_position(update.step);
        if !self.drawn && self.last_line.elapsed() > LINE_EVERY {
            self.last_line = Instant::now();
            say(&format!(
                "step {}/{} {numbers}",
                update.step, update.max_steps
            ));
        }
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }
}

impl Observer for Progress {
    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Begin(banner) => self.begin(banner),
            Event::Notice(text) => self.line(&format!("note: {text}")),
            Event::Skipped { path, reason } => {
                self.line(&format!(
                    "skipped checkpoint `{}`: {reason}",
                    path.display()
                ));
            }
            Event::Resumed { path, step } => {
                self.bar.set_position(step);
                self.bar.reset_eta();
                self.line(&format!(
                    "resumed from `{}` after step {step}",
                    path.display()
                ));
            }
            Event::Update(update) => self.update(update),
            Event::Log(entry) => self.line(&log_line(entry)),
            Event::Evaluating { done, total } => {
                self.bar.set_message(format!("evaluating {done}/{total}"))
            }
            Event::Saved { path, size_bytes } => {
                self.line(&format!(
                    "saved `{}` ({})",
                    path.display(),
                    bytes(size_bytes)
                ));
            }
            Event::Removed(path) => {
                self.line(&format!("removed `{}` (save_total_limit)", path.display()))
            }
            Event::LoadedBest { path, metric } => {
                self.line(&format!(
                    "loaded the best checkpoint `{}` (metric {metric:.6})",
                    path.display()
                ));
            }
        }
    }
}

/// As the Trainer prints its dictionaries: four significant digits.
fn log_line(entry: &LogEntry) -> String {
    let shown = entry
        .iter()
        .filter(|(name, _)| *name != "total_flos" && *name != "step");
    let parts: Vec<String> = shown
        .map(|(name, value)| format!("'{name}': '{}'", short(value.as_f64().unwrap_or(f64::NAN))))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

/// Python's `:.4g`.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let exponent = value.abs().log10().floor() as i32;
    if (-4..4).contains(&exponent) {
        let text = format!("{value:.*}", (3 - exponent).max(0) as usize);
        let text = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            &text
        };
        return text.to_owned();
    }
    let text = format!("{value:.3e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or_default();
    let digits = if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        digits
    };
    format!(
        "{digits}e{}{:02}",
        if power < 0 { '-' } else { '+' },
        power.abs()
    )
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {pos}/{len} [{elapsed_precise}<{eta_precise}] {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// `6.3 MB`.
pub(crate) fn bytes(size_bytes: u64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let size = size_bytes as f64;
    let unit = units.into_iter().find(|(scale, _)| size >= *scale);
    unit.map_or_else(
        || format!("{size_bytes} B"),
        |(scale, name)| format!("{:.1} {name}", size / scale),
    )
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_are_shown_as_pythons_4g() {
        for (value, want) in [
            (2.34567, "2.346"),
            (4.9e-05, "4.9e-05"),
            (0.00123456, "0.001235"),
            (12345.0, "1.234e+04"),
            (100.0, "100"),
            (0.0, "0"),
        ] {
            assert_eq!(short(value), want);
        }
    }
}
