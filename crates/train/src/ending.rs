//! What a run leaves: checkpoints on its way, and its end, in peace or by a signal.

use formats::trainer_state::LogEntry;

use crate::arguments::SaveFailure;
use crate::error::TrainError;
use crate::learner::Learner;
use crate::observer::{Ending, Event, TrainOutput};
use crate::state::{TRAINER_STATE, entry, rounded};
use crate::trainer::Session;

impl<L: Learner> Session<'_, L> {
    /// A checkpoint as asked for.
    pub(crate) fn save(&mut self) -> Result<(), TrainError> {
        let arguments = &self.run.plan.arguments;
        match self.save_checkpoint(!arguments.save_only_model) {
            Err(error) if arguments.save_failure == SaveFailure::Warn => {
                self.go_on_unsaved(error);
                Ok(())
            }
            other => other,
        }
    }

    fn go_on_unsaved(&mut self, error: TrainError) {
        let step = self.state.step();
        let hint = error
            .hint()
            .map_or(String::new(), |hint| format!("; {hint}"));
        let text =
            format!("the checkpoint of step {step} is not saved, the run goes on: {error}{hint}");
        self.run.observer.on(Event::Notice(&text));
        self.unsaved = Some((step, error));
    }

    /// `whole`: with all that resuming takes.
    fn save_checkpoint(&mut self, whole: bool) -> Result<(), TrainError> {
        let (plan, observer) = (self.run.plan, &mut *self.run.observer);
        let (learner, state) = (&*self.run.learner, &mut self.state);
        self.journal.sync(observer);
        let saved = self
            .checkpoints
            .save(plan, learner, &self.optimizer, state, whole)?;
        self.saved_step = Some(state.step());
        self.unsaved = None;
        let size_bytes = saved.manifest.total_bytes();
        observer.on(Event::Saved {
            path: &saved.path,
            size_bytes,
        });
        self.retain()?;
        let observer = &mut *self.run.observer;
        self.journal.plot(&self.state.file.log_history, observer);
        Ok(())
    }

    fn retain(&mut self) -> Result<(), TrainError> {
        for path in self
            .checkpoints
            .retain(self.run.plan, &self.state, self.saved_step)?
        {
            self.run.observer.on(Event::Removed(&path));
        }
        Ok(())
    }

    /// Keeps everything, whatever was asked for, so that nothing done is lost.
    pub(crate) fn interrupted(mut self, signal: usize) -> Result<TrainOutput, TrainError> {
        let incomplete = self.run.plan.arguments.save_only_model
            || self.state.resume.evaluation_pending
            || self.saved_step != Some(self.state.step());
        if incomplete {
            self.save_checkpoint(true)?;
        }
        let checkpoint = self.checkpoints.saved(self.state.step())?;
        Ok(self.output(LogEntry::new(), Ending::Interrupted { signal, checkpoint }))
    }

    /// The summary, the best state where it is asked for, and the adapter in the run's own folder.
    pub(crate) fn finish(mut self) -> Result<TrainOutput, TrainError> {
        let plan = self.run.plan;
        // The run before may have died between its last save and the retention that belongs to it.
        self.retain()?;
        self.log_summary();
        if plan.arguments.load_best_model_at_end {
            self.load_best()?;
        }
        self.checkpoints.save_final(&*self.run.learner)?;
        let text = self.state.file_text(plan);
        let path = self.checkpoints.join(TRAINER_STATE);
        self.checkpoints.disk.write_atomic(path, text.as_bytes())?;
        let observer = &mut *self.run.observer;
        self.journal.plot(&self.state.file.log_history, observer);
        self.journal.sync(observer);
        let metrics = self
            .state
            .file
            .log_history
            .last()
            .cloned()
            .unwrap_or_default();
        if let Some((step, source)) = self.unsaved {
            let (folder, source) = (self.checkpoints.folder.clone(), Box::new(source));
            return Err(TrainError::LastSaveFailed {
                folder,
                step,
                source,
            });
        }
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

    /// Rates are those of this call, the loss that of the whole run (the Trainer divides a resumed
    /// run's by the steps since, which makes it another number than that of a run never stopped).
    fn log_summary(&mut self) {
        let runtime = self.started.elapsed().as_secs_f64();
        let steps = &self.run.plan.steps;
        let updates = (self.state.step() - self.first_step) as f64;
        let rows = updates * (steps.batch_size * steps.accumulation) as f64;
        let entry = entry([
            ("train_runtime", rounded(runtime, 4)),
            ("train_samples_per_second", rounded(rows / runtime, 3)),
            ("train_steps_per_second", rounded(updates / runtime, 3)),
            ("total_flos", self.state.file.total_flos.get()),
            ("train_loss", self.state.training_loss()),
        ]);
        self.log(entry);
    }

    fn load_best(&mut self) -> Result<(), TrainError> {
        let file = &self.state.file;
        let Some((step, metric)) = file.best_global_step.zip(file.best_metric) else {
            return Ok(());
        };
        let Some(path) = self.checkpoints.path_of(step) else {
            let text = format!(
                "the best checkpoint, of step {step}, is not there: the adapter is that of the last update"
            );
            self.run.observer.on(Event::Notice(&text));
            return Ok(());
        };
        self.run.learner.load(&path)?;
        self.run.observer.on(Event::LoadedBest {
            path: &path,
            metric,
        });
        Ok(())
    }

    fn output(&self, metrics: LogEntry, ending: Ending) -> TrainOutput {
        TrainOutput {
            global_step: self.state.step(),
            training_loss: self.state.training_loss(),
            metrics,
            ending,
            lost_log_lines: self.journal.lost_lines(),
        }
    }
}
