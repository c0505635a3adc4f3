//! What goes wrong in a run is told with its place, and costs no good state.

use super::toy::*;
use crate::TrainError;
use serde_json::json;

/// Rows 0, 1, 2, … one an update; row `at` ends in a poisoned token.
fn poisoned(at: usize, poison: u32) -> Setup {
    let mut setup = Setup::new(json!({"per_device_train_batch_size": 1, "max_steps": 9,
        "train_sampling_strategy": "sequential", "learning_rate": 0.02, "save_steps": 2}));
    let row = &mut setup.rows.0[at];
    row.input_ids.push(poison);
    row.labels.push(poison as i32);
    setup
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_step_and_row() {
    let folder = tempfile::tempdir().unwrap();
    let ran = poisoned(5, POISON).run(folder.path(), json!({}), Notes::default());
    let error = ran.result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "loss of update 6 is not finite, in row 5"
    );
    assert!(matches!(error, TrainError::LossNotFinite { step: 6, .. }));
    assert!(ran.toy.values().iter().all(|value| value.is_finite()));
    assert!(folder.path().join("checkpoint-4").is_dir());
    assert!(!folder.path().join("checkpoint-6").exists());
    assert!(!folder.path().join("adapter_model.safetensors").exists());
}

#[test]
fn a_gradient_that_is_not_finite_stops_the_run_and_names_the_parameter() {
    let folder = tempfile::tempdir().unwrap();
    let ran = poisoned(3, POISON_GRADIENT).run(folder.path(), json!({}), Notes::default());
    assert_eq!(
        ran.result.unwrap_err().to_string(),
        "gradient of update 4 is not finite, of h.0.bias first, from row 3"
    );
    assert!(ran.toy.values().iter().all(|value| value.is_finite()));
}

#[test]
fn after_the_bad_row_is_mended_the_run_goes_on_from_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let setup = poisoned(5, POISON);
    assert!(
        setup
            .run(folder.path(), json!({}), Notes::default())
            .result
            .is_err()
    );
    let mut mended = setup;
    let row = &mut mended.rows.0[5];
    row.labels.pop();
    row.labels.push(-100);
    let resume = json!({"resume_from_checkpoint": "latest"});
    let ran = mended.run(folder.path(), resume, Notes::default());
    assert_eq!(ran.notes.updates.first().unwrap().step, 5);
    assert_eq!(ran.result.unwrap().global_step, 9);
}

#[test]
fn a_log_that_cannot_be_written_costs_one_warning_and_not_the_run() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("metrics.jsonl")).unwrap();
    let setup = Setup::new(json!({"max_steps": 5, "logging_steps": 1}));
    let ran = setup.run(folder.path(), json!({}), Notes::default());
    let output = ran.result.unwrap();
    assert_eq!((output.global_step, output.lost_log_lines), (5, 6));
    let warnings = ran
        .notes
        .notices
        .iter()
        .filter(|text| text.contains("without its log"));
    assert_eq!(warnings.count(), 1);
}

#[test]
fn a_second_run_in_the_same_folder_is_refused_while_the_first_lives() {
    let folder = tempfile::tempdir().unwrap();
    let _lock = durable::FolderLock::take(folder.path()).unwrap();
    let ran = Setup::new(json!({"max_steps": 2})).run(folder.path(), json!({}), Notes::default());
    let error = ran.result.unwrap_err().to_string();
    assert!(error.contains("another run"), "{error}");
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_the_first_update() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("taken");
    std::fs::write(&file, b"not a folder").unwrap();
    let ran = Setup::new(json!({"max_steps": 2})).run(&file, json!({}), Notes::default());
    assert!(ran.result.is_err() && ran.notes.updates.is_empty());
}
