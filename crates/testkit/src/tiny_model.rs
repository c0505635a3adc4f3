//! A whole model folder for tests of commands: a golden's random weights under a fixture's tokenizer.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::golden::{Tensor, goldens, read_json, read_tensors};
use crate::repository_root;

/// Tokens of the tokenizer that goes with it (`crates/data/tests/fixtures/bloom_tiny`).
const VOCABULARY: usize = 512;

/// Writes the golden model of `family` to `folder`, its embedding (and head, where it has one) repeated to the
/// tokenizer's 512 ids and shaken so that no two rows are equal, with that tokenizer.
///
/// # Panics
/// Where a golden is missing or the folder cannot be written.
pub fn tiny_model(family: &str, folder: &Path) {
    std::fs::create_dir_all(folder).expect("tests may write their folder");
    let golden = goldens().join(family).join("model");
    let mut config = read_json(&golden.join("config.json"));
    let old = config["vocab_size"].as_u64().expect("goldens have one") as usize;
    config["vocab_size"] = Value::from(VOCABULARY);
    write(folder, "config.json", config.to_string().as_bytes());
    let mut tensors = read_tensors(&golden.join("model.safetensors"));
    for tensor in tensors
        .values_mut()
        .filter(|t| t.shape.first() == Some(&old))
    {
        widen(tensor, old);
    }
    write_tensors(&folder.join("model.safetensors"), &tensors);
    let tokenizer = repository_root().join("crates/data/tests/fixtures/bloom_tiny");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let bytes = std::fs::read(tokenizer.join(name)).expect("the fixture is there");
        write(folder, name, &bytes);
    }
}

/// Writes f32 tensors as transformers would.
///
/// # Panics
/// Where the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let bytes = |tensor: &Tensor| bytemuck::cast_slice::<f32, u8>(&tensor.values).to_vec();
    let all: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (name, &t.shape, bytes(t)))
        .collect();
    let views = all.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, (*shape).clone(), bytes);
        (name.as_str(), view.expect("sizes fit"))
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).expect("names are plain");
    std::fs::write(path, file).expect("tests may write their folder");
}

fn widen(tensor: &mut Tensor, rows: usize) {
    let width = tensor.values.len() / rows;
    // A multiplicative hash of the place: the same values on every machine.
    let shake =
        |at: usize| ((at as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
    let value = |at: usize| tensor.values[at % (rows * width)] + 0.2 * (shake(at) - 0.5);
    tensor.values = (0..VOCABULARY * width).map(value).collect();
    tensor.shape[0] = VOCABULARY;
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).expect("tests may write their folder");
}
