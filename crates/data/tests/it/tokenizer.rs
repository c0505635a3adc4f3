//! Ids and text against what `AutoTokenizer` gave.

use crate::common::{fixture, ids, json, object, shared, tokenizer};
use crate::data::{DataError, Tokenizer};
use serde_json::Value;

fn check(name: &str, tokenizer: &Tokenizer, want: &Value) {
    assert_eq!(tokenizer.class_name(), want["class"], "{name}");
    assert_eq!(
        tokenizer.vocab_size() as u64,
        want["len"].as_u64().expect("a length"),
        "{name}"
    );
    for (got, key) in [
        (tokenizer.eos_token(), "eos_token"),
        (tokenizer.bos_token(), "bos_token"),
        (tokenizer.pad_token(), "pad_token"),
    ] {
        assert_eq!(got, want[key].as_str(), "{name} {key}");
    }
    for case in want["texts"].as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        let found = tokenizer
            .encode(text, true)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, ids(&case["ids"]), "{name}: {text:?}");
        assert_eq!(
            tokenizer.encode(text, false).ok(),
            Some(ids(&case["plain"])),
            "{name}: {text:?}"
        );
        assert_eq!(
            tokenizer.decode(&found, false).ok().as_deref(),
            case["decoded"].as_str(),
            "{name}"
        );
        assert_eq!(
            tokenizer.decode(&found, true).ok().as_deref(),
            case["skipped"].as_str(),
            "{name}"
        );
        check_stream(name, tokenizer, &found);
    }
}

fn check_stream(name: &str, tokenizer: &Tokenizer, found: &[u32]) {
    for skip in [false, true] {
        let mut stream = tokenizer.stream(skip);
        let mut text = String::new();
        for &id in found {
            text += &stream.push(id).expect("a known id decodes");
        }
        text += &stream.finish().expect("the rest decodes");
        assert_eq!(
            Some(text),
            tokenizer.decode(found, skip).ok(),
            "{name}: {found:?}"
        );
    }
}

#[test]
fn ids_equal_those_of_auto_tokenizer() {
    for (name, want) in object(&json("ids.json")) {
        check(name, &tokenizer(name), want);
    }
}

#[test]
fn ids_of_real_tokenizers_equal_those_of_auto_tokenizer() {
    let Some(folder) = shared("tokenizers") else {
        return;
    };
    for (name, want) in object(&json("ids_real.json")) {
        let tokenizer = Tokenizer::from_pretrained(folder.join(name));
        check(
            name,
            &tokenizer.unwrap_or_else(|error| panic!("{name}: {error}")),
            want,
        );
    }
}

#[test]
fn real_texts_equal_another_implementation() {
    let Some(folder) = shared("tokenizers") else {
        return;
    };
    let read = |file: String| {
        let path = folder.join("kitoken-expected").join(file);
        std::fs::read_to_string(path).expect("a shared input reads")
    };
    for name in ["gpt2", "llama2"] {
        let tokenizer =
            Tokenizer::from_pretrained(folder.join(name)).expect("a real tokenizer opens");
        let check = |text: &str, want: &str| {
            let want: Vec<u32> = want
                .split(", ")
                .filter_map(|id| id.trim().parse().ok())
                .collect();
            assert_eq!(
                tokenizer.encode(text, false).expect("a text encodes"),
                want,
                "{name}: {text:?}"
            );
        };
        for lines in ["small", "mixed"] {
            let input = read(format!("{lines}_input.txt"));
            let want = read(format!("{lines}_tokens_{name}.txt"));
            let lines = input.split('\n').count();
            assert!(lines > 10 && lines == want.split('\n').count(), "{name}");
            for (line, want) in input.split('\n').zip(want.split('\n')) {
                check(&line.replace("\\n", "\n").replace("\\s", " "), want);
            }
        }
        check(
            &read("utf8_input.txt".into()),
            &read(format!("utf8_tokens_{name}.txt")),
        );
    }
}

/// 64-bit linear congruential steps, high bits.
fn random_ids(seed: u64, count: usize, below: usize) -> Vec<u32> {
    let mut state = seed;
    let step = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize % below) as u32
    };
    (0..count).map(step).collect()
}

#[test]
fn streamed_text_of_any_ids_equals_the_full_decode() {
    for name in ["bloom_tiny", "llama_tiny", "qwen_tiny", "gpt2_rebuilt"] {
        let tokenizer = tokenizer(name);
        for seed in 0..500 {
            // Ids up to 20 beyond the vocabulary: padded embeddings have such.
            check_stream(
                name,
                &tokenizer,
                &random_ids(seed, 40, tokenizer.vocab_size() + 20),
            );
        }
    }
}

#[test]
fn a_character_is_given_as_soon_as_it_is_complete() {
    let tokenizer = tokenizer("bloom_tiny");
    let mut stream = tokenizer.stream(true);
    let found = tokenizer.encode("🙂a", false).expect("a text encodes");
    let deltas: Vec<String> = found
        .iter()
        .map(|&id| stream.push(id).expect("a known id decodes"))
        .collect();
    assert_eq!(deltas, ["", "", "", "🙂", "a"]);
}

#[test]
fn a_stream_behind_a_prompt_gives_what_the_whole_decode_adds() {
    for name in ["bloom_tiny", "llama_tiny", "qwen_tiny", "gpt2_rebuilt"] {
        let tokenizer = tokenizer(name);
        let found = tokenizer
            .encode("Once upon a time, 🙂 there", true)
            .expect("a text encodes");
        let whole = tokenizer.decode(&found, true).expect("ids decode");
        let mut compared = 0;
        for cut in 1..found.len() {
            let (prompt, new) = found.split_at(cut);
            let shown = tokenizer.decode(prompt, true).expect("ids decode");
            let Some(want) = whole.strip_prefix(&shown) else {
                continue; // cut within a character: no text ends there
            };
            let mut stream = tokenizer
                .stream(true)
                .behind(prompt)
                .expect("the prompt decodes");
            let mut text = String::new();
            for &id in new {
                text += &stream.push(id).expect("a known id decodes");
            }
            text += &stream.finish().expect("the rest decodes");
            assert_eq!(text, want, "{name}, {cut} ids before");
            compared += 1;
        }
        let cuts = found.len() - 1;
        assert!(2 * compared > cuts, "{name}: {compared} of {cuts} cuts");
    }
}

/// A bad byte turns the run of byte tokens that it ends into replacement characters, the prompt's last ones too.
#[test]
fn a_bad_byte_behind_a_prompt_that_ends_in_byte_tokens_costs_no_text() {
    let tokenizer = tokenizer("llama_tiny");
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .expect("it is in the vocabulary")
    };
    let prompt = [id("at"), id("<0x0A>")];
    let mut stream = tokenizer
        .stream(true)
        .behind(&prompt)
        .expect("the prompt decodes");
    let mut text = String::new();
    for new in [id("<0xFF>"), id("mill")] {
        text += &stream.push(new).expect("a known id decodes");
    }
    text += &stream.finish().expect("the rest decodes");
    assert!(text.ends_with("mill"), "{text:?}");
}

#[test]
fn saved_tokenizer_opens_again_with_the_same_fingerprint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("saved");
    let tokenizer = tokenizer("qwen_tiny");
    let mut staged = durable::StagedFolder::new(&target).expect("a folder can be staged");
    tokenizer
        .save_pretrained(&mut staged)
        .expect("the files are there");
    staged.publish().expect("a folder can be published");
    let again = Tokenizer::from_pretrained(&target).expect("the copy opens");
    assert_eq!(again.fingerprint(), tokenizer.fingerprint());
}

#[test]
fn a_refused_tokenizer_says_what_and_where() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let put = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a temporary folder can be written");
    };
    let said = || {
        let error = Tokenizer::from_pretrained(folder.path()).expect_err("it is refused");
        let hint = error.hint().expect("a refusal says how to mend it");
        format!("{error}\n  {hint}\n").replace(&folder.path().display().to_string(), "FOLDER")
    };
    let mut all = said();
    put("tokenizer.model", "x");
    all += &said();
    put("tokenizer.json", "{");
    all += &said();
    put(
        "tokenizer.json",
        r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#,
    );
    all += &said();
    put(
        "tokenizer.json",
        r#"{"model": {"type": "BPE", "vocab": {"a": 16777216}, "merges": []}}"#,
    );
    all += &said();
    put(
        "tokenizer.json",
        r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}"#,
    );
    all += &said();
    let split = r#"{"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": false}"#;
    let file = format!(
        r#"{{"pre_tokenizer": {split}, "model": {{"type": "BPE", "vocab": {{"a": 0}}, "merges": []}}}}"#
    );
    put("tokenizer.json", &file);
    all += &said();
    put("tokenizer_config.json", "[]");
    all += &said();
    insta::assert_snapshot!(all);
    let missing = Tokenizer::from_pretrained(fixture("no_such_folder"));
    assert!(matches!(missing, Err(DataError::NoTokenizer { .. })));
}
