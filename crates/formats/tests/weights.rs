//! Weight stores over folders made here: one file, shards, and every way in which an index can lie.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

use std::path::Path;

use lowrank_formats::safetensors::{TensorToWrite, write};
use lowrank_formats::weights::WeightStore;
use lowrank_formats::{Dtype, FormatsError};

fn save(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| Dtype::BF16.from_f32(values).expect("a float"))
        .collect();
    let views = tensors.iter().zip(&bytes);
    let views = views
        .map(|((name, shape, _), bytes)| TensorToWrite::bytes(name, Dtype::BF16, shape, bytes));
    let mut file = Vec::new();
    write(&mut file, views.collect(), &[("format", "pt")]).expect("written");
    std::fs::write(path, file).expect("a temporary folder");
}

fn index(folder: &Path, entries: &[(&str, &str)]) {
    let map: serde_json::Map<String, serde_json::Value> = entries
        .iter()
        .map(|(tensor, shard)| ((*tensor).to_owned(), (*shard).into()))
        .collect();
    let text =
        serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), text).expect("a temporary folder");
}

fn two_shards(folder: &Path) {
    save(
        &folder.join("m-1.safetensors"),
        &[("a", &[2, 3], vec![1.0, -2.0, 3.5, 0.25, 8.0, -0.5])],
    );
    save(
        &folder.join("m-2.safetensors"),
        &[("b", &[2], vec![7.0, 9.0]), ("c", &[0], vec![])],
    );
}

#[test]
fn a_single_file_is_mapped_and_its_tensors_are_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let values = vec![1.0, -2.0, 3.5, 0.25, 8.0, -0.5];
    save(
        &folder.path().join("model.safetensors"),
        &[("a.weight", &[2, 3], values.clone())],
    );
    let store = WeightStore::open(folder.path()).expect("opened");
    assert_eq!(store.names().collect::<Vec<_>>(), ["a.weight"]);
    let tensor = store.get("a.weight").expect("there");
    assert_eq!(
        (tensor.dtype, tensor.shape.as_slice(), tensor.elements()),
        (Dtype::BF16, &[2, 3][..], 6)
    );
    assert_eq!(tensor.to_f32(), Some(values));
    assert!(store.get("b").is_none());
    store.check_unchanged().expect("nobody wrote to it");
}

#[test]
fn shards_are_one_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    two_shards(folder.path());
    let (one, two) = ("m-1.safetensors", "m-2.safetensors");
    index(folder.path(), &[("a", one), ("b", two), ("c", two)]);
    let store = WeightStore::open(folder.path()).expect("opened");
    assert_eq!(store.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(
        store.get("b").and_then(|tensor| tensor.to_f32()),
        Some(vec![7.0, 9.0])
    );
    assert_eq!(store.files().count(), 2);
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let (one, two) = ("m-1.safetensors", "m-2.safetensors");
    two_shards(path);
    let open = |entries: &[(&str, &str)]| {
        index(path, entries);
        WeightStore::open(path).expect_err("refused")
    };
    let missing = open(&[("a", one), ("b", "m-3.safetensors")]);
    assert!(
        matches!(&missing, FormatsError::MissingShard { name, .. } if name == "m-3.safetensors")
    );
    let absent = open(&[("a", one), ("b", two), ("c", two), ("d", two), ("e", one)]);
    assert!(matches!(&absent, FormatsError::TensorAbsent { tensors, .. } if tensors.len() == 2));
    let moved = open(&[("a", two), ("b", one), ("c", two)]);
    assert!(matches!(&moved, FormatsError::TensorAbsent { tensors, .. } if tensors.len() == 2));
    let unlisted = open(&[("a", one), ("b", two)]);
    assert!(matches!(&unlisted, FormatsError::TensorUnlisted { tensors, .. } if tensors == &["c"]));
    save(
        &path.join(two),
        &[("a", &[1], vec![1.0]), ("b", &[1], vec![1.0])],
    );
    let twice = open(&[("a", one), ("b", two)]);
    assert!(matches!(&twice, FormatsError::TensorTwice { tensor, .. } if tensor == "a"));
    assert!(twice.hint().is_some());
}

#[test]
fn torch_files_are_found_alone_and_in_shards_and_safetensors_come_first() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch_bin");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let copy =
        |from: &str, to: &str| std::fs::copy(fixtures.join(from), path.join(to)).expect("copied");
    copy("protocol4.bin", "p-2.bin");
    copy("state_dict.bin", "p-1.bin");
    let first = WeightStore::open_file(&path.join("p-1.bin")).expect("read");
    let mut map: serde_json::Map<String, serde_json::Value> = first
        .names()
        .map(|name| (name.to_owned(), "p-1.bin".into()))
        .collect();
    map.insert("a".into(), "p-2.bin".into());
    let text = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(path.join("pytorch_model.bin.index.json"), text).expect("written");
    let sharded = WeightStore::open(path).expect("read");
    assert_eq!((sharded.len(), sharded.files().count()), (17, 2));
    copy("protocol4.bin", "pytorch_model.bin");
    let single = WeightStore::open(path).expect("read");
    assert_eq!(single.names().collect::<Vec<_>>(), ["a"]);
    assert_ne!(single.digest(), sharded.digest());
    save(&path.join("model.safetensors"), &[("s", &[1], vec![1.0])]);
    assert_eq!(
        WeightStore::open(path)
            .expect("read")
            .names()
            .collect::<Vec<_>>(),
        ["s"]
    );
    copy("legacy.bin", "adapter_model.bin");
    let legacy = WeightStore::open_adapter(path).expect_err("refused");
    assert!(
        matches!(legacy, FormatsError::Torch { .. }) && legacy.hint().is_some(),
        "{legacy}"
    );
    std::fs::write(path.join("model.safetensors"), b"version https://git-lfs").expect("written");
    let pointer = WeightStore::open(path).expect_err("refused");
    assert!(
        matches!(pointer, FormatsError::Safetensors { .. }) && pointer.hint().is_some(),
        "{pointer}"
    );
}

#[test]
fn a_shard_name_that_leaves_the_folder_is_refused_before_anything_is_opened() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let inner = folder.path().join("model");
    std::fs::create_dir(&inner).expect("a temporary folder");
    save(
        &folder.path().join("outside.safetensors"),
        &[("a", &[1], vec![1.0])],
    );
    let outside = folder.path().join("outside.safetensors");
    let names = [
        "../outside.safetensors",
        outside.to_str().expect("utf-8"),
        "..\\outside.safetensors",
        "sub/x.safetensors",
        "..",
        "",
        "a\u{0}b",
    ];
    for name in names {
        index(&inner, &[("a", name)]);
        let found = WeightStore::open(&inner);
        assert!(
            matches!(found, Err(FormatsError::ShardName { .. })),
            "{name:?}: {found:?}"
        );
    }
}

#[test]
fn a_folder_without_weights_says_what_was_looked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = WeightStore::open(folder.path()).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("model.safetensors, model.safetensors.index.json")
    );
    let error = WeightStore::open_adapter(folder.path()).expect_err("refused");
    assert!(error.to_string().contains("adapter_model.safetensors"));
}

#[test]
fn the_digest_sees_names_sizes_and_values() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let digest = |name: &str, shape: &[usize], values: Vec<f32>| {
        save(&path, &[(name, shape, values)]);
        WeightStore::open(folder.path()).expect("opened").digest()
    };
    let values: Vec<f32> = (0..8_000).map(|i| i as f32).collect();
    let base = digest("a", &[80, 100], values.clone());
    assert_eq!(base, digest("a", &[80, 100], values.clone()));
    assert_ne!(base, digest("b", &[80, 100], values.clone()));
    assert_ne!(base, digest("a", &[100, 80], values.clone()));
    for changed in [0, 4_001, 7_999] {
        let mut values = values.clone();
        values[changed] = -5.0;
        assert_ne!(base, digest("a", &[80, 100], values), "{changed}");
    }
}

#[test]
fn strangers_adapters_open_whole() {
    let Some(inputs) = testkit::shared_inputs() else {
        println!("skipped: no shared inputs");
        return;
    };
    let mut seen = 0;
    for folder in std::fs::read_dir(inputs.join("adapters")).expect("a folder") {
        let folder = folder.expect("an entry").path();
        if !folder.join("adapter_model.safetensors").is_file() {
            continue;
        }
        let store = WeightStore::open_adapter(&folder)
            .unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        assert!(
            store
                .names()
                .all(|name| name.starts_with("base_model.model.")),
            "{folder:?}"
        );
        let elements: usize = store
            .iter()
            .map(|tensor| tensor.to_f32().expect("floats").len())
            .sum();
        assert!(elements > 0);
        seen += 1;
    }
    assert!(seen >= 7);
}
