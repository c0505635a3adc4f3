//! A run from its first update to its last.

use std::time::Instant;

use formats::trainer_state::LogEntry;

use crate::due::Due;
use crate::error::TrainError;
use crate::learner::{Learner, Row};
use crate::observer::{Event, TrainOutput, UpdateDone};
use crate::trainer::Session;
use crate::update::{Update, update};

impl<L: Learner> Session<'_, L> {
    pub(crate) fn run(mut self) -> Result<TrainOutput, TrainError> {
        let plan = self.run.plan;
        self.before_the_first()?;
        while self.state.step() < plan.max_steps && !self.state.resume.stopped_early {
            if let Some(signal) = self.run.stop.requested() {
                return self.interrupted(signal);
            }
            let update = self.update()?;
            let due = Due::after(plan, self.state.step(), false);
            if due.log {
                self.log_training(&update);
            }
            if due.evaluate {
                self.evaluate_here()?;
            }
            if self.state.resume.stopped_early && !due.log && self.due_at_an_end().log {
                self.log_training(&update);
            }
            self.save_if(due)?;
        }
        match self.run.stop.requested() {
            Some(signal) if self.state.resume.evaluation_pending => self.interrupted(signal),
            _ => self.finish(),
        }
    }

    /// What an interruption left undone, or what is asked for before the first update.
    fn before_the_first(&mut self) -> Result<(), TrainError> {
        if self.state.resume.evaluation_pending {
            self.evaluate_here()?;
            self.save_if(Due::after(self.run.plan, self.state.step(), false))?;
        } else if self.run.plan.arguments.eval_on_start && self.state.step() == 0 {
            self.evaluate()?;
        }
        Ok(())
    }

    /// One update, counted and told.
    fn update(&mut self) -> Result<Update, TrainError> {
        let (plan, began, done) = (self.run.plan, Instant::now(), self.state.step());
        let micro_batches = self.micro_batches(done)?;
        let learner = &mut *self.run.learner;
        let update = match update(learner, &mut self.optimizer, plan, &micro_batches, done) {
            Err(error) if error.is_not_finite() && self.may_skip() => {
                return Ok(self.skip(&error, done));
            }
            other => other?,
        };
        self.state.count(plan, &update);
        self.run.observer.on(Event::Update(&UpdateDone {
            step: self.state.step(),
            max_steps: plan.max_steps,
            epoch: plan.steps.epoch_after(self.state.step()),
            loss: update.loss,
            grad_norm: update.grad_norm,
            learning_rate: update.learning_rate,
            tokens: update.input_tokens,
            seconds: began.elapsed().as_secs_f64(),
        }));
        Ok(update)
    }

    fn may_skip(&self) -> bool {
        let most = self.run.plan.arguments.max_skipped_updates as u64;
        self.state.resume.skipped_in_a_row < most
    }

    /// Leaves an update out: weights, moments and losses stay as they are.
    fn skip(&mut self, error: &TrainError, done: u64) -> Update {
        let plan = self.run.plan;
        self.state.count_skipped(plan);
        let count = self.state.resume.skipped_updates;
        let text = format!("an update is left out ({count} in this run): {error}");
        self.run.observer.on(Event::Notice(&text));
        Update {
            loss: 0.0,
            grad_norm: f64::NAN,
            learning_rate: plan.schedule.learning_rate(done),
            input_tokens: 0,
            flos: 0.0,
        }
    }

    /// The rows of the update that follows `done` updates.
    fn micro_batches(&mut self, done: u64) -> Result<Vec<Vec<Row>>, TrainError> {
        let steps = &self.run.plan.steps;
        let place = steps.place(done);
        let order = self.order.of_epoch(place.epoch);
        let example = |at: usize| self.run.examples.example(order[at] as usize);
        let rows = |batch| steps.rows(batch).map(example).collect();
        place.batches.map(rows).collect()
    }

    fn log_training(&mut self, update: &Update) {
        let entry = self.state.training_entry(update);
        self.log(entry);
    }

    pub(crate) fn log(&mut self, entry: LogEntry) {
        let entry = self.state.keep(entry);
        self.journal.add(entry, self.run.observer);
        self.run.observer.on(Event::Log(entry));
    }

    fn save_if(&mut self, due: Due) -> Result<(), TrainError> {
        let ends_early = self.state.resume.stopped_early && self.due_at_an_end().save;
        if (due.save || ends_early) && !self.state.resume.evaluation_pending {
            self.save()?;
        }
        Ok(())
    }

    fn due_at_an_end(&self) -> Due {
        Due::after(self.run.plan, self.state.step(), true)
    }
}
