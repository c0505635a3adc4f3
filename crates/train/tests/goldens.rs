//! Against what the Python stack wrote: schedules, and whole runs of the Trainer on tiny models, on both engines.

#![allow(clippy::disallowed_methods, reason = "tests look at what was written")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use durable::{Disk, StagedFolder};
use engine::backend::Backend;
use engine::cpu::Cpu;
use engine::reference::Reference;
use engine::shapes::ComputeDtype;
use formats::Dtype;
use formats::hf_config::HfConfig;
use formats::safetensors::{TensorToWrite, write};
use formats::weights::WeightStore;
use lowrank_train::{
    ArgumentValue, DecoderLearner, Event, Examples, ModelFiles, Observer, Plan, Row, Schedule,
    SchedulerKwargs, SchedulerType, StopFlag, TrainError, Trainer, TrainingArguments, UpdateDone,
};
use model::Decoder;
use model::families::{decoder_spec, module_tree};
use serde_json::{Map, Value, json};
use testkit::golden;

#[test]
fn every_rate_of_every_schedule_is_that_of_transformers() {
    let cases = testkit::read_json(&testkit::goldens().join("schedules.json"));
    let mut count = 0;
    for case in cases.as_array().unwrap() {
        let kind = SchedulerType::from_value(&case["lr_scheduler_type"]).unwrap();
        let kwargs = SchedulerKwargs::from_value(&case["lr_scheduler_kwargs"]).unwrap();
        let max_steps = case["max_steps"].as_u64().unwrap();
        let warmup = case["warmup_steps"].as_f64().unwrap();
        let warmup = if warmup < 1.0 {
            (warmup * max_steps as f64).ceil()
        } else {
            warmup
        } as u64;
        let peak = case["learning_rate"].as_f64().unwrap();
        let schedule = Schedule::new(kind, &kwargs, peak, warmup, max_steps).unwrap();
        for (done, want) in case["rates"].as_array().unwrap().iter().enumerate() {
            assert_eq!(
                schedule.learning_rate(done as u64),
                want.as_f64().unwrap(),
                "{case}, {done}"
            );
            count += 1;
        }
    }
    assert!(count > 500);
}

/// The deltas of a decoder as plain tensors.
struct Deltas;

impl<B: Backend> ModelFiles<B> for Deltas {
    fn save(&self, decoder: &Decoder<B>, folder: &mut StagedFolder) -> Result<(), TrainError> {
        let bytes = |values: Vec<f32>| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        let all: Vec<Vec<u8>> = values(decoder).into_iter().map(bytes).collect();
        let tensors = decoder
            .trainable()
            .iter()
            .zip(&all)
            .map(|(parameter, bytes)| {
                TensorToWrite::bytes(&parameter.name, Dtype::F32, &parameter.shape, bytes)
            });
        let mut file = folder.create("deltas.safetensors")?;
        write(&mut file, tensors.collect(), &[])?;
        Ok(file.finish()?)
    }

    fn load(&self, decoder: &mut Decoder<B>, folder: &Path) -> Result<(), TrainError> {
        let stored = WeightStore::open_file(&folder.join("deltas.safetensors"))?;
        for tensor in stored.iter() {
            decoder.set_values(&tensor.name, &tensor.to_f32().unwrap())?;
        }
        Ok(())
    }
}

struct Rows(Vec<testkit::Row>, Vec<usize>);

impl Examples for Rows {
    fn len(&self) -> usize {
        self.1.len()
    }

    fn example(&self, index: usize) -> Result<Row, TrainError> {
        let row = self.0[self.1[index]].clone();
        Ok(Row {
            index,
            input_ids: row.input_ids,
            labels: row.labels,
        })
    }
}

#[derive(Default)]
struct Log(Vec<Value>, Vec<UpdateDone>);

impl Observer for Log {
    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Log(entry) => self.0.push(entry.to_json().into_value()),
            Event::Update(done) => self.1.push(done.clone()),
            _ => {}
        }
    }
}

/// Of each trained parameter, in their order.
fn values<B: Backend>(decoder: &Decoder<B>) -> Vec<Vec<f32>> {
    let download = |buffer| decoder.backend().download(buffer).unwrap();
    let trainable = decoder.trainable().iter();
    trainable
        .map(|parameter| download(&parameter.value))
        .collect()
}

fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(Some(2), ComputeDtype::F32, None))
}

/// A golden's model with its start adapter, and its parameters without embeddings.
fn decoder<B: Backend>(backend: Arc<B>, case: &testkit::Golden) -> (Decoder<B>, u64) {
    let config = HfConfig::open_file(&case.path("config")).unwrap();
    let (spec, tree) = (
        decoder_spec(&config).unwrap(),
        module_tree(&config).unwrap(),
    );
    let weights = WeightStore::open(&case.path("model")).unwrap();
    let mut decoder = Decoder::load(backend, spec, &weights).unwrap();
    let adapter = case.path("adapter");
    let plan = peft::load_adapter(&mut decoder, &tree, &adapter, Some(&weights)).unwrap();
    let num_parameters = plan.tree.num_parameters_without_embeddings();
    (decoder, num_parameters)
}

fn assert_close(label: &str, found: f64, want: f64, relative: f64) {
    let gap = (found - want).abs();
    assert!(
        gap <= relative * want.abs().max(1e-3),
        "{label}: {found} is not {want}"
    );
}

/// The Trainer's own arguments, without those that are PyTorch's.
fn arguments(asked: &Value, output_dir: &Path) -> TrainingArguments {
    let mut map = asked.as_object().unwrap().clone();
    map.retain(|name, _| {
        let torchs = ["use_cpu", "disable_tqdm"].contains(&name.as_str());
        !torchs
    });
    map.insert("output_dir".into(), output_dir.to_str().unwrap().into());
    TrainingArguments::from_map(&map).unwrap()
}

#[test]
fn runs_of_the_trainer_are_followed_in_every_entry_of_their_logs() {
    follow_runs(&Arc::new(Reference::default()));
    follow_runs(&cpu());
}

fn follow_runs<B: Backend>(backend: &Arc<B>) {
    let case = golden("llama/attention");
    let runs = testkit::read_json(&testkit::goldens().join("trainer/runs.json"));
    let finals =
        WeightStore::open_file(&testkit::goldens().join("trainer/final.safetensors")).unwrap();
    for run in runs.as_array().unwrap() {
        let name = run["name"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let arguments = arguments(&run["arguments"], &output);
        let count = run["rows"].as_u64().unwrap() as usize;
        let rows = Rows(case.rows(), (0..count).collect());
        let evaluates = run["arguments"].get("eval_strategy").is_some();
        let eval: Vec<usize> = run["eval_rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row.as_u64().unwrap() as usize)
            .collect();
        let eval = evaluates.then(|| Rows(case.rows(), eval));
        let plan = Plan::new(&arguments, count, eval.as_ref().map(Rows::len)).unwrap();
        assert_eq!(plan.max_steps, run["max_steps"].as_u64().unwrap(), "{name}");
        assert_eq!(
            plan.num_train_epochs,
            run["num_train_epochs"].as_u64().unwrap(),
            "{name}"
        );
        let (mut decoder, num_parameters) = decoder(Arc::clone(backend), &case);
        let (mut log, files) = (Log::default(), Deltas);
        let mut learner = DecoderLearner {
            decoder: &mut decoder,
            files: &files,
            num_parameters_without_embeddings: num_parameters,
        };
        let trainer = Trainer {
            plan: &plan,
            learner: &mut learner,
            examples: &rows,
            eval_examples: eval.as_ref().map(|rows| rows as &dyn Examples),
            identity: BTreeMap::new(),
            stop: StopFlag::default(),
            observer: &mut log,
            disk: Disk::real(),
        };
        trainer.train().unwrap();
        compare_logs(name, &log.0, run["log_history"].as_array().unwrap());
        compare_weights(name, &decoder, &finals);
        compare_checkpoints(name, &output, run);
    }
}

fn compare_logs(name: &str, found: &[Value], want: &[Value]) {
    assert_eq!(found.len(), want.len(), "{name}");
    for (found, want) in found.iter().zip(want) {
        assert_eq!(names(found), names(want), "{name}, step {}", want["step"]);
        for (key, value) in want.as_object().unwrap() {
            let label = format!("{name}, step {}, {key}", want["step"]);
            let (found, want) = (found[key].as_f64().unwrap(), value.as_f64().unwrap());
            match key.as_str() {
                "learning_rate" | "epoch" | "step" | "total_flos" => {
                    assert_eq!(found, want, "{label}")
                }
                _ => assert_close(&label, found, want, 1e-5),
            }
        }
    }
}

/// What an entry says, but for times, which the goldens leave out.
fn names(entry: &Value) -> BTreeSet<&str> {
    let names = entry.as_object().unwrap().keys().map(String::as_str);
    let is_time = |name: &&str| name.ends_with("_runtime") || name.ends_with("_per_second");
    names.filter(|name| !is_time(name)).collect()
}

fn compare_weights<B: Backend>(name: &str, decoder: &Decoder<B>, finals: &WeightStore) {
    let mut compared = 0;
    for (parameter, values) in decoder.trainable().iter().zip(values(decoder)) {
        let want = finals.get(&format!("{name}.{}", parameter.name)).unwrap();
        let want = want.to_f32().unwrap();
        assert_eq!(values.len(), want.len(), "{name}");
        for (found, want) in values.iter().zip(want) {
            assert!(
                (found - want).abs() <= 2e-5,
                "{name}, {}: {found} {want}",
                parameter.name
            );
            compared += 1;
        }
    }
    assert!(compared > 100);
}

fn compare_checkpoints(name: &str, output: &Path, run: &Value) {
    let mut kept: Vec<String> = std::fs::read_dir(output)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|entry| entry.starts_with("checkpoint-"))
        .collect();
    kept.sort();
    assert_eq!(json!(kept), run["checkpoints_kept"], "{name}");
    let state = testkit::read_json(&output.join("trainer_state.json"));
    for key in ["global_step", "epoch", "best_global_step"] {
        assert_eq!(state[key], run[key], "{name}: {key}");
    }
    if let Some(want) = run["best_metric"].as_f64() {
        assert_close(name, state["best_metric"].as_f64().unwrap(), want, 1e-5);
        compare_state(&output.join(kept.last().unwrap()));
    }
}

/// Every key of the Trainer's own file but the numbers that training gave.
fn compare_state(checkpoint: &Path) {
    let want = testkit::goldens().join("trainer/best_kept.trainer_state.json");
    let want = testkit::read_json(&want);
    let found = testkit::read_json(&checkpoint.join("trainer_state.json"));
    let keys =
        |state: &Value| -> Vec<String> { state.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&found), keys(&want));
    for key in keys(&want) {
        match key.as_str() {
            // The Trainer counts tokens only where it is asked to.
            "best_metric" | "log_history" | "num_input_tokens_seen" => {}
            "best_model_checkpoint" => {
                assert!(
                    found[&key].as_str().unwrap().ends_with("/checkpoint-2"),
                    "{}",
                    found[&key]
                );
            }
            _ => assert_eq!(found[&key], want[&key], "{key}"),
        }
    }
}

#[test]
fn twenty_updates_of_every_case_give_the_trainers_log_and_weights() {
    for family in ["bloom", "gpt2", "llama", "mistral", "qwen2"] {
        for name in testkit::cases(family) {
            twenty_updates(Arc::new(Reference::default()), &name);
            twenty_updates(cpu(), &name);
        }
    }
}

/// The golden's updates come in its own order, so its rows are laid out in that order.
fn twenty_updates<B: Backend>(backend: Arc<B>, name: &str) {
    let case = golden(name);
    let updates = case.updates();
    let order: Vec<usize> = updates.concat();
    let per_update = updates[0].len();
    let asked = &case.want()["arguments"];
    let folder = tempfile::tempdir().unwrap();
    let mut map = Map::new();
    for key in [
        "learning_rate",
        "weight_decay",
        "warmup_steps",
        "lr_scheduler_type",
        "max_grad_norm",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "lr_scheduler_kwargs",
    ] {
        if let Some(value) = asked.get(key) {
            map.insert(key.into(), value.clone());
        }
    }
    map.extend(
        json!({"per_device_train_batch_size": 1, "gradient_accumulation_steps": per_update,
            "max_steps": updates.len(), "logging_steps": 1, "save_strategy": "no",
            "train_sampling_strategy": "sequential", "output_dir": folder.path().to_str().unwrap()})
        .as_object()
        .unwrap()
        .clone(),
    );
    let arguments = TrainingArguments::from_map(&map).unwrap();
    let rows = Rows(case.rows(), order);
    let plan = Plan::new(&arguments, rows.len(), None).unwrap();
    let (mut decoder, num_parameters) = decoder(backend, &case);
    let mut log = Log::default();
    let mut learner = DecoderLearner {
        decoder: &mut decoder,
        files: &Deltas,
        num_parameters_without_embeddings: num_parameters,
    };
    let trainer = Trainer {
        plan: &plan,
        learner: &mut learner,
        examples: &rows,
        eval_examples: None,
        identity: BTreeMap::new(),
        stop: StopFlag::default(),
        observer: &mut log,
        disk: Disk::real(),
    };
    trainer.train().unwrap();
    let wanted = case.log();
    assert!(wanted.len() >= 20, "{name}");
    assert_eq!(log.1.len(), wanted.len(), "{name}");
    for (found, want) in log.1.iter().zip(wanted) {
        let label = format!("{name}, update {}", want.step);
        assert_eq!(found.learning_rate, want.learning_rate, "{label}");
        assert_close(&label, found.loss, want.loss, 2e-5);
        assert_close(&label, found.grad_norm, want.grad_norm, 1e-4);
    }
    compare_finals(&case, name, &decoder);
}

/// Within four times of what torch's own f32 weights are from its f64 ones after the same updates.
fn compare_finals<B: Backend>(case: &testkit::Golden, name: &str, decoder: &Decoder<B>) {
    let tolerance = 4.0 * case.number("final_f32_from_f64") as f32;
    let masks = case.names("noise.");
    assert_eq!(
        decoder.trainable().len(),
        case.names("final.").len(),
        "{name}"
    );
    for (parameter, values) in decoder.trainable().iter().zip(values(decoder)) {
        let tensor = |kind: &str| &case.tensor(&format!("{kind}.{}", parameter.name)).values;
        let (want, grad) = (tensor("final"), tensor("grad"));
        assert_eq!(values.len(), want.len(), "{name}");
        for (at, (found, want)) in values.iter().zip(want).enumerate() {
            // The mask has the elements whose f32 and f64 runs ended apart. Of their kind (a key's bias, whose
            // gradient is rounding only) a few ended together by chance.
            let is_noise = masks.contains(&parameter.name)
                && (tensor("noise")[at] == 1.0 || grad[at].abs() < 1e-7);
            let gap = (found - want).abs();
            let label = format!("{name}, {}[{at}]: {found} is not {want}", parameter.name);
            assert!(is_noise || gap <= tolerance, "{label}");
        }
    }
}
