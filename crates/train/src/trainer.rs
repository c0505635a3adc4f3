//! A run before its first update: the folder taken, the checkpoint found, everything in place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use durable::{Disk, Skipped};
use engine::backend::Backend;
use model::Parameter;

use crate::checkpoints::Checkpoints;
use crate::error::{ChangedSetting, TrainError};
use crate::journal::Journal;
use crate::learner::{Examples, Learner};
use crate::observer::{Banner, Event, Observer, StopFlag, TrainOutput};
use crate::optimizer::Optimizer;
use crate::order::RowOrder;
use crate::plan::Plan;
use crate::state::RunState;

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
    /// Names and digests of what else decides the result: base (as [`peft::BASE_DIGEST`]), data set,
    /// adapter's config, arithmetic. A checkpoint is resumed only where they are the same.
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
    pub(crate) order: RowOrder,
    /// Of the newest checkpoint that this run wrote.
    pub(crate) saved_step: Option<u64>,
    /// The newest checkpoint, where it could not be written and the run goes on without it.
    pub(crate) unsaved: Option<(u64, TrainError)>,
    pub(crate) started: Instant,
    /// Updates that were done before.
    pub(crate) first_step: u64,
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
        let (plan, arguments) = (run.plan, &run.plan.arguments);
        run.learner
            .set_label_smoothing(arguments.label_smoothing_factor as f32);
        run.learner
            .set_activation_checkpointing(arguments.activation_checkpointing);
        let optimizer = Optimizer::new(run.learner.backend(), run.learner.parameters(), arguments);
        let checkpoints = Checkpoints::open(&run.disk, plan, &run.identity)?;
        checkpoints.need_room(run.learner)?;
        let mut this = Self {
            journal: Journal::new(&checkpoints),
            order: RowOrder::new(plan, run.examples.len()),
            state: RunState::new(plan),
            run,
            optimizer,
            checkpoints,
            saved_step: None,
            unsaved: None,
            started: Instant::now(),
            first_step: 0,
        };
        let resumed = match &arguments.resume_from_checkpoint {
            Some(asked) => Some(this.resume(asked)?),
            None => {
                this.checkpoints.refuse_if_used()?;
                None
            }
        };
        this.tell_begin(resumed.as_ref());
        let logged = &this.state.file.log_history;
        this.journal.open(logged, this.run.observer);
        Ok(this)
    }

    fn resume(&mut self, asked: &str) -> Result<Resumed, TrainError> {
        let (found, skipped) = self.checkpoints.find(asked)?;
        let learner = &mut *self.run.learner;
        let (state, changed) =
            self.checkpoints
                .resume(self.run.plan, &found, learner, &mut self.optimizer)?;
        self.state = state;
        self.first_step = self.state.step();
        // What could be saved of this step again is there.
        let is_here = self.checkpoints.is_here(&found);
        self.saved_step = is_here.then_some(self.first_step);
        Ok(Resumed {
            left: self.checkpoints.leave_behind(&found)?,
            path: found.path,
            skipped,
            changed,
        })
    }

    /// What the run is and from where it goes on: said when nothing can refuse it any more.
    fn tell_begin(&mut self, resumed: Option<&Resumed>) {
        let observer = &mut *self.run.observer;
        observer.on(Event::Begin(&banner(self.run.plan, self.run.learner)));
        for notice in &self.run.plan.notices {
            observer.on(Event::Notice(notice));
        }
        let Some(resumed) = resumed else { return };
        for Skipped { path, reason } in &resumed.skipped {
            observer.on(Event::Skipped { path, reason });
        }
        for change in &resumed.changed {
            observer.on(Event::Notice(&change.to_string()));
        }
        for (was, is) in &resumed.left {
            let (was, is) = (was.display(), is.display());
            let text = format!("`{was}` would stand in the way of this run, and is kept as `{is}`");
            observer.on(Event::Notice(&text));
        }
        observer.on(Event::Resumed {
            path: &resumed.path,
            step: self.first_step,
        });
    }
}

/// From where a run goes on.
struct Resumed {
    path: PathBuf,
    /// Passed over in the search.
    skipped: Vec<Skipped>,
    /// What differs but may.
    changed: Vec<ChangedSetting>,
    /// Later checkpoints: where they were and where they are.
    left: Vec<(PathBuf, PathBuf)>,
}

/// Trained values.
pub(crate) fn trainable_parameters<L: Learner>(learner: &L) -> u64 {
    let backend = learner.backend();
    let len = |parameter: &Parameter<L::Backend>| backend.len(&parameter.value) as u64;
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
