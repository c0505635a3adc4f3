//! What goes wrong in a run is told with its place, and costs no good state.

use std::path::Path;

use durable::faults::SimFs;
use lowrank_train::TrainError;
use serde_json::json;

use crate::toy::*;

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
    let (sim, ran) = poisoned(5, POISON).fresh();
    let error = ran.result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "loss of update 6 is not finite, in row 5"
    );
    assert!(error.hint().unwrap().contains("last checkpoint"));
    assert!(ran.toy.values().iter().all(|value| value.is_finite()));
    assert_eq!(checkpoints(&sim), ["checkpoint-2", "checkpoint-4"]);
    assert!(!contents(&sim, "").contains_key("adapter_model.safetensors"));
}

#[test]
fn a_gradient_that_is_not_finite_stops_the_run_and_names_the_parameter() {
    let (_, ran) = poisoned(3, POISON_GRADIENT).fresh();
    assert_eq!(
        ran.result.unwrap_err().to_string(),
        "gradient of update 4 is not finite, of h.0.bias first, from row 3"
    );
    assert!(ran.toy.values().iter().all(|value| value.is_finite()));
}

#[test]
fn after_the_bad_row_is_mended_the_run_goes_on_from_the_last_good_checkpoint() {
    let mut setup = poisoned(5, POISON);
    let (sim, ran) = setup.fresh();
    assert!(ran.result.is_err());
    *setup.rows.0[5].labels.last_mut().unwrap() = -100;
    let resumed = setup.resume(&sim);
    assert_eq!(resumed.notes.updates.first().unwrap().step, 5);
    assert_eq!(resumed.result.unwrap().global_step, 9);
}

#[test]
fn a_log_that_cannot_be_written_costs_one_warning_and_not_the_run() {
    let sim = SimFs::new();
    disk(&sim)
        .create_dir_all(Path::new(RUN).join("metrics.jsonl"))
        .unwrap();
    let setup = Setup::new(json!({"max_steps": 5, "logging_steps": 1}));
    let ran = setup.run(&disk(&sim), json!({}), Notes::default());
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
    let sim = SimFs::new();
    disk(&sim).create_dir_all(RUN).unwrap();
    let _lock = durable::FolderLock::take_on(&disk(&sim), RUN).unwrap();
    let ran = Setup::new(json!({"max_steps": 2})).run(&disk(&sim), json!({}), Notes::default());
    let error = ran.result.unwrap_err().to_string();
    assert!(error.contains("another run"), "{error}");
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_the_first_update() {
    let sim = SimFs::new();
    disk(&sim).write_atomic("/taken", b"not a folder").unwrap();
    let setup = Setup::new(json!({"max_steps": 2}));
    let ran = setup.run(
        &disk(&sim),
        json!({"output_dir": "/taken"}),
        Notes::default(),
    );
    assert!(ran.result.is_err() && ran.notes.updates.is_empty());
}

#[test]
fn too_little_space_is_refused_before_the_first_update_with_the_sum() {
    let sim = SimFs::new();
    sim.set_capacity(Some(1 << 20));
    let ran = Setup::new(json!({"max_steps": 2})).run(&disk(&sim), json!({}), Notes::default());
    let Err(TrainError::Durable(error)) = ran.result else {
        panic!("refused")
    };
    assert!(
        error.is_no_space() && error.to_string().contains("bytes needed"),
        "{error}"
    );
    assert!(ran.notes.updates.is_empty());
}
