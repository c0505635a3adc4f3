//! A learner of eight values over pairs of tokens, run on a disk in memory: a whole run takes milliseconds.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by test programs that use parts"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durable::faults::SimFs;
use durable::{Disk, StagedFolder};
use engine::reference::Reference;
use engine::shapes::{ComputeDtype, uniform};
use formats::Dtype;
use formats::safetensors::{Header, TensorToWrite, write};
use lowrank_train::{
    Event, Examples, Learner, Observer, Plan, Row, StopFlag, TrainError, TrainOutput, Trainer,
    TrainingArguments, UpdateDone,
};
use model::{ModelError, Parameter, PassKey, Target, TokenBatch};
use serde_json::Value;

/// The folder of every run.
pub const RUN: &str = "/run";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A target id whose loss is not a number.
pub const POISON: u32 = 666;
/// A target id whose loss is finite but its gradient is not.
pub const POISON_GRADIENT: u32 = 667;

/// `loss = (mask · a[x]·b[y] - want(x, y))² / 2` for token x followed by y.
pub struct Toy {
    disk: Disk,
    backend: Arc<Reference>,
    parameters: Vec<Parameter<Reference>>,
    pub dropout: f32,
    /// Passes of more tokens than this have been asked for.
    pub widest: usize,
}

impl Toy {
    pub fn new(disk: Disk, dropout: f32) -> Self {
        let parameter = |name: &str, values: &[f32]| Parameter::<Reference> {
            name: name.into(),
            shape: vec![values.len()],
            value: values.to_vec(),
            grad: vec![0.0; values.len()],
            decay: name.ends_with("weight"),
        };
        Self {
            disk,
            backend: Arc::new(Reference::new(ComputeDtype::F32)),
            parameters: vec![
                parameter("h.0.lora_A.weight", &[0.3, -0.2, 0.5, 0.1, -0.4]),
                parameter("h.0.bias", &[0.7, -0.6, 0.9]),
            ],
            dropout,
            widest: 0,
        }
    }

    pub fn values(&self) -> Vec<f32> {
        self.parameters
            .iter()
            .flat_map(|parameter| parameter.value.clone())
            .collect()
    }

    /// Of one target, by its own place in the update and its token's.
    fn mask(&self, key: PassKey, batch: &TokenBatch, index: usize) -> f32 {
        let token = key.first_token + u64::from(batch.targets[index].position);
        let target = key.first_target + index as u64;
        let place = token << 32 | target;
        let kept = uniform(key.seed ^ (key.step << 20), place) >= self.dropout;
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

    fn num_parameters_without_embeddings(&self) -> u64 {
        let each = self.parameters.iter();
        each.map(|parameter| parameter.value.len() as u64).sum()
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
            let mask = self.mask(key, batch, index);
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
        let bytes = |parameter: &Parameter<Reference>| -> Vec<u8> {
            parameter
                .value
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        let all: Vec<Vec<u8>> = self.parameters.iter().map(bytes).collect();
        let tensors = self.parameters.iter().zip(&all).map(|(parameter, bytes)| {
            TensorToWrite::bytes(&parameter.name, Dtype::F32, &parameter.shape, bytes)
        });
        let mut file = folder.create(WEIGHTS)?;
        write(&mut file, tensors.collect(), &[])?;
        Ok(file.finish()?)
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        let bytes = self.disk.read_capped(folder.join(WEIGHTS), 1 << 20)?;
        let header = Header::parse(&bytes).unwrap();
        for parameter in &mut self.parameters {
            let range = header.get(&parameter.name).unwrap().range.clone();
            parameter.value = Dtype::F32.to_f32(&bytes[range]).unwrap();
        }
        Ok(())
    }
}

/// All targets of some rows, in one stream.
pub fn batch_of(rows: &[Row]) -> TokenBatch {
    let mut batch = TokenBatch {
        input_ids: vec![],
        segments: vec![],
        targets: vec![],
    };
    for row in rows {
        let start = batch.input_ids.len();
        for at in 1..row.labels.len() {
            if let Ok(id) = u32::try_from(row.labels[at]) {
                let position = (start + at - 1) as u32;
                batch.targets.push(Target {
                    position,
                    id,
                    weight: 1.0,
                });
            }
        }
        batch.input_ids.extend(&row.input_ids);
    }
    batch
}

/// Rows in memory.
pub struct Rows(pub Vec<Row>);

impl Rows {
    /// Rows of 4 to 9 tokens with a masked beginning.
    pub fn some(count: usize) -> Self {
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
pub struct Notes {
    pub updates: Vec<UpdateDone>,
    pub logs: Vec<Value>,
    pub notices: Vec<String>,
    pub skipped: Vec<String>,
    pub removed: Vec<PathBuf>,
    pub evaluations: usize,
    /// The step of each checkpoint that was called saved, and the moment of `journal_of` then.
    pub saved: Vec<(u64, usize)>,
    /// The disk of the run, where a test asks for moments.
    pub journal_of: Option<SimFs>,
    pub stop: StopFlag,
    pub stop_after: Option<u64>,
    pub stop_in_evaluation: Option<usize>,
    /// Removes each checkpoint as soon as it is saved, as another program might.
    pub remove_saved: Option<Disk>,
}

impl Notes {
    /// The newest step that was called saved, 0 where none was.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged_before(usize::MAX)
    }

    /// The same, of those called saved at or before a moment of the journal.
    pub fn acknowledged_before(&self, moment: usize) -> u64 {
        let before = self.saved.iter().filter(|(_, at)| *at <= moment);
        before.map(|(step, _)| *step).max().unwrap_or(0)
    }
}

/// Of a checkpoint's folder.
fn step_of(path: &Path) -> u64 {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.strip_prefix("checkpoint-").unwrap().parse().unwrap()
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
            Event::Saved { path, .. } => {
                let moment = self.journal_of.as_ref().map_or(0, SimFs::journal_len);
                self.saved.push((step_of(path), moment));
                if let Some(disk) = &self.remove_saved {
                    disk.remove_folder(path).unwrap();
                }
            }
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

/// Runs of the toy on one disk.
pub struct Setup {
    pub arguments: Value,
    pub rows: Rows,
    pub eval: Option<Rows>,
    pub dropout: f32,
    pub identity: BTreeMap<String, String>,
}

/// What came of a run.
pub struct Ran {
    pub result: Result<TrainOutput, TrainError>,
    pub notes: Notes,
    pub toy: Toy,
}

impl Setup {
    pub fn new(arguments: Value) -> Self {
        Self {
            arguments,
            rows: Rows::some(11),
            eval: None,
            dropout: 0.0,
            identity: BTreeMap::from([("dataset".into(), "abc".into())]),
        }
    }

    /// A run that nothing disturbs, on a disk of its own.
    pub fn fresh(&self) -> (SimFs, Ran) {
        let sim = SimFs::new();
        let ran = self.run(&disk(&sim), serde_json::json!({}), Notes::default());
        (sim, ran)
    }

    /// Goes on from the newest checkpoint.
    pub fn resume(&self, sim: &SimFs) -> Ran {
        let latest = serde_json::json!({"resume_from_checkpoint": "latest"});
        self.run(&disk(sim), latest, Notes::default())
    }

    pub fn run(&self, disk: &Disk, more: Value, mut notes: Notes) -> Ran {
        let Value::Object(mut map) = self.arguments.clone() else {
            panic!("an object")
        };
        let Value::Object(more) = more else {
            panic!("an object")
        };
        map.insert("output_dir".into(), RUN.into());
        map.extend(more);
        let arguments = TrainingArguments::from_map(&map).unwrap();
        let plan = Plan::new(
            &arguments,
            self.rows.len(),
            self.eval.as_ref().map(Rows::len),
        )
        .unwrap();
        let mut toy = Toy::new(disk.clone(), self.dropout);
        let trainer = Trainer {
            plan: &plan,
            learner: &mut toy,
            examples: &self.rows,
            eval_examples: self.eval.as_ref().map(|rows| rows as &dyn Examples),
            identity: self.identity.clone(),
            stop: notes.stop.clone(),
            observer: &mut notes,
            disk: disk.clone(),
        };
        let result = trainer.train();
        Ran { result, notes, toy }
    }
}

pub fn disk(sim: &SimFs) -> Disk {
    Disk::with(Arc::new(sim.clone()))
}

/// Every file of a folder of the run by name, without the lines that tell the time.
pub fn contents(sim: &SimFs, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(RUN).join(folder);
    let mut files = BTreeMap::new();
    for (path, mut bytes) in sim.files() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.parent() != Some(&folder) || name == ".lock" {
            continue;
        }
        if name.ends_with(".json") || name.ends_with(".jsonl") {
            let text = String::from_utf8(bytes).unwrap();
            let timeless = |line: &&str| !line.contains("_runtime") && !line.contains("per_second");
            bytes = text
                .lines()
                .filter(timeless)
                .collect::<Vec<_>>()
                .join("\n")
                .into_bytes();
        }
        files.insert(name, bytes);
    }
    files
}

/// A file of the run.
pub fn file(sim: &SimFs, name: &str) -> Vec<u8> {
    sim.files()
        .remove(&Path::new(RUN).join(name))
        .unwrap_or_else(|| panic!("no {name}"))
}

/// The names of the run's checkpoints.
pub fn checkpoints(sim: &SimFs) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for path in sim.files().keys() {
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default();
        let name = parent.to_string_lossy().into_owned();
        if name.starts_with("checkpoint-") && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
