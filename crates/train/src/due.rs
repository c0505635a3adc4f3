//! What is to be done after an update: the Trainer's `DefaultFlowCallback`.

use crate::plan::{Interval, Plan, Saving};

/// What is due. Logs come first, then the evaluation, then the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) log: bool,
    pub(crate) evaluate: bool,
    pub(crate) save: bool,
    /// `should_log` in the saved `TrainerControl`. A log clears it, but where `logging_first_step` has logged the update
    /// that ends an epoch, the epoch asks once more, for nothing.
    pub(crate) asks_again: bool,
}

impl Due {
    /// After `done` updates; `stopping` where the run ends here before its time.
    pub(crate) fn after(plan: &Plan, done: u64, stopping: bool) -> Self {
        let last = done >= plan.max_steps || stopping;
        // An epoch that the run's end cuts off ends too, as in the Trainer.
        let ends_epoch = last
            || done
                .checked_sub(1)
                .is_some_and(|at| plan.steps.place(at).ends_epoch);
        let first = plan.arguments.logging_first_step && done == 1;
        let begun = match plan.evaluation {
            Interval::Epochs => plan.eval_delay <= plan.steps.epoch_after(done),
            _ => plan.eval_delay <= done as f64,
        };
        let by_steps = |interval| matches!(interval, Interval::Steps(_));
        let evaluate =
            plan.evaluation.is_due(done, ends_epoch) || (last && by_steps(plan.evaluation));
        let save = match plan.saving {
            Saving::At(interval) => {
                interval.is_due(done, ends_epoch) || (last && by_steps(interval))
            }
            Saving::Best => false,
        };
        let by_epochs = |interval: Interval| interval == Interval::Epochs && ends_epoch;
        let saved_behind = by_epochs(plan.logging) && plan.saving == Saving::At(Interval::Epochs);
        // What an evaluation logs clears it too.
        let cleared = by_epochs(plan.evaluation) && begun;
        Self {
            log: first || plan.logging.is_due(done, ends_epoch),
            evaluate: evaluate && begun,
            save,
            asks_again: first && saved_behind && !cleared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn due(map: Value, done: u64) -> (bool, bool, bool) {
        let arguments = serde_json::from_value(map).unwrap();
        // 7 rows, one each: 7 updates an epoch.
        let plan = Plan::new(&arguments, 7, Some(3)).unwrap();
        let due = Due::after(&plan, done, false);
        (due.log, due.evaluate, due.save)
    }

    #[test]
    fn steps_and_the_last_update_are_as_in_the_trainer() {
        let map = json!({"per_device_train_batch_size": 1, "max_steps": 10, "logging_steps": 3,
            "eval_strategy": "steps", "eval_steps": 4, "eval_delay": 5, "save_steps": 6,
            "logging_first_step": true});
        let at = |done| due(map.clone(), done);
        assert_eq!(at(1), (true, false, false));
        assert_eq!(at(4), (false, false, false));
        assert_eq!(at(6), (true, false, true));
        assert_eq!(at(8), (false, true, false));
        assert_eq!(at(10), (false, true, true));
    }

    #[test]
    fn epochs_end_with_their_last_update_and_with_the_run() {
        let map = json!({"per_device_train_batch_size": 1, "max_steps": 10,
            "logging_strategy": "epoch", "eval_strategy": "epoch", "save_strategy": "epoch", "eval_delay": 1.2});
        let at = |done| due(map.clone(), done);
        assert_eq!(at(6), (false, false, false));
        assert_eq!(at(7), (true, false, true));
        assert_eq!(at(10), (true, true, true));
    }

    #[test]
    fn an_epoch_asks_again_for_the_log_of_a_first_update_that_ends_it() {
        let asks = |changes: Value, done| {
            // 7 rows in one update.
            let mut map = json!({"per_device_train_batch_size": 7, "num_train_epochs": 2, "logging_first_step": true,
                "logging_strategy": "epoch", "save_strategy": "epoch"});
            let (map_now, changes) = (map.as_object_mut().unwrap(), changes.as_object().unwrap());
            map_now.extend(changes.clone());
            let evaluated = changes.get("eval_strategy").map(|_| 3);
            let plan = Plan::new(&serde_json::from_value(map).unwrap(), 7, evaluated).unwrap();
            Due::after(&plan, done, false).asks_again
        };
        assert!(asks(json!({}), 1));
        assert!(!asks(json!({}), 2));
        assert!(asks(json!({"eval_strategy": "steps", "eval_steps": 1}), 1));
        assert!(asks(json!({"eval_strategy": "epoch", "eval_delay": 2}), 1));
        assert!(!asks(json!({"eval_strategy": "epoch"}), 1));
        assert!(!asks(json!({"per_device_train_batch_size": 4}), 1));
        assert!(!asks(json!({"logging_first_step": false}), 1));
        assert!(!asks(json!({"logging_strategy": "steps"}), 1));
        assert!(!asks(json!({"save_strategy": "steps"}), 1));
    }
}
