//! Rows 51 and 53: tokenizers that would loop, grow or point outside, and ids that no tokenizer has.

use std::path::Path;
use std::time::{Duration, Instant};

use data::Tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::Hostile;

use crate::{data, told};

/// A sound byte-level tokenizer of a few tokens.
fn sound() -> Value {
    json!({
        "added_tokens": [{"id": 7, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4, "!": 5, "x": 6, "</s>": 7}, "merges": ["a b", "Ġ a"]}
    })
}

/// The sound one with one part replaced.
fn with(pointer: &str, part: Value) -> String {
    let mut file = sound();
    *file.pointer_mut(pointer).expect("the part is there") = part;
    file.to_string()
}

fn split(pattern: &str) -> String {
    with(
        "/pre_tokenizer",
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
    )
}

/// Opens it and encodes ten kilobytes that are hard for a pattern.
fn encode(folder: &Path, text: &str) -> Result<usize, String> {
    let tokenizer = Tokenizer::from_pretrained(folder).map_err(|error| told(&error))?;
    let ids = tokenizer.encode(text, true).map_err(|error| told(&error))?;
    let back = tokenizer
        .decode(&ids, false)
        .map_err(|error| told(&error))?;
    Ok(back.len())
}

fn patterns() -> Vec<(&'static str, String)> {
    vec![
        ("repeats of repeats", split("(a+)+b")),
        ("repeats of choices", split("(a|a)*b")),
        ("bounded repeats of repeats", split("(?:a{1,60}){1,60}b")),
        ("repeats after each other", split("a*a*a*a*a*b")),
        (
            "thirty times perhaps",
            split(&format!("{}{}", "a?".repeat(30), "a".repeat(30))),
        ),
        ("a reference back", split(r"(a*)\1b")),
        ("look-ahead within a repeat", split("(?:(?=a*)a)*b")),
        ("a pattern of 100 KB", split(&"a".repeat(100_000))),
        (
            "10,000 brackets",
            split(&format!("{}{}", "(".repeat(10_000), ")".repeat(10_000))),
        ),
        ("a pattern that is none", split("(a")),
        (
            "a pattern in the normalizer",
            with(
                "/normalizer",
                json!({"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": "x"}),
            ),
        ),
        (
            "a pattern in the decoder",
            with(
                "/decoder",
                json!({"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": "x"}),
            ),
        ),
        (
            "a pattern deep inside",
            with(
                "/pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": false}]}]}),
            ),
        ),
    ]
}

fn parts() -> Vec<(&'static str, String)> {
    vec![
        (
            "merges of tokens that are absent",
            with("/model/merges", json!(["a c"])),
        ),
        (
            "a merge into a token that is absent",
            with("/model/merges", json!(["b b"])),
        ),
        (
            "merges of themselves",
            with("/model/merges", json!(["ab ab", "a b"])),
        ),
        (
            "a merge longer than any token",
            with("/model/merges", json!([["a", "Ġab"]])),
        ),
        (
            "a prefix inside of words",
            with("/model/continuing_subword_prefix", json!("##")),
        ),
        (
            "an id near 2^32",
            with("/model/vocab/x", json!(4_294_967_295_u32)),
        ),
        ("an id of 2^24", with("/model/vocab/x", json!(1 << 24))),
        (
            "an id beyond 32 bits",
            with("/model/vocab/x", json!(1_u64 << 40)),
        ),
        ("a negative id", with("/model/vocab/x", json!(-1))),
        ("no vocabulary", with("/model/vocab", json!({}))),
        (
            "a vocabulary that is a list",
            with("/model/vocab", json!([["a", 0.0]])),
        ),
        ("an unknown model", with("/model/type", json!("LSTM"))),
        (
            "a unigram without tokens",
            with(
                "/model",
                json!({"type": "Unigram", "unk_id": 5, "vocab": []}),
            ),
        ),
        (
            "an unknown token outside of the vocabulary",
            with(
                "/model",
                json!({"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]}),
            ),
        ),
    ]
}

fn others() -> Vec<(&'static str, String)> {
    let nested = |depth: usize| {
        format!(
            "{}{}",
            "{\"type\":\"Sequence\",\"normalizers\":[".repeat(depth),
            "]}".repeat(depth)
        )
    };
    vec![
        (
            "a template with a token that it does not define",
            with(
                "/post_processor",
                json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}], "pair": [], "special_tokens": {}}),
            ),
        ),
        (
            "a charsmap that is cut",
            with(
                "/normalizer",
                json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            ),
        ),
        (
            "a charsmap that points outside",
            with(
                "/normalizer",
                json!({"type": "Precompiled", "precompiled_charsmap": "CAAAAP////8BAgME/////w=="}),
            ),
        ),
        (
            "a decoder that strips the end",
            with(
                "/decoder",
                json!({"type": "Strip", "content": "a", "start": 0, "stop": 9}),
            ),
        ),
        (
            "normalizers nested 10,000 deep",
            with("/normalizer", json!("@")).replace("\"@\"", &nested(10_000)),
        ),
        (
            "a depth of 100,000 lists",
            format!("{{\"model\": {}", "[".repeat(100_000)),
        ),
        (
            "a file that breaks off",
            sound().to_string()[..300].to_owned(),
        ),
        ("not JSON", "<html></html>".to_owned()),
        ("a list", "[]".to_owned()),
        ("nothing", String::new()),
    ]
}

#[test]
fn row_51_a_tokenizer_is_refused_or_encodes_soon() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("tokenizer.json");
    let put = |text: &str| std::fs::write(&path, text).expect("a temporary folder can be written");
    let hard = "a".repeat(10_000) + "!";
    put(&sound().to_string());
    encode(folder.path(), &hard).expect("the file that the others are made of is good");
    let strip = |said: String| said.replace(&format!("{}/", folder.path().display()), "");
    let mut row = Hostile::new("row 51, tokenizers").within(Duration::from_secs(2));
    for (name, text) in patterns().into_iter().chain(parts()).chain(others()) {
        put(&text);
        row.refused(name, text.len(), || {
            encode(folder.path(), &hard).map_err(strip)
        });
    }
    for (name, text) in [
        (
            "an added token that says an id near 2^32",
            with(
                "/added_tokens/0",
                json!({"id": 4_294_967_295_u32, "content": "</new>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}),
            ),
        ),
        ("a pattern with one repeat", split("a+b")),
        ("a pattern with one repeat and a choice", split("[ab]?a+x")),
        (
            "GPT-2's pattern",
            split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
        ),
    ] {
        put(&text);
        row.harmless(name, text.len(), || encode(folder.path(), &hard));
    }
    let file = std::fs::File::create(&path).expect("a temporary folder can be written");
    file.set_len(300 << 20).expect("a hole of zeros");
    row.refused("a file of 300 MB", 0, || {
        encode(folder.path(), "a").map_err(strip)
    });
    insta::assert_snapshot!(row.finish(20));
}

#[test]
fn spaces_of_ten_kilobytes_are_split_soon() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("tokenizer.json");
    let llama = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    std::fs::write(&path, split(llama)).expect("a temporary folder can be written");
    for text in [
        " ".repeat(10_000) + "x",
        "\n ".repeat(5_000),
        "!\n".repeat(5_000),
        "1".repeat(10_000),
    ] {
        let start = Instant::now();
        encode(folder.path(), &text).expect("a published pattern");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}: {:?}", &text[..9]);
    }
}

#[test]
fn row_53_an_id_beyond_the_tokenizer_is_empty_text() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("tokenizer.json");
    let mut row = Hostile::new("row 53, ids beyond the tokenizer");
    let meta =
        json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
    for (kind, text) in [
        ("byte-level", sound().to_string()),
        ("byte fallback", with("/decoder", meta)),
    ] {
        std::fs::write(&path, text).expect("a temporary folder can be written");
        let tokenizer = Tokenizer::from_pretrained(folder.path()).expect("it is sound");
        for id in [8, 9, 151_935, (1 << 24) - 1, u32::MAX] {
            row.harmless(&format!("{kind}, id {id}"), 4, || {
                let ids = [0, id, 1, id, id, 5, id];
                let mut stream = tokenizer.stream(true);
                let mut text = String::new();
                for id in ids {
                    text += &stream.push(id)?;
                }
                text += &stream.finish()?;
                assert_eq!(
                    text,
                    tokenizer.decode(&ids, true)?,
                    "the stream is the decode"
                );
                assert_eq!(
                    text,
                    tokenizer.decode(&[0, 1, 5], true)?,
                    "it is as if it were not there"
                );
                Ok::<_, data::DataError>(text)
            });
        }
    }
    insta::assert_snapshot!(row.finish(5));
}

/// Some 40 MB each: what the `tokenizers` crate makes of a file takes many times its size, so it must not get to see these.
#[test]
fn row_51_refusing_a_large_tokenizer_takes_twice_its_size_at_most() {
    // First, because making the files takes memory that another table would see.
    let mut row = Hostile::new("row 51, large tokenizers");
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("tokenizer.json");
    let filled = |pointer: &str, open: &str, item: &str, close: &str| {
        let text = with(pointer, json!("@"));
        let items = item.repeat((40 << 20) / item.len());
        text.replace("\"@\"", &format!("{open}{items}{close}"))
    };
    let vocab: String = (0..2_000_000)
        .map(|id| format!("\"t{id}\":{id},"))
        .collect();
    let vocab = |last: &str| format!("{{{vocab}{last}}}");
    let model = |pointer: &str, part: &str| with(pointer, json!("@")).replace("\"@\"", part);
    let cases = [
        (
            "a normalizer of numbers",
            filled("/normalizer", "[", "1,", "1]"),
        ),
        (
            "a decoder of empty lists",
            filled("/decoder", "[", "[],", "[]]"),
        ),
        (
            "a model setting of numbers",
            filled("/model/dropout", "[", "1,", "1]"),
        ),
        (
            "merges that are none",
            filled("/model/merges", "[", "[[]],", "[]]"),
        ),
        (
            "merges of absent tokens at the end",
            filled("/model/merges", "[", "\"a b\",", "\"a c\"]"),
        ),
        (
            "added tokens of numbers",
            filled("/added_tokens", "[", "1,", "1]"),
        ),
        (
            "one text of escapes",
            filled("/post_processor", "\"", "\\u0041", "\""),
        ),
        ("a file of brackets", filled("/pre_tokenizer", "", "[", "")),
        (
            "a large vocabulary whose last id is too large",
            model("/model/vocab", &vocab("\"x\":16777216")),
        ),
        (
            "a large vocabulary whose last id is none",
            model("/model/vocab", &vocab("\"x\":[]")),
        ),
        (
            "a large vocabulary of a model that there is not",
            model("/model/vocab", &vocab("\"x\":2000000")).replace("\"BPE\"", "\"LSTM\""),
        ),
        (
            "a large vocabulary and a bad decoder",
            model(
                "/model/vocab",
                &vocab("\"a\":7,\"b\":8,\"ab\":9,\"Ġ\":10,\"Ġa\":11"),
            )
            .replace(
                "\"decoder\":{\"type\":\"ByteLevel\"",
                "\"decoder\":{\"type\":\"Neither\"",
            ),
        ),
    ];
    let strip = |said: String| said.replace(&format!("{}/", folder.path().display()), "");
    for (name, text) in &cases {
        std::fs::write(&path, text).expect("a temporary folder can be written");
        row.refused(name, text.len(), || {
            encode(folder.path(), "a").map_err(&strip)
        });
    }
    insta::assert_snapshot!(row.finish(12));
}
