//! The pairs of a race, and what comes of them as a table.

use anyhow::{Result, ensure};
use serde_json::Value;

/// One line of a race's table.
pub(crate) struct Metric {
    /// Its words.
    pub(crate) name: &'static str,
    /// In the JSON of both sides.
    pub(crate) key: &'static str,
    /// From the JSON's unit to that of the words.
    pub(crate) scale: f64,
    /// The ratio is the peer's over ours.
    pub(crate) smaller_is_better: bool,
}

/// What the issue asks of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Reach {
    /// The median ratio, pair by pair.
    Ratio(f64),
    /// Our median.
    AtMost(f64),
}

/// Shorthand of [`Metric`] where more is better.
pub(crate) const fn more(name: &'static str, key: &'static str) -> Metric {
    Metric {
        name,
        key,
        scale: 1.0,
        smaller_is_better: false,
    }
}

/// Where less is better.
pub(crate) const fn less(name: &'static str, key: &'static str, scale: f64) -> Metric {
    Metric {
        name,
        key,
        scale,
        smaller_is_better: true,
    }
}

pub(crate) const PEAK_MEMORY: Metric = less("peak memory, GB", "peak_rss_bytes", 1e-9);
pub(crate) const OWN_MEMORY: Metric =
    less("of which no mapped file, GB", "peak_anonymous_bytes", 1e-9);

/// The first over the second, pair by pair.
pub(crate) fn ratios(above: &[f64], below: &[f64]) -> Vec<f64> {
    let pairs = above.iter().zip(below);
    pairs.map(|(above, below)| above / below).collect()
}

/// Ours and the peer's runs, pair by pair.
pub(crate) struct Pairs {
    pub(crate) ours: Vec<Value>,
    pub(crate) peer: Vec<Value>,
}

impl Pairs {
    /// Runs both in turn, the peer first.
    pub(crate) fn run(
        runs: usize,
        mut peer: impl FnMut() -> Result<Value>,
        mut ours: impl FnMut() -> Result<Value>,
    ) -> Result<Self> {
        let mut pairs = Self {
            ours: Vec::new(),
            peer: Vec::new(),
        };
        for number in 1..=runs {
            eprintln!("pair {number} of {runs}: the peer");
            pairs.peer.push(peer()?);
            eprintln!("pair {number} of {runs}: ours");
            pairs.ours.push(ours()?);
        }
        Ok(pairs)
    }

    /// Both sides made the same in every run.
    pub(crate) fn ensure_same(&self, key: &str) -> Result<()> {
        let mut all = self.ours.iter().chain(&self.peer).map(|run| &run[key]);
        let first = all.next().unwrap_or(&Value::Null);
        ensure!(!first.is_null(), "a side does not tell its {key}");
        ensure!(all.all(|one| one == first), "the sides differ in {key}");
        Ok(())
    }

    /// Prints a line for each metric; `names` are those of the two sides.
    pub(crate) fn print(&self, names: [&str; 2], metrics: &[(Metric, Option<Reach>)]) {
        let [ours, peer] = names;
        println!(
            "\n| | {ours}: median (min–max) | {peer}: median (min–max) | ratio, pair by pair | reach |"
        );
        println!("|---|---|---|---|---|");
        for (metric, reach) in metrics {
            self.print_line(metric, *reach);
        }
    }

    fn print_line(&self, metric: &Metric, reach: Option<Reach>) {
        let (ours, peer) = (
            self.values(metric, &self.ours),
            self.values(metric, &self.peer),
        );
        let ratios = self.ratios(metric);
        println!(
            "| {} | {} | {} | {}× | {} |",
            metric.name,
            spread(&ours),
            spread(&peer),
            spread(&ratios),
            reach.map_or(String::new(), |reach| verdict(
                reach,
                median(&ours),
                median(&ratios)
            ))
        );
    }

    pub(crate) fn values(&self, metric: &Metric, side: &[Value]) -> Vec<f64> {
        let of = |value: &Value| value[metric.key].as_f64().unwrap_or(f64::NAN) * metric.scale;
        side.iter().map(of).collect()
    }

    /// Above one where ours is better.
    pub(crate) fn ratios(&self, metric: &Metric) -> Vec<f64> {
        let [ours, peer] = [&self.ours, &self.peer].map(|side| self.values(metric, side));
        if metric.smaller_is_better {
            ratios(&peer, &ours)
        } else {
            ratios(&ours, &peer)
        }
    }
}

fn verdict(reach: Reach, ours: f64, ratio: f64) -> String {
    let (words, reached) = match reach {
        Reach::Ratio(least) => (format!("≥ {least:.2}×"), ratio >= least),
        Reach::AtMost(most) => (format!("ours ≤ {most:.2}"), ours <= most),
    };
    // A missing figure of either side leaves no ratio.
    format!("{words}: {}", said(reached && !ratio.is_nan()))
}

/// In a table.
pub(crate) fn said(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}

/// The middle one, or the mean of the middle two; none where one is missing.
pub(crate) fn median(values: &[f64]) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let values = sorted(values);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    f64::midpoint(values[low], values[high])
}

/// `median (min–max)`.
pub(crate) fn spread(values: &[f64]) -> String {
    let sorted = sorted(values);
    let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
    format!("{:.2} ({least:.2}–{most:.2})", median(values))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ratios_are_above_one_where_ours_is_better() {
        let pairs = Pairs {
            ours: vec![
                json!({"rate": 6.0, "seconds": 2.0}),
                json!({"rate": 8.0, "seconds": 4.0}),
            ],
            peer: vec![
                json!({"rate": 3.0, "seconds": 8.0}),
                json!({"rate": 2.0, "seconds": 2.0}),
            ],
        };
        assert_eq!(pairs.ratios(&more("", "rate")), [2.0, 4.0]);
        assert_eq!(pairs.ratios(&less("", "seconds", 1.0)), [4.0, 0.5]);
    }

    #[test]
    fn a_missing_figure_reaches_nothing() {
        assert_eq!(verdict(Reach::Ratio(1.6), 1.0, 1.6), "≥ 1.60×: reached");
        assert_eq!(verdict(Reach::Ratio(1.6), 1.0, f64::NAN), "≥ 1.60×: missed");
        assert_eq!(verdict(Reach::AtMost(0.8), 0.9, 3.0), "ours ≤ 0.80: missed");
        assert_eq!(
            verdict(Reach::AtMost(0.8), 0.7, 3.0),
            "ours ≤ 0.80: reached"
        );
        for (ours, ratio) in [(f64::NAN, 3.0), (0.7, f64::NAN)] {
            let said = verdict(Reach::AtMost(0.8), ours, ratio);
            assert_eq!(said, "ours ≤ 0.80: missed");
        }
        assert!(median(&[1.7, 1.8, f64::NAN]).is_nan());
        assert!(median(&[-f64::NAN, 1.7, 1.8]).is_nan());
    }

    #[test]
    fn what_a_side_does_not_tell_is_not_the_same() {
        let same = |ours: Value, peer: Value| {
            let (ours, peer) = (vec![ours.clone(), ours], vec![peer.clone(), peer]);
            Pairs { ours, peer }.ensure_same("losses").is_ok()
        };
        assert!(same(
            json!({"losses": [1.5, 1.25]}),
            json!({"losses": [1.5, 1.25]})
        ));
        assert!(!same(
            json!({"losses": [1.5, 1.25]}),
            json!({"losses": [1.5, 1.0]})
        ));
        assert!(!same(json!({"losses": [1.5]}), json!({})));
        assert!(!same(json!({}), json!({})));
    }

    #[test]
    fn median_and_ends_do_not_depend_on_the_order() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), "2.00 (1.00–3.00)");
        assert_eq!(median(&[5.0, 1.0]), 3.0);
    }
}
