//! Row 49 of the bar list: adapters that do not fit, do not hold together, or would take forever. The snapshot holds
//! what is said of each.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "tests make their own files"
)]

use std::path::Path;
use std::time::Duration;

use formats::Dtype;
use formats::hf_config::HfConfig;
use formats::safetensors::{TensorToWrite, write};
use formats::weights::{StoredTensor, WeightStore};
use lowrank_peft::{BaseModel, PeftError, read_adapter};
use model::families::{decoder_spec, module_tree};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::Hostile;

/// Counts what each case allocates.
#[global_allocator]
static ALLOCATED: testkit::PeakAlloc = testkit::PeakAlloc;

const ADAPTER: &str = "llama/rslora_patterns";

/// What a case makes of a sound adapter.
struct Adapter {
    config: Value,
    tensors: Vec<StoredTensor>,
}

impl Adapter {
    fn sound() -> Self {
        let folder = testkit::goldens().join(ADAPTER).join("adapter");
        let store = WeightStore::open_adapter(&folder).expect("a golden");
        Self {
            config: testkit::read_json(&folder.join("adapter_config.json")),
            tensors: store.iter().cloned().collect(),
        }
    }

    fn set(&mut self, key: &str, value: Value) {
        let map = self.config.as_object_mut().expect("an object");
        map.insert(key.to_owned(), value);
    }

    fn at(&mut self, end: &str) -> &mut StoredTensor {
        let found = self
            .tensors
            .iter_mut()
            .find(|tensor| tensor.name.ends_with(end));
        found.expect("the adapter has it")
    }

    fn write(&self, folder: &Path) {
        let views = self
            .tensors
            .iter()
            .map(|t| TensorToWrite::bytes(&t.name, t.dtype, &t.shape, &t.bytes));
        let mut file = Vec::new();
        write(&mut file, views.collect(), &[]).expect("written");
        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.join(name), bytes).expect("a temporary folder")
        };
        put("adapter_model.safetensors", &file);
        put("adapter_config.json", self.config.to_string().as_bytes());
    }
}

/// A name, a key of the config, what is put there.
type Setting = (&'static str, &'static str, Value);
/// A name, and what is done to the adapter.
type Change = (&'static str, fn(&mut Adapter));

/// Keys of the config that are replaced.
fn settings() -> Vec<Setting> {
    let many = |count: usize| json!((0..count).map(|at| format!("m{at}")).collect::<Vec<_>>());
    vec![
        ("a rank of 0", "r", json!(0)),
        ("a rank of -8", "r", json!(-8)),
        ("a rank of 10^18", "r", json!(1_000_000_000_000_000_000_u64)),
        ("a rank as a float", "r", json!(8.0)),
        ("a rank of another adapter", "r", json!(5)),
        ("an alpha of text", "lora_alpha", json!("16")),
        (
            "an alpha that is no number in f64",
            "lora_alpha",
            serde_json::from_str("1e999").expect("a number"),
        ),
        ("a dropout of 2", "lora_dropout", json!(2.0)),
        ("another method", "peft_type", json!("IA3")),
        ("no method", "peft_type", Value::Null),
        ("no targets", "target_modules", json!([])),
        (
            "targets of another model",
            "target_modules",
            json!(["query_key_value"]),
        ),
        ("targets that are numbers", "target_modules", json!([1, 2])),
        (
            "a target that is a block",
            "target_modules",
            json!(["layers.0"]),
        ),
        (
            "a regex with look-ahead",
            "target_modules",
            json!(r".*(?!mlp)\.q_proj"),
        ),
        (
            "a regex that refers back",
            "target_modules",
            json!(r"(.*)\1q_proj"),
        ),
        (
            "a regex built to backtrack",
            "target_modules",
            json!("(([a-z_.]+)*)*!"),
        ),
        (
            "a regex of repeats of repeats",
            "target_modules",
            json!("((a{1000}){1000}){1000}"),
        ),
        (
            "a regex of 100 KB",
            "target_modules",
            json!("a".repeat(100_000)),
        ),
        (
            "a regex of 1,000 brackets",
            "target_modules",
            json!(format!("{}{}", "(".repeat(1_000), ")".repeat(1_000))),
        ),
        ("a regex that is none", "target_modules", json!("a)|(b")),
        ("20,000 targets", "target_modules", many(20_000)),
    ]
}

fn patterns() -> Vec<Setting> {
    let many = |count: usize| json!((0..count).map(|at| format!("m{at}")).collect::<Vec<_>>());
    let patterns = |count: usize, pattern: &str| {
        let entry = |at| (format!("{pattern}{at}"), json!(2));
        Value::Object((0..count).map(entry).collect())
    };
    vec![
        (
            "a rank pattern that is no regex",
            "rank_pattern",
            json!({"(": 4}),
        ),
        ("a rank pattern of 0", "rank_pattern", json!({"q_proj": 0})),
        (
            "rank patterns that are large",
            "rank_pattern",
            json!({"(a{1000}){1000}": 4}),
        ),
        ("5,000 rank patterns", "rank_pattern", patterns(5_000, "x")),
        (
            "a rank pattern of another adapter",
            "rank_pattern",
            json!({"q_proj": 7}),
        ),
        (
            "an alpha pattern of text",
            "alpha_pattern",
            json!({"q_proj": "1"}),
        ),
        (
            "saved modules that are the whole model",
            "modules_to_save",
            json!([""]),
        ),
        (
            "saved modules that hold a target",
            "modules_to_save",
            json!(["self_attn"]),
        ),
        (
            "saved modules without tensors",
            "modules_to_save",
            json!(["embed_tokens"]),
        ),
        ("5,000 saved modules", "modules_to_save", many(5_000)),
        (
            "layers that are not there",
            "layers_to_transform",
            json!([99]),
        ),
        ("DoRA", "use_dora", json!(true)),
        ("an unknown start", "init_lora_weights", json!("exec")),
        ("a bias of another word", "bias", json!("some")),
        ("layers twice", "layer_replication", json!([[0, 2], [0, 2]])),
        ("an unknown task", "task_type", json!("RCE")),
    ]
}

/// Tensors that are changed.
const TENSORS: &[Change] = &[
    ("A and B exchanged", |a| {
        let names: Vec<String> = a.tensors.iter().map(|t| t.name.clone()).collect();
        for (tensor, name) in a.tensors.iter_mut().zip(names) {
            tensor.name = if name.contains("lora_A") {
                name.replace("lora_A", "lora_B")
            } else {
                name.replace("lora_B", "lora_A")
            };
        }
    }),
    ("half a pair", |a| {
        a.tensors
            .retain(|t| !t.name.contains("layers.0.self_attn.q_proj.lora_B"))
    }),
    ("no tensors", |a| a.tensors.clear()),
    ("a tensor that no module has", |a| {
        let copy = a.tensors[0].clone();
        a.tensors.push(StoredTensor {
            name: "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight".into(),
            ..copy
        });
    }),
    ("the base's own tensor", |a| {
        let copy = a.tensors[0].clone();
        a.tensors.push(StoredTensor {
            name: "model.layers.0.self_attn.q_proj.weight".into(),
            ..copy
        });
    }),
    ("a name that climbs", |a| {
        let copy = a.tensors[0].clone();
        a.tensors.push(StoredTensor {
            name: "base_model.model.../../etc/passwd".into(),
            ..copy
        });
    }),
    ("a matrix turned", |a| {
        a.at("layers.0.self_attn.q_proj.lora_A.weight")
            .shape
            .reverse()
    }),
    ("integers", |a| {
        a.at("layers.0.self_attn.q_proj.lora_A.weight").dtype = Dtype::I32
    }),
    ("NaN", |a| {
        let tensor = a.at("layers.0.self_attn.q_proj.lora_A.weight");
        let mut bytes = tensor.bytes.to_vec();
        bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        tensor.bytes = durable::Mapped::from_vec(bytes.clone()).slice(0..bytes.len());
    }),
    ("one parameter under two names", |a| {
        let first = a.tensors[0].clone();
        let name = first.name.replace("base_model.model.", "");
        let other = vec![7; first.bytes.len()];
        let bytes = durable::Mapped::from_vec(other).slice(0..first.bytes.len());
        a.tensors.push(StoredTensor {
            name,
            bytes,
            ..first
        });
    }),
];

fn read(folder: &Path) -> Result<(), String> {
    let base = testkit::goldens().join("llama/model");
    let config = HfConfig::open(&base).expect("a golden");
    let (spec, tree) = (
        decoder_spec(&config).expect("a golden"),
        module_tree(&config).expect("a golden"),
    );
    let weights = WeightStore::open(&base).expect("a golden");
    let base = BaseModel {
        spec: &spec,
        tree: &tree,
        weights: Some(&weights),
        any_base: false,
    };
    read_adapter(folder, base)
        .map(drop)
        .map_err(|error| told(&error, folder))
}

fn told(error: &PeftError, folder: &Path) -> String {
    let mend = error
        .hint()
        .map_or(String::new(), |hint| format!("\n    mend: {hint}"));
    let text = format!("{error}{mend}").replace(&folder.display().to_string(), "adapter");
    text.chars().take(900).collect()
}

#[test]
fn row_49_an_adapter_that_does_not_fit_is_refused_soon() {
    let folder = TempDir::new().expect("a temporary folder");
    Adapter::sound().write(folder.path());
    read(folder.path()).expect("the adapter that the others are made of is good");
    let mut row = Hostile::new("row 49, adapters").within(Duration::from_secs(1));
    for (name, key, value) in settings().into_iter().chain(patterns()) {
        let mut adapter = Adapter::sound();
        adapter.set(key, value);
        adapter.write(folder.path());
        row.refused(name, 100_000, || read(folder.path()));
    }
    for (name, change) in TENSORS {
        let mut adapter = Adapter::sound();
        change(&mut adapter);
        adapter.write(folder.path());
        row.refused(name, 100_000, || read(folder.path()));
    }
    insta::assert_snapshot!(row.finish(30));
}
