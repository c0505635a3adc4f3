//! Rows to ids and labels against the tutorial's preprocessing in Python, and the cache.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{ids, json, labels, object, shared, tokenizer};
use crate::data::encoded::fingerprint;
use crate::data::{CacheUse, EncodedDataset, IGNORE_INDEX, Template, Tokenizer};
use formats::Rows;
use sha2::{Digest, Sha256};

fn rows_of(folder: &Path, value: &serde_json::Value) -> Rows {
    let path = folder.join("rows.json");
    std::fs::write(&path, value.to_string()).expect("a temporary folder can be written");
    Rows::open(&path, None).expect("rows just written open")
}

fn build(
    rows: &Rows,
    tokenizer: &Tokenizer,
    max_length: usize,
    cache: Option<&Path>,
) -> EncodedDataset {
    let built = EncodedDataset::build(
        rows,
        &Template::alpaca(),
        tokenizer,
        max_length,
        cache,
        &|_, _| {},
    );
    built.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn ids_and_labels_equal_the_tutorials() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let golden = json("encoded.json");
    let max_length = golden["max_length"].as_u64().expect("a length") as usize;
    let rows = rows_of(folder.path(), &golden["rows"]);
    for (name, want) in object(&golden["encoded"]) {
        let tokenizer = tokenizer(name);
        let encoded = build(&rows, &tokenizer, max_length, None);
        for (index, want) in want.as_array().expect("a list").iter().enumerate() {
            let example = encoded.get(index);
            assert_eq!(
                example.input_ids,
                ids(&want["input_ids"]),
                "{name} row {index}"
            );
            assert_eq!(
                example.labels,
                labels(&want["labels"]),
                "{name} row {index}"
            );
        }
        let masked = |index: &usize| {
            encoded
                .get(*index)
                .labels
                .iter()
                .all(|&label| label == IGNORE_INDEX)
        };
        assert_eq!(
            encoded.report().all_masked,
            (0..encoded.len()).filter(masked).count()
        );
        assert!(
            encoded.report().truncated >= 2 && encoded.report().eos_cut >= 2,
            "{:?}",
            encoded.report()
        );
    }
}

#[test]
fn real_rows_equal_those_of_datasets() {
    let Some(inputs) = shared("data") else { return };
    for (name, want) in object(&json("rows_real.json")) {
        let rows =
            Rows::open(inputs.join(name), None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let columns: Vec<_> = want["columns"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str())
            .collect();
        assert_eq!(
            (rows.columns(), Some(rows.len() as u64)),
            (
                &columns.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                want["rows"].as_u64()
            )
        );
        let mut hash = Sha256::new();
        for index in 0..rows.len() {
            let row = rows
                .row(index)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            hash.update(serde_json::Value::Object(row).to_string());
            hash.update(b"\n");
        }
        assert_eq!(Some(hex(hash).as_str()), want["sha256"].as_str(), "{name}");
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn real_rows_equal_the_tutorials() {
    let Some(inputs) = shared("") else { return };
    for case in json("encoded_real.json").as_array().expect("a list") {
        let name = |key: &str| case[key].as_str().expect("a name");
        let number = |key: &str| case[key].as_u64().expect("a number") as usize;
        let rows = Rows::open(inputs.join("data").join(name("dataset")), None)
            .expect("a real folder opens");
        let tokenizer =
            Tokenizer::from_pretrained(inputs.join("tokenizers").join(name("tokenizer")));
        let encoded = build(
            &rows,
            &tokenizer.expect("a real tokenizer opens"),
            number("max_length"),
            None,
        );
        assert_eq!(encoded.len(), number("rows"));
        let mut hash = Sha256::new();
        for index in 0..encoded.len() {
            let example = encoded.get(index);
            hash.update((example.input_ids.len() as u32).to_le_bytes());
            example
                .input_ids
                .iter()
                .for_each(|id| hash.update(id.to_le_bytes()));
            example
                .labels
                .iter()
                .for_each(|label| hash.update(label.to_le_bytes()));
        }
        assert_eq!(hex(hash), name("sha256"), "{case}");
    }
}

#[test]
fn nothing_is_encoded_twice_and_a_damaged_cache_is_made_anew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("cache");
    let (rows, tokenizer) = (
        rows_of(folder.path(), &json("encoded.json")["rows"]),
        tokenizer("bloom_tiny"),
    );
    let use_of = |max_length| {
        let encoded = build(&rows, &tokenizer, max_length, Some(&cache));
        let fresh = build(&rows, &tokenizer, max_length, None);
        assert!((0..rows.len()).all(|index| encoded.get(index) == fresh.get(index)));
        let same = crate::data::Report {
            cache: CacheUse::Off,
            ..encoded.report().clone()
        };
        assert_eq!(&same, fresh.report());
        encoded.report().cache.clone()
    };
    assert_eq!(
        (use_of(48), use_of(48), use_of(47)),
        (CacheUse::Written, CacheUse::Read, CacheUse::Written)
    );
    for entry in durable::list_dir(&cache).expect("the cache is a folder") {
        damage(&cache.join(&entry.name));
    }
    assert_eq!(
        use_of(48),
        CacheUse::Rebuilt("its digest does not match".into())
    );
    assert_eq!(use_of(48), CacheUse::Read);
}

#[test]
fn a_fingerprint_changes_with_everything_that_ids_depend_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of = |rows: &serde_json::Value, template: &Template, name: &str, max_length| {
        let rows = rows_of(folder.path(), rows);
        fingerprint(&rows, template, &tokenizer(name), max_length)
    };
    let rows = json("encoded.json")["rows"].clone();
    let alpaca = Template::alpaca();
    let other = Template::jinja("{{ instruction }}", "{{ output }}").expect("a template");
    let one = of(&rows, &alpaca, "bloom_tiny", 48);
    assert_eq!(one, of(&rows, &alpaca, "bloom_tiny", 48));
    assert!(one.ends_with(" max_length 48"), "{one}");
    for changed in [
        of(&serde_json::json!([rows[0]]), &alpaca, "bloom_tiny", 48),
        of(&rows, &other, "bloom_tiny", 48),
        of(&rows, &alpaca, "llama_tiny", 48),
        of(&rows, &alpaca, "bloom_tiny", 47),
    ] {
        assert_ne!(one, changed);
    }
}

/// Flips one bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a cache file reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(path, bytes).expect("a cache file can be written");
}

#[test]
fn a_cache_that_cannot_be_written_costs_nothing_but_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = rows_of(folder.path(), &json("encoded.json")["rows"]);
    let encoded = build(
        &rows,
        &tokenizer("bloom_tiny"),
        48,
        Some(&folder.path().join("rows.json/cache")),
    );
    assert!(
        matches!(encoded.report().cache, CacheUse::NotWritten(_)),
        "{:?}",
        encoded.report()
    );
}

#[test]
fn progress_reaches_the_end_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let many: Vec<_> = (0..300)
        .map(|i| serde_json::json!({"instruction": format!("say {i}"), "input": "", "output": i.to_string()}))
        .collect();
    let rows = rows_of(folder.path(), &many.into());
    let (ends, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = |done: usize, total: usize| {
        calls.fetch_add(1, Ordering::Relaxed);
        ends.fetch_add(usize::from(done == total), Ordering::Relaxed);
    };
    let built = EncodedDataset::build(
        &rows,
        &Template::alpaca(),
        &tokenizer("llama_tiny"),
        32,
        None,
        &progress,
    );
    assert_eq!(built.map(|encoded| encoded.len()).ok(), Some(300));
    assert_eq!((ends.into_inner(), calls.into_inner()), (1, 5));
}

#[test]
fn an_error_names_the_first_bad_row() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = |rows: &serde_json::Value| {
        let rows = rows_of(folder.path(), rows);
        let built = EncodedDataset::build(
            &rows,
            &Template::alpaca(),
            &tokenizer("bloom_tiny"),
            32,
            None,
            &|_, _| {},
        );
        let error = built.err().expect("it is refused");
        format!("{error}\n  {}\n", error.hint().unwrap_or_default())
    };
    let good = serde_json::json!({"instruction": "a", "input": null, "output": "b"});
    let mut many = vec![good.clone(); 400];
    many[333] = serde_json::json!({"instruction": "a", "input": "", "output": null});
    many[390] = serde_json::json!({"instruction": null, "input": "", "output": "x"});
    let mut all = said(&many.into());
    all += &said(&serde_json::json!([{"instruction": 1, "input": "", "output": "x"}]));
    all += &said(&serde_json::json!([{"question": "x", "answer": "y"}]));
    insta::assert_snapshot!(all);
}

#[test]
fn no_room_and_no_end_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = rows_of(folder.path(), &json("encoded.json")["rows"]);
    let tokenizer = tokenizer("bloom_tiny");
    let built = EncodedDataset::build(&rows, &Template::alpaca(), &tokenizer, 0, None, &|_, _| {});
    assert_eq!(
        built.err().map(|error| error.to_string()).as_deref(),
        Some("max_length must be at least 1, it is: 0")
    );
}
