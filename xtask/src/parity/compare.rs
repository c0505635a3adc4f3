//! Two logs side by side.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What is compared, and how far apart it may be (absolute). Both sides compute in f32: the most that was measured is
/// 1.9e-5 of a loss and 1.7e-5 of a norm (docs/EVIDENCE.md), and another machine may round otherwise.
const COLUMNS: [(&str, f64); 4] = [
    ("loss", 1e-4),
    // The norm of all gradients: what a loss that agrees cannot show.
    ("grad_norm", 1e-4),
    ("learning_rate", 1e-12),
    ("epoch", 1e-9),
];

/// The overlay of two runs.
pub(crate) struct Overlay {
    /// Markdown: one line for each logged step.
    pub(crate) table: String,
    /// Updates that both logged.
    pub(crate) updates: usize,
    /// First and last loss of ours.
    pub(crate) losses: (f64, f64),
    /// Largest difference of each column, and its bound.
    pub(crate) largest: Vec<(&'static str, f64, f64)>,
}

impl Overlay {
    /// Lays two `log_history` lists side by side.
    pub(crate) fn new(ours: &Value, theirs: &Value) -> Result<Self> {
        let (ours, theirs) = (updates(ours)?, updates(theirs)?);
        if ours.len() != theirs.len() || ours.is_empty() {
            bail!(
                "{} logged steps of ours, {} of theirs",
                ours.len(),
                theirs.len()
            );
        }
        let mut largest = COLUMNS.map(|(name, bound)| (name, 0.0, bound));
        let mut table = header();
        for (left, right) in ours.iter().zip(&theirs) {
            let _ = write!(table, "| {} |", number(left, "step")?);
            for (name, most, _) in &mut largest {
                let (left, right) = (number(left, name)?, number(right, name)?);
                let gap = (left - right).abs();
                *most = f64::max(*most, gap);
                let _ = write!(table, " {left} | {right} | {gap:.1e} |");
            }
            table.push('\n');
        }
        let loss = |line: Option<&&Value>| line.map_or(Ok(f64::NAN), |line| number(line, "loss"));
        Ok(Self {
            table,
            updates: ours.len(),
            losses: (loss(ours.first())?, loss(ours.last())?),
            largest: largest.to_vec(),
        })
    }

    /// What is above its bound, in words.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let above = self.largest.iter().filter(|(_, most, bound)| most > bound);
        above
            .map(|(name, most, bound)| {
                format!("{name} differs by {most:.2e}, {bound:.0e} is allowed")
            })
            .collect()
    }
}

fn header() -> String {
    let names = COLUMNS
        .iter()
        .fold(String::from("| step |"), |line, (name, _)| {
            line + &format!(" {name}: ours | PEFT + Trainer | gap |")
        });
    format!("{names}\n|---|{}\n", "---|".repeat(3 * COLUMNS.len()))
}

/// The lines of single updates; the summary at the end has no learning rate.
fn updates(log: &Value) -> Result<Vec<&Value>> {
    let lines = log.as_array().context("the log is no list")?;
    Ok(lines
        .iter()
        .filter(|line| line.get("learning_rate").is_some())
        .collect())
}

fn number(line: &Value, key: &str) -> Result<f64> {
    line[key]
        .as_f64()
        .with_context(|| format!("no `{key}` in {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log(loss: f64) -> Value {
        json!([
            {"loss": 2.5, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 0.5, "step": 1},
            {"loss": loss, "grad_norm": 1.5, "learning_rate": 0.0, "epoch": 1.0, "step": 2},
            {"train_loss": 2.0, "epoch": 1.0, "step": 2},
        ])
    }

    #[test]
    fn the_largest_gap_counts_and_the_summary_does_not() {
        let overlay = Overlay::new(&log(1.5), &log(1.50009)).unwrap();
        assert_eq!((overlay.updates, overlay.losses), (2, (2.5, 1.5)));
        assert!(overlay.complaints().is_empty());
        let overlay = Overlay::new(&log(1.5), &log(1.5002)).unwrap();
        assert_eq!(overlay.complaints().len(), 1);
        assert!(
            Overlay::new(&log(f64::NAN), &log(1.5)).is_err(),
            "JSON has no NaN: the key is null"
        );
        assert!(Overlay::new(&json!([]), &log(1.5)).is_err());
    }
}
