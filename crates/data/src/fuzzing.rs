//! Fuzz targets as plain functions, for `cargo fuzz` and for the deterministic mutator of the tests.
//!
//! Each target panics when something that it accepted does not hold.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::template::MAX_RENDERED_BYTES;
use crate::{SpecialTokens, Template, Tokenizer};

/// Texts that a tokenizer is tried on.
const TEXTS: [&str; 5] = [
    "",
    "Hello, world! 12345\r\n  x",
    "月亮升起来，照在河面上。👩‍👩‍👧‍👦 e\u{301}",
    "\u{0}\u{ffff}</s><s> <0x41>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
];

/// What a kilobyte of file and texts may take; and what a busy machine may add.
const TIME_PER_KB: Duration = Duration::from_millis(50);
const TIME_SLACK: Duration = Duration::from_secs(2);

/// A `tokenizer.json`. Accepted: what it encodes has ids in range, decodes, and streams to the same text, and all of it
/// takes 50 ms per kilobyte at the most.
pub fn fuzz_tokenizer(bytes: &[u8]) {
    let start = Instant::now();
    use_tokenizer(bytes);
    let kilobytes = 1 + (bytes.len() + TEXTS.iter().map(|text| text.len()).sum::<usize>()) / 1024;
    let limit = TIME_SLACK + TIME_PER_KB * kilobytes as u32;
    assert!(start.elapsed() < limit, "took {:?}", start.elapsed());
}

fn use_tokenizer(bytes: &[u8]) {
    let Ok(tokenizer) = Tokenizer::of_file(bytes) else {
        return;
    };
    for text in TEXTS {
        let Ok(ids) = tokenizer.encode(text, true) else {
            continue;
        };
        assert!(
            ids.iter().all(|&id| id < crate::tokenizer::MAX_TOKEN_ID),
            "ids are in range"
        );
        check_stream(&tokenizer, &ids);
    }
    let any: Vec<u32> = bytes.iter().take(64).map(|&byte| u32::from(byte)).collect();
    check_stream(&tokenizer, &any);
}

fn check_stream(tokenizer: &Tokenizer, ids: &[u32]) {
    for skip_special_tokens in [false, true] {
        let whole = tokenizer
            .decode(ids, skip_special_tokens)
            .expect("ids decode");
        let mut stream = tokenizer.stream(skip_special_tokens);
        let mut text = String::new();
        for &id in ids {
            text += &stream.push(id).expect("ids decode one by one");
        }
        text += &stream.finish().expect("the rest decodes");
        assert_eq!(text, whole, "streamed text is the decode of all ids");
    }
}

/// A prompt template, and after a byte 0xff a response template. Accepted: no text is longer than the limit, and the same
/// row gives the same text again.
pub fn fuzz_template(bytes: &[u8]) {
    let mut parts = bytes
        .splitn(2, |&byte| byte == 0xff)
        .map(String::from_utf8_lossy);
    let (prompt, response) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let Ok(template) = Template::jinja(&prompt, &response) else {
        return;
    };
    let row = json!({"instruction": "say \u{3000}", "input": "", "output": "yes\n", "n": 7, "list": ["a", 1], "none": null});
    let row = row.as_object().expect("it is an object");
    let tokens = SpecialTokens {
        eos: Some("</s>".into()),
        ..SpecialTokens::default()
    };
    let Ok((prompt, response)) = template.render(row, &tokens) else {
        return;
    };
    assert!(
        prompt.len() <= MAX_RENDERED_BYTES && response.len() <= MAX_RENDERED_BYTES + 4,
        "texts are bounded"
    );
    let again = template.render(row, &tokens).ok();
    assert_eq!(
        again,
        Some((prompt, response)),
        "a row gives the same text again"
    );
}
