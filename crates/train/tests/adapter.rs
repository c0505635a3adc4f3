//! A real decoder with an adapter: checkpoints that PEFT's reader opens, resumed to the same bytes, for any number
//! of threads.

#![allow(clippy::disallowed_methods, reason = "tests look at what was written")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use durable::Disk;
use engine::cpu::Cpu;
use engine::shapes::ComputeDtype;
use formats::adapter_config::OneOrMany;
use formats::hf_config::HfConfig;
use formats::pyjson::Number;
use formats::weights::WeightStore;
use lowrank_train::{
    AdapterFiles, DecoderLearner, Ending, Event, Examples, Observer, Plan, Row, StopFlag,
    TrainError, TrainOutput, Trainer, TrainingArguments,
};
use model::Decoder;
use model::families::{decoder_spec, module_tree};
use peft::{LoraConfig, get_peft_model, load_adapter};
use serde_json::{Value, json};

struct Rows(Vec<testkit::Row>);

impl Examples for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn example(&self, index: usize) -> Result<Row, TrainError> {
        let row = self.0[index].clone();
        Ok(Row {
            index,
            input_ids: row.input_ids,
            labels: row.labels,
        })
    }
}

/// Asks for the end after an update.
struct StopAfter(Option<u64>, StopFlag);

impl Observer for StopAfter {
    fn on(&mut self, event: Event<'_>) {
        if let Event::Update(done) = event
            && Some(done.step) == self.0
        {
            self.1.request(15);
        }
    }
}

struct World {
    config: HfConfig,
    weights: WeightStore,
    rows: Rows,
}

impl World {
    fn of(family: &str) -> Self {
        let case = testkit::golden(&format!("{family}/attention"));
        Self {
            config: HfConfig::open_file(&case.path("config")).unwrap(),
            weights: WeightStore::open(&case.path("model")).unwrap(),
            rows: Rows(case.rows()),
        }
    }

    fn decoder(&self, threads: usize) -> Decoder<Cpu> {
        let backend = Arc::new(Cpu::new(Some(threads), ComputeDtype::F32, None));
        let spec = decoder_spec(&self.config).unwrap();
        Decoder::load(backend, spec, &self.weights).unwrap()
    }

    /// A whole call: fresh weights, fresh adapter, then the run or what is left of it.
    fn train(
        &self,
        folder: &Path,
        threads: usize,
        more: Value,
        stop_after: Option<u64>,
    ) -> TrainOutput {
        let mut decoder = self.decoder(threads);
        let tree = module_tree(&self.config).unwrap();
        let config = LoraConfig {
            r: 3,
            lora_alpha: Number::Int(7),
            lora_dropout: Number::Float(0.2),
            target_modules: Some(OneOrMany::One("all-linear".into())),
            ..LoraConfig::default()
        };
        let plan = get_peft_model(&mut decoder, &tree, &config, 5).unwrap();
        let files = AdapterFiles {
            plan: &plan,
            tree: &tree,
            base: Some(&self.weights),
            any_base: false,
            tokenizer: None,
        };
        let mut arguments = json!({"output_dir": folder.to_str().unwrap(), "max_steps": 5,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 1,
            "save_steps": 4, "learning_rate": 0.01, "max_tokens_per_pass": 24});
        arguments
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let arguments: TrainingArguments = serde_json::from_value(arguments).unwrap();
        let run = Plan::new(&arguments, self.rows.len(), None).unwrap();
        let mut learner = DecoderLearner {
            decoder: &mut decoder,
            files: &files,
            num_parameters_without_embeddings: plan.tree.num_parameters_without_embeddings(),
        };
        let stop = StopFlag::default();
        let mut observer = StopAfter(stop_after, stop.clone());
        let trainer = Trainer {
            plan: &run,
            learner: &mut learner,
            examples: &self.rows,
            eval_examples: None,
            identity: BTreeMap::from([(peft::BASE_DIGEST.to_owned(), self.weights.digest())]),
            stop,
            observer: &mut observer,
            disk: Disk::real(),
        };
        trainer.train().unwrap()
    }
}

/// A checkpoint's files that do not tell the time.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn a_resumed_adapter_has_the_same_bytes_for_any_number_of_threads() {
    for family in ["bloom", "qwen2"] {
        let world = World::of(family);
        let straight = tempfile::tempdir().unwrap();
        let output = world.train(straight.path(), 1, json!({}), None);
        assert_eq!(output.ending, Ending::Complete);
        let want = contents(&straight.path().join("checkpoint-5"));
        for (step, threads) in [(1, 2), (2, 3), (3, 1), (4, 2)] {
            let parted = tempfile::tempdir().unwrap();
            let stopped = world.train(parted.path(), threads, json!({}), Some(step));
            assert!(matches!(stopped.ending, Ending::Interrupted { .. }));
            let latest = json!({"resume_from_checkpoint": "latest"});
            world.train(parted.path(), threads + 1, latest, None);
            let found = contents(&parted.path().join("checkpoint-5"));
            assert!(want.keys().eq(found.keys()));
            for (name, bytes) in &want {
                assert!(found[name] == *bytes, "{family}: {name}, stopped at {step}");
            }
        }
    }
}

/// The Trainer's old name and its name of today; the run that never stopped keeps everything.
#[test]
fn activation_checkpointing_may_begin_or_end_at_a_resume_and_leaves_the_same_bytes() {
    for family in ["bloom", "qwen2"] {
        let world = World::of(family);
        let straight = tempfile::tempdir().unwrap();
        world.train(straight.path(), 1, json!({}), None);
        let want = contents(&straight.path().join("checkpoint-5"));
        for (first, second) in [(false, true), (true, false), (true, true)] {
            let parted = tempfile::tempdir().unwrap();
            let on = json!({"activation_checkpointing": first});
            world.train(parted.path(), 2, on, Some(2));
            let on = json!({"resume_from_checkpoint": "latest", "gradient_checkpointing": second});
            world.train(parted.path(), 2, on, None);
            let found = contents(&parted.path().join("checkpoint-5"));
            assert!(want.keys().eq(found.keys()));
            for (name, bytes) in &want {
                assert!(found[name] == *bytes, "{family}: {name}, {first}, {second}");
            }
        }
    }
}

#[test]
fn a_checkpoint_and_the_runs_own_folder_open_as_adapters() {
    let world = World::of("llama");
    let folder = tempfile::tempdir().unwrap();
    world.train(folder.path(), 2, json!({}), None);
    let tree = module_tree(&world.config).unwrap();
    let values = |folder: &Path| -> Vec<(String, Vec<f32>)> {
        let mut decoder = world.decoder(1);
        load_adapter(&mut decoder, &tree, folder, Some(&world.weights)).unwrap();
        let trained = decoder.trainable().iter();
        trained
            .map(|one| (one.name.clone(), one.value.as_slice().to_vec()))
            .collect()
    };
    let last = values(&folder.path().join("checkpoint-5"));
    assert!(
        last.iter()
            .any(|(name, values)| name.ends_with("lora_B.weight")
                && values.iter().any(|v| *v != 0.0))
    );
    assert_eq!(last, values(folder.path()));
    assert_ne!(last, values(&folder.path().join("checkpoint-4")));
}
