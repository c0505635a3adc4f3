//! Adapter folders: those that PEFT wrote come in whole and go out byte for byte; damaged ones are refused.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests make and damage files, and say what they skip"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::reference::Reference;
use engine::shapes::ComputeDtype;
use formats::Dtype;
use formats::hf_config::HfConfig;
use formats::safetensors::{TensorToWrite, write};
use formats::weights::{StoredTensor, WeightStore};
use lowrank_peft::{
    AdapterPlan, BaseModel, LoraConfig, ModelFolder, PeftError, get_peft_model, load_adapter,
    merge_folder, read_adapter, save_adapter, save_model,
};
use model::families::{decoder_spec, module_tree};
use model::tree::ModuleTree;
use model::{Decoder, Parameter};
use serde_json::json;

const FAMILIES: [&str; 5] = ["bloom", "gpt2", "llama", "mistral", "qwen2"];

struct Model {
    folder: PathBuf,
    tree: ModuleTree,
    weights: WeightStore,
    decoder: Decoder<Reference>,
}

fn open(folder: &Path) -> Model {
    let config = HfConfig::open(folder).unwrap();
    let weights = WeightStore::open(folder).unwrap();
    let spec = decoder_spec(&config).unwrap();
    let backend = Arc::new(Reference::new(ComputeDtype::F32));
    Model {
        folder: folder.to_owned(),
        tree: module_tree(&config).unwrap(),
        decoder: Decoder::load(backend, spec, &weights).unwrap(),
        weights,
    }
}

fn tiny(family: &str) -> Model {
    open(&testkit::goldens().join(family).join("model"))
}

fn logits(model: &Model) -> Vec<f32> {
    let ids = [5, 9, 33, 2, 61, 7];
    model.decoder.logits(&ids, &[0, 3, 5]).unwrap()
}

fn largest_gap(left: &[f32], right: &[f32]) -> f32 {
    assert!(!left.is_empty() && left.len() == right.len());
    // `f32::max` passes over a NaN.
    assert!(left.iter().chain(right).all(|value| value.is_finite()));
    let gaps = left.iter().zip(right).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, f32::max)
}

#[test]
fn pefts_adapters_are_loaded_and_saved_byte_for_byte() {
    for case in FAMILIES.iter().flat_map(|family| testkit::cases(family)) {
        let golden = testkit::golden(&case);
        let adapter = golden.path("adapter");
        let mut model = open(&golden.path("model"));
        let plan = load_adapter(
            &mut model.decoder,
            &model.tree,
            &adapter,
            Some(&model.weights),
        );
        let plan = plan.unwrap_or_else(|error| panic!("{case}: {error}"));
        let names: Vec<&str> = model.decoder.trainable().iter().map(|p| &*p.name).collect();
        let want: Vec<String> = golden.trainable().iter().map(|p| p.name.clone()).collect();
        assert_eq!(names, want, "{case}");
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("adapter");
        save_adapter(&model.decoder, &plan, Some(&model.weights), &folder).unwrap();
        same_file(&case, &adapter, &folder, "adapter_model.safetensors");
        same_config(&case, &adapter, &folder);
        assert!(folder.join("README.md").is_file());
    }
}

fn same_file(case: &str, want: &Path, got: &Path, name: &str) {
    let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
    assert!(read(got) == read(want), "{case}: {name} differs");
}

/// A set's order in PEFT's text changes from run to run: compare as values with lists sorted.
fn same_config(case: &str, want: &Path, got: &Path) {
    let read = |folder: &Path| {
        let mut value = testkit::read_json(&folder.join("adapter_config.json"));
        if let Some(list) = value["target_modules"].as_array_mut() {
            list.sort_by_key(ToString::to_string);
        }
        value
    };
    assert_eq!(read(got), read(want), "{case}");
}

#[test]
fn merged_weights_are_pefts() {
    for family in FAMILIES {
        let golden = testkit::golden(&format!("{family}/attention"));
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("merged");
        merge_folder(
            &golden.path("model"),
            &golden.path("adapter"),
            &folder,
            u64::MAX,
        )
        .unwrap();
        let merged = WeightStore::open(&folder).unwrap();
        let names = golden.names("merged.");
        assert!(!names.is_empty(), "{family}");
        for name in names {
            let plain = name.strip_prefix("merged.").unwrap_or(&name);
            let got = merged.get(plain).unwrap().to_f32().unwrap();
            let name = format!("merged.{plain}");
            golden.check_close(
                &name,
                &got,
                testkit::Tol {
                    abs: 1e-6,
                    rel: 1e-6,
                },
            );
        }
    }
}

/// Of several patterns the first counts. PEFT's own file of such an adapter has them sorted and is another adapter's.
#[test]
fn patterns_keep_their_order_where_it_counts() {
    let ranks = |order: [&str; 2]| {
        let config = json!({"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"], "r": 4,
            "rank_pattern": {order[0]: 2, order[1]: 3}, "alpha_pattern": {order[0]: 64, order[1]: 1}});
        let config = LoraConfig::parse(config.to_string().as_bytes(), Path::new("x")).unwrap();
        let mut model = tiny("llama");
        let plan = get_peft_model(&mut model.decoder, &model.tree, &config, 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_adapter(&model.decoder, &plan, None, folder.path()).unwrap();
        let again = LoraConfig::open(folder.path()).unwrap();
        let again = AdapterPlan::new(&again, model.decoder.spec(), &model.tree).unwrap();
        assert_eq!(again.targets, plan.targets);
        let order: Vec<String> = again.config.rank_pattern.keys().cloned().collect();
        (plan.targets, order)
    };
    let overlapping = ["v_proj", "layers.0.*"];
    let (targets, order) = ranks(overlapping);
    assert_eq!(order, overlapping);
    let value = "model.layers.0.self_attn.v_proj";
    let found = targets.iter().find(|target| target.path == value).unwrap();
    assert_eq!((found.rank, found.scaling), (2, 32.0));
    assert_ne!(targets, ranks(["layers.0.*", "v_proj"]).0);
    // As PEFT writes them, where nothing hangs on it.
    assert_eq!(ranks(["v_proj", "q_proj"]).1, ["q_proj", "v_proj"]);
}

#[test]
fn merged_models_speak_as_the_adapter_did() {
    for case in FAMILIES.iter().flat_map(|family| testkit::cases(family)) {
        let golden = testkit::golden(&case);
        let mut model = open(&golden.path("model"));
        let before = logits(&model);
        load_adapter(
            &mut model.decoder,
            &model.tree,
            &golden.path("adapter"),
            None,
        )
        .unwrap();
        let adapted = logits(&model);
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("merged");
        let report = merge_folder(&model.folder, &golden.path("adapter"), &folder, 4_000).unwrap();
        assert!(report.files.len() > 2, "{case}: cut into shards");
        let merged = logits(&open(&folder));
        let gap = largest_gap(&adapted, &merged);
        assert!(gap < 2e-5, "{case}: {gap}");
        assert!(
            largest_gap(&before, &adapted) > 1e-3,
            "{case}: the adapter does nothing"
        );
    }
}

#[test]
fn shards_are_cut_as_save_pretrained_cuts_them() {
    for family in FAMILIES {
        let root = testkit::goldens().join(family);
        let model = tiny(family);
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("saved");
        let of = ModelFolder {
            config: &HfConfig::open(&model.folder).unwrap(),
            files_of: &model.folder,
            max_shard_bytes: 9_000,
        };
        save_model(of, model.decoder.spec(), &model.weights, &folder).unwrap();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let want = read(root.join("shards.json"));
        assert_eq!(
            read(folder.join("model.safetensors.index.json")),
            want,
            "{family}"
        );
    }
}

#[test]
fn a_tied_pair_that_came_apart_is_written_twice() {
    let golden = testkit::golden("bloom/save_embeddings");
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("merged");
    let report = merge_folder(
        &golden.path("model"),
        &golden.path("adapter"),
        &folder,
        u64::MAX,
    )
    .unwrap();
    assert!(report.untied);
    assert_eq!(report.files, ["model.safetensors"]);
    let config = testkit::read_json(&folder.join("config.json"));
    assert_eq!(config["tie_word_embeddings"], false);
    let merged = WeightStore::open(&folder).unwrap();
    let head = merged.get("lm_head.weight").unwrap().to_f32();
    let embedding = merged
        .get("transformer.word_embeddings.weight")
        .unwrap()
        .to_f32();
    assert_ne!(head, embedding);
    let again = merge_folder(
        &golden.path("model"),
        &golden.path("adapter"),
        &folder,
        u64::MAX,
    );
    assert!(again.is_err(), "an existing folder is not touched");
}

#[test]
fn a_fresh_adapter_changes_nothing_until_b_does() {
    for family in FAMILIES {
        let mut model = tiny(family);
        let before = logits(&model);
        let config = LoraConfig::default();
        let plan = get_peft_model(&mut model.decoder, &model.tree, &config, 3).unwrap();
        assert_eq!(logits(&model), before, "{family}");
        let target = &plan.targets[0];
        let name = format!("{}.lora_B.weight", target.path);
        let ones = vec![0.1; target.out_features * target.rank];
        model.decoder.set_values(&name, &ones).unwrap();
        assert!(largest_gap(&before, &logits(&model)) > 1e-4, "{family}");
    }
}

/// A copy of PEFT's adapter with its tensors changed by `edit`.
fn edited(case: &str, edit: impl FnOnce(&mut BTreeMap<String, StoredTensor>)) -> tempfile::TempDir {
    let golden = testkit::golden(case);
    let adapter = golden.path("adapter");
    let out = tempfile::tempdir().unwrap();
    let config = "adapter_config.json";
    std::fs::copy(adapter.join(config), out.path().join(config)).unwrap();
    let store = WeightStore::open_adapter(&adapter).unwrap();
    let mut tensors: BTreeMap<String, StoredTensor> = store
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.clone()))
        .collect();
    edit(&mut tensors);
    let write_out = tensors.iter().map(|(name, tensor)| {
        TensorToWrite::bytes(name, tensor.dtype, &tensor.shape, &tensor.bytes)
    });
    let mut bytes = Vec::new();
    write(&mut bytes, write_out.collect(), &[("format", "pt")]).unwrap();
    std::fs::write(out.path().join("adapter_model.safetensors"), bytes).unwrap();
    out
}

fn refusal(case: &str, folder: &Path) -> PeftError {
    let model = open(&testkit::golden(case).path("model"));
    let base = BaseModel {
        spec: model.decoder.spec(),
        tree: &model.tree,
        weights: Some(&model.weights),
        any_base: false,
    };
    read_adapter(folder, base).expect_err("must be refused")
}

fn of_values(name: &str, shape: &[usize], values: &[f32]) -> StoredTensor {
    StoredTensor {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: durable::MappedSlice::from_vec(Dtype::F32.from_f32(values).unwrap()),
    }
}

const QKV: &str = "base_model.model.transformer.h.0.self_attention.query_key_value";

#[test]
fn everything_wrong_with_an_adapter_is_said_at_once() {
    let folder = edited("bloom/attention", |tensors| {
        tensors.remove(&format!("{QKV}.lora_B.weight"));
        let stray = "base_model.model.transformer.h.7.stray.lora_A.weight";
        tensors.insert(stray.into(), of_values(stray, &[1], &[1.0]));
        let a = QKV.replace("h.0", "h.1") + ".lora_A.weight";
        tensors.insert(a.clone(), of_values(&a, &[2, 3], &[0.5; 6]));
    });
    let error = refusal("bloom/attention", folder.path());
    let PeftError::Mismatch {
        missing,
        unexpected,
        misshapen,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(missing, &[format!("{QKV}.lora_B.weight")]);
    assert_eq!(unexpected.len(), 1);
    assert_eq!(misshapen[0].want, [3, 36]);
    let text = error.to_string();
    assert!(
        text.contains("1 missing") && text.contains("1 of another shape"),
        "{text}"
    );
}

#[test]
fn values_that_are_not_finite_are_refused_by_name() {
    let name = format!("{QKV}.lora_A.weight");
    let folder = edited("bloom/attention", |tensors| {
        let mut values = tensors[&name].to_f32().unwrap();
        values[5] = f32::NAN;
        values[7] = f32::INFINITY;
        let shape = tensors[&name].shape.clone();
        tensors.insert(name.clone(), of_values(&name, &shape, &values));
    });
    let error = refusal("bloom/attention", folder.path());
    assert!(
        matches!(error, PeftError::NotFinite { count: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&name), "{error}");
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let other = testkit::golden("gpt2/attention").path("adapter");
    let error = refusal("bloom/attention", &other);
    assert!(matches!(error, PeftError::NoTarget { .. }), "{error}");
    let other = testkit::golden("mistral/attention").path("adapter");
    let error = refusal("llama/attention", &other);
    assert!(matches!(error, PeftError::Mismatch { .. }), "{error}");
}

#[test]
fn a_merge_that_overflows_writes_nothing() {
    let folder = edited("bloom/attention", |tensors| {
        for (name, tensor) in tensors.iter_mut() {
            let values = vec![1e30; tensor.elements()];
            *tensor = of_values(name, &tensor.shape.clone(), &values);
        }
    });
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("merged");
    let model = testkit::golden("bloom/attention").path("model");
    let error = merge_folder(&model, folder.path(), &output, u64::MAX).unwrap_err();
    assert!(matches!(error, PeftError::MergeNotFinite { .. }), "{error}");
    assert!(!output.exists());
    assert_eq!(
        std::fs::read_dir(out.path()).unwrap().count(),
        0,
        "no staging is left"
    );
}

#[test]
fn names_saved_from_memory_are_read_too() {
    let folder = edited("bloom/save_embeddings", |tensors| {
        let renamed = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
            let name = name
                .replace("lora_A.weight", "lora_A.default.weight")
                .replace("lora_B.weight", "lora_B.default.weight")
                .replace(
                    "embeddings.weight",
                    "embeddings.modules_to_save.default.weight",
                );
            (name, tensor)
        });
        *tensors = renamed.collect();
    });
    let golden = testkit::golden("bloom/save_embeddings");
    let loaded = |adapter: &Path| {
        let mut model = open(&golden.path("model"));
        let before = logits(&model);
        load_adapter(&mut model.decoder, &model.tree, adapter, None).unwrap();
        assert!(largest_gap(&before, &logits(&model)) > 1e-3);
        let values = |p: &Parameter<Reference>| (p.name.clone(), p.value.clone());
        model
            .decoder
            .trainable()
            .iter()
            .map(values)
            .collect::<Vec<_>>()
    };
    assert_eq!(loaded(folder.path()), loaded(&golden.path("adapter")));
}

/// Config of a base whose shapes the adapter was made for, where one is at hand.
const STRANGERS: [(&str, &str, Result<usize, &str>); 8] = [
    ("bloom-560m-qkv-r8", "bloom__bloom-560m", Ok(48)),
    ("gpt2-c_attn-c_proj-r8", "gpt2__mlc-gpt2", Ok(72)),
    (
        "qwen2.5-3b-trainer-checkpoint",
        "qwen2__Qwen2.5-3B",
        Ok(144),
    ),
    (
        "bloom-560m-oldformat-bin",
        "bloom__bloom-560m",
        Err("48 of another shape"),
    ),
    (
        "nan-tensors",
        "bloom__bloom-560m",
        Err("no module of `bloom` matches"),
    ),
    (
        "tutorial-loraA",
        "bloom__bloom-560m",
        Err("it is a BloomBlock"),
    ),
    (
        "tutorial-loraB",
        "bloom__bloom-560m",
        Err("it is a BloomBlock"),
    ),
    (
        "opt-125m-bf16-r16",
        "opt__opt-125m",
        Err("not supported: `opt`"),
    ),
];

#[test]
fn strangers_adapters_load_whole_or_are_refused_with_the_reason() {
    let Some(inputs) = testkit::shared_inputs() else {
        eprintln!("skipped: no shared inputs");
        return;
    };
    for (adapter, config, want) in STRANGERS {
        let config = inputs.join("configs").join(format!("{config}.json"));
        let got = tensors_read(&inputs.join("adapters").join(adapter), &config);
        match (got, want) {
            (Ok(count), Ok(want)) => assert_eq!(count, want, "{adapter}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{adapter}: {error}");
            }
            (got, want) => panic!("{adapter}: {got:?}, not {want:?}"),
        }
    }
}

fn tensors_read(adapter: &Path, config: &Path) -> Result<usize, PeftError> {
    let config = HfConfig::open_file(config)?;
    let (spec, tree) = (decoder_spec(&config)?, module_tree(&config)?);
    let base = BaseModel {
        spec: &spec,
        tree: &tree,
        weights: None,
        any_base: false,
    };
    Ok(read_adapter(adapter, base)?.values.len())
}

/// Bloom's embedding is not among the names that PEFT knows as tied; what a tied run saves must come back all the same.
#[test]
fn a_tied_pair_trained_as_one_comes_back_as_one() {
    let mut model = tiny("bloom");
    let config = LoraConfig {
        modules_to_save: Some(vec!["lm_head".into()]),
        ensure_weight_tying: true,
        ..LoraConfig::default()
    };
    let plan = get_peft_model(&mut model.decoder, &model.tree, &config, 3).unwrap();
    let before = logits(&model);
    let store = WeightStore::open(&model.folder).unwrap();
    let embedding = store.get("transformer.word_embeddings.weight").unwrap();
    let values = embedding.to_f32().unwrap();
    let changed: Vec<f32> = values.iter().map(|value| 1.5 * value).collect();
    let name = "transformer.word_embeddings.weight";
    model.decoder.set_values(name, &changed).unwrap();
    let trained = logits(&model);
    assert!(largest_gap(&before, &trained) > 1e-2);
    let out = tempfile::tempdir().unwrap();
    save_adapter(&model.decoder, &plan, Some(&model.weights), out.path()).unwrap();
    let mut again = tiny("bloom");
    load_adapter(
        &mut again.decoder,
        &again.tree,
        out.path(),
        Some(&again.weights),
    )
    .unwrap();
    assert_eq!(logits(&again), trained);
    let merged = out.path().join("merged");
    let report = merge_folder(&model.folder, out.path(), &merged, u64::MAX).unwrap();
    assert!(!report.untied);
    assert!(largest_gap(&logits(&open(&merged)), &trained) < 1e-4);
}

#[test]
fn a_card_is_replaced_where_it_is_ours_and_kept_where_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let card = folder.path().join("README.md");
    let save = |rank: u32| {
        let mut model = tiny("bloom");
        let config = LoraConfig {
            r: rank,
            ..LoraConfig::default()
        };
        let plan = get_peft_model(&mut model.decoder, &model.tree, &config, 1).unwrap();
        save_adapter(&model.decoder, &plan, None, folder.path()).unwrap();
        std::fs::read_to_string(&card).unwrap()
    };
    let first = save(2);
    assert_ne!(first, save(3), "another adapter's facts");
    std::fs::write(&card, "mine\n").unwrap();
    assert_eq!(save(2), "mine\n");
}
