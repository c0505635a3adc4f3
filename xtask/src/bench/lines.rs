//! Races in which each side prints a line of JSON for every case.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::measure::measure_lines;

/// One case, run by run.
#[derive(Default)]
pub(crate) struct Line {
    /// Of the case.
    pub(crate) name: String,
    pub(crate) ours: Vec<Value>,
    pub(crate) peer: Vec<Value>,
}

/// Runs both sides in turn. What `keys` hold names a case; both sides have the same cases in the same order.
pub(crate) fn run(
    runs: usize,
    peer: impl Fn() -> Command,
    ours: impl Fn() -> Command,
    keys: &[&str],
) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for number in 1..=runs {
        eprintln!("pair {number} of {runs}: torch, then ours");
        let peer = measure_lines(&mut peer())?;
        add(&mut lines, measure_lines(&mut ours())?, peer, keys)?;
    }
    Ok(lines)
}

fn add(lines: &mut Vec<Line>, ours: Vec<Value>, peer: Vec<Value>, keys: &[&str]) -> Result<()> {
    let names =
        |side: &[Value]| -> Vec<String> { side.iter().map(|line| name_of(line, keys)).collect() };
    ensure!(names(&ours) == names(&peer), "the sides differ in order");
    lines.resize_with(ours.len(), Line::default);
    for ((line, ours), peer) in lines.iter_mut().zip(ours).zip(peer) {
        line.name = name_of(&ours, keys);
        line.ours.push(ours);
        line.peer.push(peer);
    }
    Ok(())
}

fn name_of(line: &Value, keys: &[&str]) -> String {
    let words: Vec<String> = keys.iter().map(|key| line[key].to_string()).collect();
    words.join(" ").replace('"', "")
}

impl Line {
    /// A figure of both sides, ours first, run by run.
    pub(crate) fn figures(&self, key: &str) -> [Vec<f64>; 2] {
        let of = |value: &Value| value[key].as_f64().unwrap_or(f64::NAN);
        [&self.ours, &self.peer].map(|side| side.iter().map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cases_of_all_runs_come_together_and_may_not_differ() {
        let mut lines = Vec::new();
        for seconds in [1.0, 3.0] {
            let side =
                |factor: f64| vec![json!({"kernel": "norm", "m": 16, "seconds": factor * seconds})];
            add(&mut lines, side(1.0), side(2.0), &["kernel", "m"]).expect("the same cases");
        }
        assert_eq!(lines[0].name, "norm 16");
        assert_eq!(lines[0].figures("seconds"), [[1.0, 3.0], [2.0, 6.0]]);
        let [other, more] = [vec![json!({"kernel": "loss", "m": 16})], Vec::new()];
        for peer in [other, more] {
            let ours = vec![json!({"kernel": "norm", "m": 16})];
            assert!(add(&mut lines, ours, peer, &["kernel", "m"]).is_err());
        }
    }
}
