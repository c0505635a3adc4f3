//! Row 47: weights that lack, have too much of, or shape otherwise what the config says. All is listed at once.

use std::path::Path;
use std::sync::Arc;

use engine::reference::Reference;
use engine::shapes::ComputeDtype;
use formats::Dtype;
use formats::hf_config::HfConfig;
use formats::safetensors::{TensorToWrite, write};
use formats::weights::{StoredTensor, WeightStore};
use lowrank_model::Decoder;
use lowrank_model::families::decoder_spec;
use tempfile::TempDir;
use testkit::Hostile;

use crate::told;

/// A change of a family's tensors.
type Change = fn(&mut Vec<StoredTensor>);

fn at<'t>(tensors: &'t mut [StoredTensor], end: &str) -> &'t mut StoredTensor {
    let found = tensors.iter_mut().find(|tensor| tensor.name.ends_with(end));
    found.expect("the family has it")
}

fn without(tensors: &mut Vec<StoredTensor>, part: &str) {
    let before = tensors.len();
    tensors.retain(|tensor| !tensor.name.contains(part));
    assert!(tensors.len() < before, "{part}");
}

fn renamed(tensors: &mut [StoredTensor], end: &str, name: &str) {
    at(tensors, end).name = name.to_owned();
}

/// Another type, whose elements are as wide as f32.
fn typed(tensors: &mut [StoredTensor], end: &str, dtype: Dtype) {
    at(tensors, end).dtype = dtype;
}

fn added(tensors: &mut Vec<StoredTensor>, name: &str) {
    let copy = StoredTensor {
        name: name.to_owned(),
        ..tensors[0].clone()
    };
    tensors.push(copy);
}

fn turned(tensors: &mut [StoredTensor], end: &str) {
    at(tensors, end).shape.reverse();
}

const CASES: &[(&str, &str, Change)] = &[
    ("no embedding", "llama", |t| without(t, "embed_tokens")),
    ("no final norm", "llama", |t| without(t, "model.norm")),
    ("no head, and none that is tied", "llama", |t| {
        without(t, "lm_head")
    }),
    ("no second block", "llama", |t| without(t, "layers.1.")),
    ("no query", "mistral", |t| {
        without(t, "layers.0.self_attn.q_proj")
    }),
    ("no bias where the family has one", "qwen2", |t| {
        without(t, "layers.0.self_attn.k_proj.bias")
    }),
    ("no positions", "gpt2", |t| without(t, "wpe")),
    ("no norm after the embedding", "bloom", |t| {
        without(t, "word_embeddings_layernorm")
    }),
    ("nothing at all", "llama", |t| t.clear()),
    ("a block too many", "llama", |t| {
        added(t, "model.layers.2.mlp.up_proj.weight")
    }),
    ("a bias that the family has not", "llama", |t| {
        added(t, "model.layers.0.self_attn.q_proj.bias")
    }),
    ("a tensor of another model", "bloom", |t| {
        added(t, "encoder.weight")
    }),
    ("an adapter's tensor", "qwen2", |t| {
        added(
            t,
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        )
    }),
    ("a name in other letters", "llama", |t| {
        renamed(t, "model.norm.weight", "model.Norm.weight")
    }),
    ("a name with a prefix of a wrapper", "llama", |t| {
        renamed(t, "model.norm.weight", "module.model.norm.weight")
    }),
    ("a matrix turned", "llama", |t| {
        turned(t, "layers.0.mlp.up_proj.weight")
    }),
    ("an embedding turned", "bloom", |t| {
        turned(t, "word_embeddings.weight")
    }),
    ("Conv1D turned", "gpt2", |t| {
        turned(t, "h.0.mlp.c_fc.weight")
    }),
    ("a matrix as a list", "llama", |t| {
        let tensor = at(t, "layers.1.mlp.down_proj.weight");
        tensor.shape = vec![tensor.shape.iter().product()];
    }),
    ("a norm as a matrix", "mistral", |t| {
        at(t, "model.norm.weight").shape.insert(0, 1)
    }),
    ("integers", "llama", |t| {
        typed(t, "layers.0.mlp.up_proj.weight", Dtype::I32)
    }),
    ("unsigned integers", "bloom", |t| {
        typed(t, "ln_f.weight", Dtype::U32)
    }),
    ("all of it at once", "llama", |t| {
        without(t, "layers.0.self_attn.k_proj");
        without(t, "model.norm");
        turned(t, "layers.0.mlp.up_proj.weight");
        typed(t, "layers.1.mlp.up_proj.weight", Dtype::I32);
        added(t, "extra.one");
        added(t, "extra.two");
    }),
];

fn tensors(family: &str) -> Vec<StoredTensor> {
    let store =
        WeightStore::open(&testkit::goldens().join(family).join("model")).expect("a golden");
    store.iter().cloned().collect()
}

fn load(family: &str, tensors: &[StoredTensor], folder: &Path) -> Result<(), String> {
    let config = HfConfig::open(&testkit::goldens().join(family).join("model")).expect("a golden");
    load_as(&config, tensors, folder)
}

fn load_as(config: &HfConfig, tensors: &[StoredTensor], folder: &Path) -> Result<(), String> {
    let views = tensors
        .iter()
        .map(|t| TensorToWrite::bytes(&t.name, t.dtype, &t.shape, &t.bytes));
    let mut file = Vec::new();
    write(&mut file, views.collect(), &[]).expect("written");
    std::fs::write(folder.join("model.safetensors"), file)
        .expect("a temporary folder can be written");
    let spec = decoder_spec(config).expect("sizes within the caps");
    let store = WeightStore::open(folder).map_err(|e| told(&e, e.hint(), folder))?;
    let backend = Arc::new(Reference::new(ComputeDtype::F32));
    let loaded = Decoder::load(backend, spec, &store);
    loaded
        .map(drop)
        .map_err(|e| told(&e, e.hint(), folder).replace(&folder.display().to_string(), "model"))
}

#[test]
fn row_47_weights_that_are_not_the_configs_are_refused_with_all_that_is_wrong() {
    let folder = TempDir::new().expect("a temporary folder");
    for family in ["bloom", "gpt2", "llama", "mistral", "qwen2"] {
        load(family, &tensors(family), folder.path()).expect("the goldens are whole");
    }
    let mut row = Hostile::new("row 47, weights");
    for (name, family, change) in CASES {
        let mut tensors = tensors(family);
        change(&mut tensors);
        row.refused(name, 100_000, || load(family, &tensors, folder.path()));
    }
    let said = row.finish(20);
    assert!(
        [
            "extra.one",
            "extra.two",
            "k_proj",
            "model.norm",
            "must be F32"
        ]
        .iter()
        .all(|part| said
            .rsplit("all of it at once")
            .next()
            .is_some_and(|all| all.contains(part))),
        "{said}"
    );
    insta::assert_snapshot!(said);
}

/// What a config claims of vectors that are not there is not reserved.
#[test]
fn row_47_a_config_of_a_large_model_over_no_weights_takes_no_memory() {
    let folder = TempDir::new().expect("a temporary folder");
    let golden = testkit::goldens().join("bloom/model");
    let mut config = HfConfig::open(&golden).expect("a golden");
    for (key, value) in [("hidden_size", 1 << 20), ("n_head", 16), ("n_layer", 8)] {
        config.raw.insert(key.into(), value.into());
    }
    let mut row = Hostile::new("row 47, no weights");
    row.refused("eight blocks of 2^20", 1000, || {
        load_as(&config, &[], folder.path())
    });
    row.finish(1);
}
