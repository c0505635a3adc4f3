//! A run from its first update to its last.

use std::collections::BTreeMap;
use std::time::Instant;

use durable::Disk;
use engine::backend::Backend;
use formats::trainer_state::LogEntry;

use crate::checkpoints::Checkpoints;
use crate::due::Due;
use crate::error::TrainError;
use crate::evaluate::eval_loss;
use crate::journal::Journal;
use crate::learner::{Examples, Learner, Row};
use crate::observer::{Banner, Ending, Event, Observer, StopFlag, TrainOutput, UpdateDone};
use crate::optimizer::Optimizer;
use crate::order::RowOrder;
use crate::plan::Plan;
use crate::state::{RunState, entry, rounded};
use crate::update::{Update, update};

/// Everything that a run takes.
pub struct Trainer<'a, L: Learner> {
    /// What to do.
    pub plan: &'a Plan,
    /// What learns.
    pub learner: &'a mut L,
    /// What is learnt from.
    pub examples: &'a dyn Examples,
    /// What is evaluated on.
    pub eval_examples: Option<&'a dyn Examples>,
    /// Names and digests of what else decides the result (base, data set, adapter's config): a
    /// checkpoint is resumed only where they are the same.
    pub identity: BTreeMap<String, String>,
    /// Ends the run after the update at hand.
    pub stop: StopFlag,
    /// Is told what happens.
    pub observer: &'a mut dyn Observer,
    /// Where files go.
    pub disk: Disk,
}

/// A run under way.
pub(crate) struct Session<'a, L: Learner> {
    pub(crate) run: Trainer<'a, L>,
    pub(crate) optimizer: Optimizer<L::Backend>,
    pub(crate) state: RunState,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) journal: Journal,
    order: RowOrder,
    /// Of the newest checkpoint that this run wrote.
    saved_step: Option<u64>,
    started: Instant,
    first_step: u64,
}

impl<L: Learner> Trainer<'_, L> {
    /// Trains, or goes on training where `resume_from_checkpoint` says so.
    ///
    /// # Errors
    /// Before the first update: an output folder that cannot be used, a checkpoint that does not
    /// belong to this run. Later: a loss or gradient that is not finite, a row that cannot be read,
    /// a checkpoint that cannot be written. Checkpoints already published stay as they are.
    pub fn train(self) -> Result<TrainOutput, TrainError> {
        Session::begin(self)?.run()
    }
}

impl<'a, L: Learner> Session<'a, L> {
    fn begin(run: Trainer<'a, L>) -> Result<Self, TrainError> {
        let plan = run.plan;
        run.learner
            .set_label_smoothing(plan.arguments.label_smoothing_factor as f32);
        let parameters = run.learner.parameters();
        let mut optimizer = Optimizer::new(run.learner.backend(), parameters, &plan.arguments);
        let mut checkpoints = Checkpoints::open(&run.disk, plan, &run.identity)?;
        checkpoints.need_room(run.learner)?;
        run.observer.on(Event::Begin(&banner(plan, run.learner)));
        plan.notices
            .iter()
            .for_each(|notice| run.observer.on(Event::Notice(notice)));
        let mut state = RunState::new(plan);
        if let Some(asked) = &plan.arguments.resume_from_checkpoint {
            let (found, skipped) = checkpoints.find(asked)?;
            for one in &skipped {
                run.observer.on(Event::Skipped {
                    path: &one.path,
                    reason: &one.reason,
                });
            }
            let resumed = checkpoints.resume(plan, &found, run.learner, &mut optimizer)?;
            for change in &resumed.1 {
                run.observer.on(Event::Notice(&change.to_string()));
            }
            state = resumed.0;
            run.observer.on(Event::Resumed {
                path: &found.path,
                step: state.step(),
            });
        } else {
            checkpoints.refuse_if_used()?;
        }
        let journal = Journal::open(&checkpoints, state.resume.metrics_bytes, run.observer);
        let order = RowOrder::new(plan, run.examples.len());
        let (first_step, started) = (state.step(), Instant::now());
        Ok(Self {
            run,
            optimizer,
            state,
            checkpoints,
            journal,
            order,
            saved_step: None,
            started,
            first_step,
        })
    }

    fn run(mut self) -> Result<TrainOutput, TrainError> {
        let plan = self.run.plan;
        self.before_the_first()?;
        while self.state.step() < plan.max_steps && !self.state.resume.stopped_early {
            if let Some(signal) = self.run.stop.requested() {
                return self.interrupted(signal);
            }
            let update = self.update()?;
            let mut due = Due::after(plan, self.state.step(), false);
            if due.log {
                self.log_training(&update);
            }
            if due.evaluate {
                self.evaluate_here()?;
            }
            if self.state.resume.stopped_early {
                let end = Due::after(plan, self.state.step(), true);
                if end.log && !due.log {
                    self.log_training(&update);
                }
                due.save |= end.save;
            }
            if due.save && !self.state.resume.evaluation_pending {
                self.save(!plan.arguments.save_only_model)?;
            }
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
            let due = Due::after(self.run.plan, self.state.step(), false);
            if due.save && !self.state.resume.evaluation_pending {
                self.save(!self.run.plan.arguments.save_only_model)?;
            }
        } else if self.run.plan.arguments.eval_on_start && self.state.step() == 0 {
            self.evaluate()?;
        }
        Ok(())
    }

    /// One update, counted and told.
    fn update(&mut self) -> Result<Update, TrainError> {
        let (plan, began, done) = (self.run.plan, Instant::now(), self.state.step());
        let micro_batches = self.micro_batches(done)?;
        let update = update(
            self.run.learner,
            &mut self.optimizer,
            plan,
            &micro_batches,
            done,
        )?;
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

    /// The evaluation due after an update, with what follows from it.
    fn evaluate_here(&mut self) -> Result<(), TrainError> {
        self.state.resume.evaluation_pending = true;
        let Some(loss) = self.evaluate()? else {
            return Ok(());
        };
        self.state.resume.evaluation_pending = false;
        let is_best = self.state.judge(self.run.plan, loss);
        if is_best && self.run.plan.saving == crate::plan::Saving::Best {
            self.save(!self.run.plan.arguments.save_only_model)?;
        }
        Ok(())
    }

    /// `None` where it was interrupted.
    fn evaluate(&mut self) -> Result<Option<f64>, TrainError> {
        let (plan, began) = (self.run.plan, Instant::now());
        let Some(examples) = self.run.eval_examples else {
            return Ok(None);
        };
        let (total, batch_size) = (examples.len(), plan.arguments.per_device_eval_batch_size);
        let Trainer {
            learner,
            observer,
            stop,
            ..
        } = &mut self.run;
        let max_tokens = plan.arguments.max_tokens_per_pass;
        let evaluated = eval_loss(&**learner, examples, batch_size, max_tokens, |done| {
            observer.on(Event::Evaluating { done, total });
            stop.requested().is_none()
        })?;
        let Some(loss) = evaluated else {
            return Ok(None);
        };
        let (loss, runtime) = (loss.unwrap_or(f64::NAN), began.elapsed().as_secs_f64());
        self.log(entry([
            ("eval_loss", loss),
            ("eval_runtime", rounded(runtime, 4)),
            (
                "eval_samples_per_second",
                rounded(total as f64 / runtime, 3),
            ),
            (
                "eval_steps_per_second",
                rounded(total.div_ceil(batch_size) as f64 / runtime, 3),
            ),
        ]));
        Ok(Some(loss))
    }

    fn save(&mut self, whole: bool) -> Result<(), TrainError> {
        let (plan, observer) = (self.run.plan, &mut *self.run.observer);
        self.state.resume.metrics_bytes = self.journal.sync(observer);
        let saved = self.checkpoints.save(
            plan,
            &*self.run.learner,
            &self.optimizer,
            &mut self.state,
            whole,
        )?;
        self.saved_step = Some(self.state.step());
        let size_bytes = saved.manifest.total_bytes();
        observer.on(Event::Saved {
            path: &saved.path,
            size_bytes,
        });
        for path in self.checkpoints.retain(plan, &self.state)? {
            observer.on(Event::Removed(&path));
        }
        self.journal
            .plot(&self.checkpoints, &self.state.file.log_history, observer);
        Ok(())
    }

    fn interrupted(mut self, signal: usize) -> Result<TrainOutput, TrainError> {
        let pending = self.state.resume.evaluation_pending;
        let model_only = self.run.plan.arguments.save_only_model;
        if self.saved_step != Some(self.state.step()) || pending || model_only {
            self.save(true)?;
        }
        let checkpoint = self
            .checkpoints
            .path_of(self.state.step())
            .unwrap_or_default();
        Ok(self.output(LogEntry::new(), Ending::Interrupted { signal, checkpoint }))
    }

    fn finish(mut self) -> Result<TrainOutput, TrainError> {
        let plan = self.run.plan;
        let runtime = self.started.elapsed().as_secs_f64();
        let steps = (self.state.step() - self.first_step) as f64;
        let per_update = (plan.steps.batch_size * plan.steps.accumulation) as f64;
        self.log(entry([
            ("train_runtime", rounded(runtime, 4)),
            (
                "train_samples_per_second",
                rounded(steps * per_update / runtime, 3),
            ),
            ("train_steps_per_second", rounded(steps / runtime, 3)),
            ("total_flos", 0.0),
            ("train_loss", self.training_loss()),
        ]));
        if plan.arguments.load_best_model_at_end {
            self.load_best()?;
        }
        self.checkpoints.save_final(&*self.run.learner)?;
        let text = self.state.file_text(plan);
        let path = self.checkpoints.join(crate::state::TRAINER_STATE);
        self.checkpoints.disk.write_atomic(path, text.as_bytes())?;
        let observer = &mut *self.run.observer;
        self.journal
            .plot(&self.checkpoints, &self.state.file.log_history, observer);
        self.journal.sync(observer);
        let metrics = self
            .state
            .file
            .log_history
            .last()
            .cloned()
            .unwrap_or_default();
        let early = self.state.resume.stopped_early;
        Ok(self.output(
            metrics,
            if early {
                Ending::EarlyStop
            } else {
                Ending::Complete
            },
        ))
    }

    fn load_best(&mut self) -> Result<(), TrainError> {
        let best = self
            .state
            .file
            .best_global_step
            .zip(self.state.file.best_metric);
        let Some((step, metric)) = best else {
            return Ok(());
        };
        let Some(path) = self.checkpoints.path_of(step) else {
            return Ok(());
        };
        self.run.learner.load(&path)?;
        self.run.observer.on(Event::LoadedBest {
            path: &path,
            metric,
        });
        Ok(())
    }

    fn training_loss(&self) -> f64 {
        self.state.resume.total_loss / self.state.step().max(1) as f64
    }

    fn output(&self, metrics: LogEntry, ending: Ending) -> TrainOutput {
        TrainOutput {
            global_step: self.state.step(),
            training_loss: self.training_loss(),
            metrics,
            ending,
            lost_log_lines: self.journal.lost_lines(),
        }
    }
}

/// Trained values.
pub(crate) fn trainable_parameters<L: Learner>(learner: &L) -> u64 {
    let backend = learner.backend();
    let len = |parameter: &model::Parameter<L::Backend>| backend.len(&parameter.value) as u64;
    learner.parameters().iter().map(len).sum()
}

fn banner<L: Learner>(plan: &Plan, learner: &L) -> Banner {
    let (batch, accumulation) = (plan.steps.batch_size, plan.steps.accumulation);
    Banner {
        num_examples: plan.steps.examples,
        num_train_epochs: plan.num_train_epochs,
        updates_per_epoch: plan.steps.updates_per_epoch(),
        per_device_train_batch_size: batch,
        total_train_batch_size: batch * accumulation,
        gradient_accumulation_steps: accumulation,
        max_steps: plan.max_steps,
        trainable_parameters: trainable_parameters(learner),
    }
}
