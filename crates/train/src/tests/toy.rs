//! A learner of eight values over pairs of tokens, and helpers to run it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durable::{Disk, StagedFolder};
use engine::reference::Reference;
use engine::shapes::{ComputeDtype, uniform};
use formats::weights::WeightStore;
use model::{ModelError, Parameter, PassKey, TokenBatch};
use serde_json::Value;

use crate::tensors::{Tensors, f32_tensor};
use crate::{
    Event, Examples, Learner, Observer, Plan, Row, StopFlag, TrainError, TrainOutput, Trainer,
    UpdateDone,
};

/// A target id whose loss is not a number.
pub(crate) const POISON: u32 = 666;
/// A target id whose loss is finite but its gradient is not.
pub(crate) const POISON_GRADIENT: u32 = 667;

/// `loss = (mask · a[x]·b[y] - want(x, y))² / 2` for token x followed by y.
pub(crate) struct Toy {
    backend: Arc<Reference>,
    parameters: Vec<Parameter<Reference>>,
    pub(crate) dropout: f32,
    /// Passes of more tokens than this have been asked for.
    pub(crate) widest: usize,
}

impl Toy {
    pub(crate) fn new(dropout: f32) -> Self {
        let parameter = |name: &str, values: &[f32]| Parameter::<Reference> {
            name: name.into(),
            shape: vec![values.len()],
            value: values.to_vec(),
            grad: vec![0.0; values.len()],
            decay: name.ends_with("weight"),
        };
        Self {
            backend: Arc::new(Reference::new(ComputeDtype::F32)),
            parameters: vec![
                parameter("h.0.lora_A.weight", &[0.3, -0.2, 0.5, 0.1, -0.4]),
                parameter("h.0.bias", &[0.7, -0.6, 0.9]),
            ],
            dropout,
            widest: 0,
        }
    }

    pub(crate) fn values(&self) -> Vec<f32> {
        self.parameters
            .iter()
            .flat_map(|parameter| parameter.value.clone())
            .collect()
    }

    fn mask(&self, key: PassKey, index: usize) -> f32 {
        let key = key.seed ^ (key.step << 20) ^ (key.pass << 50);
        let kept = uniform(key, index as u64) >= self.dropout;
        if kept {
            1.0 / (1.0 - self.dropout)
        } else {
            0.0
        }
    }

    fn pair(&self, batch: &TokenBatch, index: usize) -> (usize, usize, f32) {
        let target = batch.targets[index];
        let (x, y) = (batch.input_ids[target.position as usize], target.id);
        let want = ((x * 7 + y * 3) % 11) as f32 / 11.0;
        ((x % 5) as usize, (y % 3) as usize, want)
    }
}

impl Learner for Toy {
    type Backend = Reference;

    fn backend(&self) -> Arc<Reference> {
        Arc::clone(&self.backend)
    }

    fn parameters(&self) -> &[Parameter<Reference>] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [Parameter<Reference>] {
        &mut self.parameters
    }

    fn zero_grad(&mut self) {
        self.parameters
            .iter_mut()
            .for_each(|parameter| parameter.grad.fill(0.0));
    }

    fn forward_backward(
        &mut self,
        batch: &TokenBatch,
        key: PassKey,
    ) -> Result<Vec<f32>, ModelError> {
        self.widest = self.widest.max(batch.input_ids.len());
        let mut losses = Vec::new();
        for (index, target) in batch.targets.iter().enumerate() {
            let (x, y, want) = self.pair(batch, index);
            let mask = self.mask(key, index);
            let (a, b) = (self.parameters[0].value[x], self.parameters[1].value[y]);
            let error = mask * a * b - want;
            self.parameters[0].grad[x] += target.weight * error * mask * b;
            self.parameters[1].grad[y] += target.weight * error * mask * a;
            if target.id == POISON_GRADIENT {
                self.parameters[1].grad[y] = f32::INFINITY;
            }
            losses.push(if target.id == POISON {
                f32::NAN
            } else {
                error * error / 2.0
            });
        }
        Ok(losses)
    }

    fn losses(&self, batch: &TokenBatch) -> Result<Vec<f32>, ModelError> {
        let loss = |index| {
            let (x, y, want) = self.pair(batch, index);
            let error = self.parameters[0].value[x] * self.parameters[1].value[y] - want;
            error * error / 2.0
        };
        Ok((0..batch.targets.len()).map(loss).collect())
    }

    fn set_label_smoothing(&mut self, _: f32) {}

    fn save(&self, folder: &mut StagedFolder) -> Result<(), TrainError> {
        let mut tensors = Tensors::default();
        for parameter in &self.parameters {
            tensors.push(parameter.name.clone(), &parameter.shape, &parameter.value);
        }
        tensors.save(folder, "adapter_model.safetensors")
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        let stored = WeightStore::open_file(&folder.join("adapter_model.safetensors"))?;
        for parameter in &mut self.parameters {
            parameter.value = f32_tensor(&stored, &parameter.name, &parameter.shape)?;
        }
        Ok(())
    }
}

/// Rows in memory.
pub(crate) struct Rows(pub(crate) Vec<Row>);

impl Rows {
    /// Rows of 4 to 9 tokens with a masked beginning.
    pub(crate) fn some(count: usize) -> Self {
        let row = |index: usize| {
            let len = 4 + index * 5 % 6;
            let ids: Vec<u32> = (0..len)
                .map(|at| ((index * 13 + at * 7) % 40) as u32)
                .collect();
            let masked = 1 + index % 3;
            let label = |(at, id): (usize, &u32)| if at < masked { -100 } else { *id as i32 };
            Row {
                index,
                labels: ids.iter().enumerate().map(label).collect(),
                input_ids: ids,
            }
        };
        Self((0..count).map(row).collect())
    }
}

impl Examples for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn example(&self, index: usize) -> Result<Row, TrainError> {
        Ok(self.0[index].clone())
    }
}

/// Writes down what happens, and can ask for the end after an update or during an evaluation.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) updates: Vec<UpdateDone>,
    pub(crate) logs: Vec<Value>,
    pub(crate) notices: Vec<String>,
    pub(crate) skipped: Vec<String>,
    pub(crate) removed: Vec<PathBuf>,
    pub(crate) evaluations: usize,
    pub(crate) stop: StopFlag,
    pub(crate) stop_after: Option<u64>,
    pub(crate) stop_in_evaluation: Option<usize>,
}

impl Observer for Notes {
    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Update(done) => {
                if self.stop_after == Some(done.step) {
                    self.stop.request(15);
                }
                self.updates.push(done.clone());
            }
            Event::Log(entry) => self.logs.push(entry.to_json().into_value()),
            Event::Notice(text) => self.notices.push(text.to_owned()),
            Event::Skipped { reason, .. } => self.skipped.push(reason.to_owned()),
            Event::Removed(path) => self.removed.push(path.to_owned()),
            Event::Evaluating { done: 0, .. } => {
                self.evaluations += 1;
                if self.stop_in_evaluation == Some(self.evaluations) {
                    self.stop.request(2);
                }
            }
            _ => {}
        }
    }
}

/// One run of the toy.
pub(crate) struct Setup {
    pub(crate) arguments: Value,
    pub(crate) rows: Rows,
    pub(crate) eval: Option<Rows>,
    pub(crate) dropout: f32,
    pub(crate) identity: BTreeMap<String, String>,
    pub(crate) disk: Disk,
}

/// What came of it.
pub(crate) struct Ran {
    pub(crate) result: Result<TrainOutput, TrainError>,
    pub(crate) notes: Notes,
    pub(crate) toy: Toy,
}

impl Setup {
    pub(crate) fn new(arguments: Value) -> Self {
        Self {
            arguments,
            rows: Rows::some(11),
            eval: None,
            dropout: 0.0,
            identity: BTreeMap::from([("dataset".into(), "abc".into())]),
            disk: Disk::real(),
        }
    }

    pub(crate) fn run(&self, folder: &Path, more: Value, notes: Notes) -> Ran {
        let Value::Object(mut map) = self.arguments.clone() else {
            panic!("an object")
        };
        let Value::Object(more) = more else {
            panic!("an object")
        };
        map.extend(more);
        map.insert("output_dir".into(), folder.to_str().unwrap().into());
        let arguments = crate::TrainingArguments::from_map(&map).unwrap();
        let plan = Plan::new(
            &arguments,
            self.rows.len(),
            self.eval.as_ref().map(Rows::len),
        )
        .unwrap();
        let (mut toy, mut notes) = (Toy::new(self.dropout), notes);
        let trainer = Trainer {
            plan: &plan,
            learner: &mut toy,
            examples: &self.rows,
            eval_examples: self.eval.as_ref().map(|rows| rows as &dyn Examples),
            identity: self.identity.clone(),
            stop: notes.stop.clone(),
            observer: &mut notes,
            disk: self.disk.clone(),
        };
        let result = trainer.train();
        Ran { result, notes, toy }
    }
}

/// Every file of a folder, without the lines and keys that tell the time.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() && name != ".lock" {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            if name.ends_with(".json") || name.ends_with(".jsonl") {
                let text = String::from_utf8(bytes).unwrap();
                let timeless =
                    |line: &&str| !line.contains("_runtime") && !line.contains("per_second");
                bytes = text
                    .lines()
                    .filter(timeless)
                    .collect::<Vec<_>>()
                    .join("\n")
                    .into_bytes();
            }
            files.insert(name, bytes);
        }
    }
    files
}
