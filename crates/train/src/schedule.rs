//! The learning rate of each update, as `transformers/optimization.py` 5.23 computes it: in f64, by
//! the same expressions in the same order, so that logged values agree to the last bit.

use std::f64::consts::PI;

use crate::arguments::{ArgumentValue, SchedulerKwargs, SchedulerType};
use crate::error::Problem;

/// The learning rate as a function of the updates done.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    learning_rate: f64,
    warmup_steps: u64,
    max_steps: u64,
    course: Course,
}

/// A schedule's course after the warm-up, with its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Course {
    Linear,
    Cosine { cycles: f64 },
    CosineWithRestarts { cycles: f64 },
    Polynomial { lr_end: f64, power: f64 },
    Constant,
    InverseSqrt { timescale: f64 },
}

impl Schedule {
    /// * `learning_rate`: the peak.
    /// * `warmup_steps`, `max_steps`: in updates.
    ///
    /// # Errors
    /// A setting in `kwargs` that this schedule does not have, or a value that it cannot take.
    pub fn new(
        kind: SchedulerType,
        kwargs: &SchedulerKwargs,
        learning_rate: f64,
        warmup_steps: u64,
        max_steps: u64,
    ) -> Result<Self, Problem> {
        let mut settings = Settings {
            kwargs,
            kind,
            taken: Vec::new(),
        };
        let course = match kind {
            SchedulerType::Linear => Course::Linear,
            SchedulerType::Cosine => Course::Cosine {
                cycles: settings.take("num_cycles", 0.5)?,
            },
            SchedulerType::CosineWithRestarts => Course::CosineWithRestarts {
                cycles: settings.take("num_cycles", 1.0)?,
            },
            SchedulerType::Polynomial => Course::Polynomial {
                lr_end: settings.take("lr_end", 1e-7)?,
                power: settings.take("power", 1.0)?,
            },
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => Course::Constant,
            SchedulerType::InverseSqrt => {
                let usual = if warmup_steps == 0 {
                    10_000.0
                } else {
                    warmup_steps as f64
                };
                Course::InverseSqrt {
                    timescale: settings.take("timescale", usual)?,
                }
            }
        };
        settings.finish()?;
        // `constant` knows no warm-up in transformers either.
        let warmup_steps = if kind == SchedulerType::Constant {
            0
        } else {
            warmup_steps
        };
        let schedule = Self {
            learning_rate,
            warmup_steps,
            max_steps,
            course,
        };
        schedule.check()?;
        Ok(schedule)
    }

    fn check(&self) -> Result<(), Problem> {
        let wrong = |message: String| Err(Problem::new("lr_scheduler_kwargs", message));
        match self.course {
            Course::Polynomial { lr_end, .. } if lr_end >= self.learning_rate => wrong(format!(
                "needs `lr_end` below learning_rate {}: found {lr_end}",
                self.learning_rate
            )),
            Course::InverseSqrt { timescale } if timescale < 1.0 => wrong(format!(
                "needs a `timescale` of 1 or more: found {timescale}"
            )),
            _ => Ok(()),
        }
    }

    /// The learning rate of the update that follows `done` updates.
    pub fn learning_rate(&self, done: u64) -> f64 {
        self.learning_rate * self.factor(done)
    }

    fn factor(&self, done: u64) -> f64 {
        let (step, warmup, total) = (done as f64, self.warmup_steps as f64, self.max_steps as f64);
        if step < warmup {
            return step / warmup.max(1.0);
        }
        let progress = (step - warmup) / (total - warmup).max(1.0);
        match self.course {
            Course::Linear => ((total - step) / (total - warmup).max(1.0)).max(0.0),
            Course::Cosine { cycles } => {
                (0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())).max(0.0)
            }
            Course::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Course::CosineWithRestarts { cycles } => {
                (0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos())).max(0.0)
            }
            Course::Polynomial { lr_end, .. } if step > total => lr_end / self.learning_rate,
            Course::Polynomial { lr_end, power } => {
                let range = self.learning_rate - lr_end;
                let remaining = 1.0 - (step - warmup) / (total - warmup);
                (range * remaining.powf(power) + lr_end) / self.learning_rate
            }
            Course::Constant => 1.0,
            Course::InverseSqrt { timescale } => {
                1.0 / ((step + (timescale - warmup)) / timescale).sqrt()
            }
        }
    }
}

/// The settings of a schedule, with a note of those that were asked for.
struct Settings<'a> {
    kwargs: &'a SchedulerKwargs,
    kind: SchedulerType,
    taken: Vec<&'static str>,
}

impl Settings<'_> {
    fn take(&mut self, name: &'static str, usual: f64) -> Result<f64, Problem> {
        self.taken.push(name);
        let Some(value) = self.kwargs.0.get(name).filter(|value| !value.is_null()) else {
            return Ok(usual);
        };
        f64::from_value(value)
            .filter(|number| *number >= 0.0)
            .ok_or_else(|| {
                let message = format!("wants a number, 0 or more, for `{name}`: found {value}");
                Problem::new("lr_scheduler_kwargs", message)
            })
    }

    fn finish(self) -> Result<(), Problem> {
        let strange = self
            .kwargs
            .0
            .keys()
            .find(|name| !self.taken.contains(&name.as_str()));
        let Some(name) = strange else { return Ok(()) };
        let known = if self.taken.is_empty() {
            "none".to_owned()
        } else {
            format!("`{}`", self.taken.join("`, `"))
        };
        let kind = self.kind.as_str();
        let message =
            format!("has `{name}`, which schedule `{kind}` does not take (it takes {known})");
        Err(Problem::new("lr_scheduler_kwargs", message).mend("remove it"))
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test reads what others wrote"
)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn schedule(kind: SchedulerType, kwargs: Value, warmup: u64, total: u64) -> Schedule {
        let kwargs = SchedulerKwargs::from_value(&kwargs).unwrap();
        Schedule::new(kind, &kwargs, 2e-4, warmup, total).unwrap()
    }

    #[test]
    fn the_first_update_without_warmup_has_the_whole_rate() {
        let linear = schedule(SchedulerType::Linear, json!({}), 0, 7);
        assert_eq!(linear.learning_rate(0), 2e-4);
        assert_eq!(linear.learning_rate(7), 0.0);
        assert_eq!(linear.learning_rate(9), 0.0);
    }

    // Values of transformers 5.23's own functions at step 9 of 20 with a warm-up of 3.
    #[test]
    fn each_course_meets_transformers_at_a_step_in_the_middle() {
        let cases = [
            (SchedulerType::Linear, json!({}), 0.00012941176470588237),
            (SchedulerType::Cosine, json!({}), 0.00014457383557765386),
            (
                SchedulerType::CosineWithRestarts,
                json!({"num_cycles": 3}),
                0.0001982973099683902,
            ),
            (
                SchedulerType::Polynomial,
                json!({"lr_end": 1e-6, "power": 2.5}),
                6.802124418897194e-05,
            ),
            (SchedulerType::ConstantWithWarmup, json!({}), 0.0002),
            (
                SchedulerType::InverseSqrt,
                json!({}),
                0.00011547005383792517,
            ),
        ];
        for (kind, kwargs, want) in cases {
            assert_eq!(
                schedule(kind, kwargs, 3, 20).learning_rate(9),
                want,
                "{kind:?}"
            );
        }
    }

    /// The learning-rate columns of runs that others published, recomputed.
    #[test]
    fn the_rates_of_published_runs_are_met_exactly() {
        let Some(inputs) = testkit::shared_inputs() else {
            eprintln!("skipped: no shared inputs");
            return;
        };
        let none = SchedulerKwargs::default();
        // (folder, kind, peak, warm-up, updates whose rate is logged: before or after the step)
        let runs = [
            (
                "falcon-rw-1b-linear",
                SchedulerType::Linear,
                5e-5,
                0,
                125,
                1,
            ),
            ("phi-1.5-cosine", SchedulerType::Cosine, 5e-5, 0, 351, 0),
            (
                "qwen3-8b-linear-warmup",
                SchedulerType::Linear,
                2e-4,
                5,
                6687,
                1,
            ),
            (
                "tinyllama-cosine-evals",
                SchedulerType::Cosine,
                1e-5,
                57,
                2808,
                1,
            ),
        ];
        for (folder, kind, peak, warmup, total, before) in runs {
            let path = inputs
                .join("curves")
                .join(folder)
                .join("trainer_state.json");
            let state: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let schedule = Schedule::new(kind, &none, peak, warmup, total).unwrap();
            let logged = state["log_history"].as_array().unwrap();
            let logged = logged
                .iter()
                .filter(|entry| entry.get("learning_rate").is_some());
            let mut count = 0;
            for entry in logged {
                let step = entry["step"].as_u64().unwrap();
                // An overflow under fp16's gradient scaler skips the update, and the schedule's
                // step with it: this run lost one between its logs of 2025 and 2040.
                let skipped = u64::from(folder == "tinyllama-cosine-evals" && step >= 2040);
                let want = entry["learning_rate"].as_f64().unwrap();
                assert_eq!(
                    schedule.learning_rate(step - before - skipped),
                    want,
                    "{folder}, step {step}"
                );
                count += 1;
            }
            assert!(count > 10);
        }
    }

    #[test]
    fn inverse_sqrt_without_warmup_uses_ten_thousand() {
        let inverse = schedule(SchedulerType::InverseSqrt, json!({}), 0, 100);
        assert_eq!(inverse.learning_rate(0), 2e-4);
        assert_eq!(inverse.learning_rate(10_000), 2e-4 / 2f64.sqrt());
    }

    #[test]
    fn polynomial_ends_at_lr_end() {
        let polynomial = schedule(SchedulerType::Polynomial, json!({"power": 2.0}), 2, 10);
        assert!((polynomial.learning_rate(10) - 1e-7).abs() < 1e-20);
        assert!((polynomial.learning_rate(11) - 1e-7).abs() < 1e-20);
    }

    #[test]
    fn a_setting_of_another_schedule_is_refused() {
        let kwargs = SchedulerKwargs::from_value(&json!({"power": 2})).unwrap();
        let problem = Schedule::new(SchedulerType::Cosine, &kwargs, 1e-4, 0, 10).unwrap_err();
        assert_eq!(
            problem.message,
            "has `power`, which schedule `cosine` does not take (it takes `num_cycles`)"
        );
    }
}
