use super::*;
use serde_json::{Value, json};

fn plan(map: Value, rows: usize, eval: Option<usize>) -> Result<Plan, TrainError> {
    Plan::new(&serde_json::from_value(map).unwrap(), rows, eval)
}

fn refusal(map: Value, rows: usize, eval: Option<usize>) -> String {
    plan(map, rows, eval).unwrap_err().to_string()
}

#[test]
fn the_tutorials_arguments_settle_as_in_the_trainer() {
    let map = json!({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8,
        "logging_steps": 10, "num_train_epochs": 1});
    let plan = plan(map, 26_858, None).unwrap();
    assert_eq!((plan.max_steps, plan.num_train_epochs), (3358, 1));
    assert_eq!(plan.logging, Interval::Steps(10));
    assert_eq!(plan.saving, Saving::At(Interval::Steps(500)));
    assert_eq!(plan.data_seed, 42);
    assert!(plan.notices.is_empty());
}

#[test]
fn fractions_are_shares_of_the_run_rounded_up() {
    let map =
        json!({"max_steps": 55, "warmup_steps": 0.05, "logging_steps": 0.1, "save_steps": 0.5});
    let plan = plan(map, 100, None).unwrap();
    assert_eq!(plan.logging, Interval::Steps(6));
    assert_eq!(plan.saving, Saving::At(Interval::Steps(28)));
    assert_eq!(plan.schedule.learning_rate(1), 5e-5 * (1.0 / 3.0));
    assert_eq!(plan.num_train_epochs, 5);
}

#[test]
fn warmup_ratio_is_the_old_name_of_a_fractional_warmup() {
    let old = plan(json!({"max_steps": 40, "warmup_ratio": 0.1}), 9, None).unwrap();
    let new = plan(json!({"max_steps": 40, "warmup_steps": 0.1}), 9, None).unwrap();
    assert_eq!(old.schedule, new.schedule);
    let both = refusal(
        json!({"max_steps": 40, "warmup_ratio": 0.1, "warmup_steps": 4}),
        9,
        None,
    );
    assert!(both.contains("`warmup_ratio`"), "{both}");
}

#[test]
fn combinations_without_effect_are_refused_by_name() {
    let cases = [
        (
            json!({"max_steps": 10, "warmup_steps": 11}),
            "`warmup_steps` is a warm-up of 11 updates in a run of 10",
        ),
        (
            json!({"lr_scheduler_type": "constant", "warmup_steps": 2}),
            "`warmup_steps` has no effect",
        ),
        (
            json!({"load_best_model_at_end": true}),
            "`load_best_model_at_end` needs evaluations",
        ),
        (
            json!({"eval_steps": 5}),
            "`eval_steps` has no effect with eval_strategy `no`",
        ),
        (
            json!({"eval_strategy": "epoch"}),
            "`eval_strategy` needs an evaluation set",
        ),
        (
            json!({"save_strategy": "no", "save_total_limit": 3}),
            "`save_total_limit` has no effect",
        ),
        (
            json!({"save_strategy": "epoch", "save_steps": 3}),
            "`save_steps` has no effect",
        ),
        (
            json!({"max_steps": 10, "num_train_epochs": 1}),
            "`num_train_epochs` has no effect",
        ),
        (
            json!({"data_seed": 1, "train_sampling_strategy": "sequential"}),
            "`data_seed` has no effect",
        ),
        (
            json!({"early_stopping_threshold": 0.1}),
            "`early_stopping_threshold` has no effect",
        ),
        (
            json!({"learning_rate": 0}),
            "`learning_rate` must be above 0: found 0",
        ),
        (
            json!({"logging_steps": 2.5}),
            "`logging_steps` must be a whole number",
        ),
        (
            json!({"resume_with_changed": "seed"}),
            "`resume_with_changed` has no effect without resume_from_checkpoint",
        ),
        (json!({"output_dir": ""}), "`output_dir` is empty"),
        (
            json!({"max_steps": 0}),
            "`max_steps` must be -1 or above 0: found 0",
        ),
        (
            json!({"num_train_epochs": 0}),
            "`num_train_epochs` must be above 0 and at most 1000000: found 0",
        ),
        (
            json!({"logging_strategy": "no", "logging_steps": 3}),
            "`logging_steps` has no effect with logging_strategy `no`",
        ),
        (
            json!({"logging_strategy": "epoch", "logging_steps": 3}),
            "`logging_steps` has no effect with logging_strategy `epoch`",
        ),
        (
            json!({"adam_beta2": 1}),
            "`adam_beta2` must be 0 or more and below 1: found 1",
        ),
        (
            json!({"gradient_accumulation_steps": 0}),
            "`gradient_accumulation_steps` must be from 1 to 16777216: found 0",
        ),
        (
            json!({"lr_scheduler_kwargs": {"power": 1}}),
            "`lr_scheduler_kwargs` has `power`",
        ),
    ];
    for (map, want) in cases {
        let text = refusal(map, 20, None);
        assert!(text.contains(want), "want: {want}\nfound: {text}");
    }
}

#[test]
fn logging_steps_may_stand_for_eval_steps_where_nothing_is_logged() {
    let map = json!({"logging_strategy": "no", "logging_steps": 3, "eval_strategy": "steps"});
    assert_eq!(
        plan(map, 20, Some(5)).unwrap().evaluation,
        Interval::Steps(3)
    );
    let map = json!({"logging_strategy": "no", "logging_steps": 3, "eval_strategy": "steps", "eval_steps": 2});
    assert!(refusal(map, 20, Some(5)).contains("`logging_steps` has no effect"));
}

#[test]
fn a_size_of_evaluations_that_are_not_made_is_told_but_not_refused() {
    let notice = "per_device_eval_batch_size has no effect without evaluations";
    let told = |map, eval| {
        plan(map, 5000, eval)
            .unwrap()
            .notices
            .contains(&notice.to_owned())
    };
    assert!(told(json!({"per_device_eval_batch_size": 2}), None));
    assert!(!told(json!({}), None));
    for when in [
        json!({"eval_strategy": "epoch"}),
        json!({"eval_on_start": true}),
    ] {
        let mut map = when;
        map["per_device_eval_batch_size"] = 2.into();
        assert!(!told(map, Some(5)));
    }
}

#[test]
fn an_evaluation_of_which_dropping_leaves_nothing_is_refused() {
    let arguments = |batch| json!({"eval_strategy": "epoch", "dataloader_drop_last": true, "per_device_eval_batch_size": batch});
    assert!(plan(arguments(5), 50, Some(5)).is_ok());
    let text = refusal(arguments(6), 50, Some(5));
    assert!(
        text.contains("is 6, more than the 5 rows of evaluation"),
        "{text}"
    );
}

#[test]
fn sizes_are_refused_by_their_range_before_they_overflow() {
    for name in [
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "max_tokens_per_pass",
    ] {
        for size in [1_u64 << 25, 1 << 33] {
            let text = refusal(json!({name: size}), 20, None);
            let want = format!("`{name}` must be from 1 to 16777216: found {size}");
            assert!(text.contains(&want), "want: {want}\nfound: {text}");
        }
    }
    let largest =
        json!({"per_device_train_batch_size": 1 << 24, "gradient_accumulation_steps": 1 << 24});
    let steps = plan(largest, 20, None).unwrap().steps;
    assert_eq!(
        steps.batch_size.checked_mul(steps.accumulation),
        Some(1 << 48)
    );
}

#[test]
fn many_epochs_are_taken_for_any_number_of_rows() {
    let plan_of = |epochs| {
        plan(
            json!({"num_train_epochs": epochs, "per_device_train_batch_size": 1}),
            1 << 30,
            None,
        )
    };
    let plan = plan_of(1e6).unwrap();
    assert_eq!(
        (plan.max_steps, plan.num_train_epochs),
        (1_000_000 << 30, 1_000_000)
    );
    let text = plan_of(1e6 + 1.0).unwrap_err().to_string();
    assert!(
        text.contains("`num_train_epochs` must be above 0 and at most 1000000: found 1000001"),
        "{text}"
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let text = refusal(
        json!({"learning_rate": 0, "adam_beta1": 2, "max_steps": 0}),
        20,
        None,
    );
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn the_best_checkpoint_needs_saves_on_evaluations() {
    let base = json!({"load_best_model_at_end": true, "eval_strategy": "steps", "eval_steps": 20, "save_steps": 30});
    assert!(refusal(base, 50, Some(5)).contains("multiple"));
    let mixed = json!({"load_best_model_at_end": true, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 30});
    assert!(refusal(mixed, 50, Some(5)).contains("multiple"));
    let shares = json!({"load_best_model_at_end": true, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.3});
    assert!(plan(shares, 50, Some(5)).is_ok());
    let best = json!({"eval_strategy": "epoch", "save_strategy": "best"});
    assert_eq!(plan(best, 50, Some(5)).unwrap().saving, Saving::Best);
}

#[test]
fn an_evaluation_set_without_evaluations_is_refused() {
    assert!(refusal(json!({}), 50, Some(5)).contains("evaluation set has no effect"));
    assert!(refusal(json!({}), 0, None).contains("no rows"));
    assert!(refusal(json!({"dataloader_drop_last": true}), 5, None).contains("leaves nothing"));
}

#[test]
fn a_run_shorter_than_its_intervals_says_so() {
    let plan = plan(json!({"max_steps": 60}), 50, None).unwrap();
    assert_eq!(plan.notices.len(), 2, "{:?}", plan.notices);
}
