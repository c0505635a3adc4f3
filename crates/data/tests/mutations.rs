//! The fuzz targets under the deterministic mutator.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "tests read their fixtures"
)]

use std::path::Path;
use std::time::Duration;

use lowrank_data::fuzzing;

/// Counts what each mutant allocates.
#[global_allocator]
static ALLOCATED: testkit::PeakAlloc = testkit::PeakAlloc;

/// Longer than any mutant takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

const WORDS: &str = "add_prefix_space\nadded_tokens\nbehavior\nbyte_fallback\nByteFallback\nByteLevel\ncontent\n\
    continuing_subword_prefix\ndecoder\nDigits\ndropout\nend_of_word_suffix\nFuse\nfuse_unk\nid\nignore_merges\n\
    Isolated\nlstrip\nmerges\nMergedWithPrevious\nMetaspace\nmodel\nnormalized\nnormalizer\nNFC\npattern\n\
    post_processor\nPrecompiled\nPrepend\nPunctuation\nRegex\nRemoved\nReplace\nrstrip\nSequence\nsingle_word\n\
    special\nSplit\nString\nStrip\nTemplateProcessing\ntruncation\ntype\nUnigram\nunk_token\nuse_regex\nvocab\n\
    WordLevel\nWordPiece\ntrue\nfalse\nnull\n-1\n4294967295\n0\n1e9\n[]\n{}\n\"\"\n\\u0000\n(a|b)\n.*\n\\\\s+\n▁";

#[test]
fn mutated_tokenizers_are_refused_or_work() {
    let read = |name: &str| {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        std::fs::read(fixtures.join(name).join("tokenizer.json"))
            .expect("a fixture is part of the repository")
    };
    let tiny = |model: &str, rest: &str| {
        format!(r#"{{"added_tokens": [{{"id": 2, "content": "</s>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}}], {rest} "model": {model}}}"#).into_bytes()
    };
    let split = r#""pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": " ?[^ ]+"},
        "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": false}]}, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},"#;
    let meta = r#""normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace",
        "pattern": {"String": " "}, "content": "▁"}]}, "decoder": {"type": "Sequence", "decoders": [{"type": "Replace",
        "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},"#;
    let bpe = r#"{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": true, "vocab": {"a": 0, "b": 1, "</s>": 2, "ab": 3, "Ġ": 4, "<0x41>": 5, "▁": 6},
        "merges": ["a b"]}"#;
    let words = r#"{"type": "WordLevel", "vocab": {"a": 0, "b": 1, "</s>": 2, "Hello": 3}, "unk_token": "a"}"#;
    let unigram = r#"{"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["</s>", 0.0], ["▁", -2.0]], "byte_fallback": false}"#;
    let seeds = [
        tiny(bpe, split),
        tiny(bpe, meta),
        tiny(words, split),
        tiny(unigram, meta),
        read("bloom_tiny"),
        read("llama_tiny"),
    ];
    let pieces: Vec<&[u8]> = WORDS
        .split('\n')
        .map(str::as_bytes)
        .chain([&b"\""[..], b",", b":", b"{", b"}"])
        .collect();
    let mutation = testkit::Mutation {
        name: "11, tokenizer.json",
        corpus: "tokenizer",
        seeds: &seeds,
        pieces: &pieces,
        rounds: 40_000,
        limit: LIMIT,
    };
    mutation.run(fuzzing::fuzz_tokenizer);
}

#[test]
fn mutated_templates_are_refused_or_bounded() {
    let seeds: Vec<Vec<u8>> = [
        "{{ instruction }}\n{% if input %}\n{{ input }}\n{% endif %}\nAnswer: ",
        "{%- for word in instruction.split() %}{{ loop.index }}:{{ word | upper }} {% endfor %}",
        "{% macro m(x, y=1) %}{{ x ~ y }}{% endmacro %}{{ m(output) }}{{ list | join(', ') }}{{ n + 1 }}{{ none is none }}",
        "{% set ns = namespace(t='') %}{% for i in range(9) %}{% set ns.t = ns.t ~ i %}{% endfor %}{{ ns.t[::-1] }}",
        "{{ output.strip().replace('e', 'ee') }}{% raw %}{{ x }}{% endraw %}{# note #}{{ {'a': 1}['a'] }}{{ '%s' | format(n) }}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    let pieces: Vec<&[u8]> = "{{\n}}\n{%\n%}\n-\n~\n|\n*\n/\n//\n**\n%\n(\n)\n[\n]\n.\n'\nfor i in range(99999)\nendfor\nif\nelse\n\
        endif\n9999999999\n-1\nnot\nin\nis\noutput\nlist\nn\n none\nrecursive\nloop(list)\n| length\n| sort\n| tojson\n\
        | indent(9999)\n| batch(0)\n| slice(0)\n.format()\n.join(list)\n[::0]\nraise_exception(n)\n{% break %}\n\u{3000}"
        .split('\n')
        .map(str::as_bytes)
        .chain([&[0xff][..]])
        .collect();
    let mutation = testkit::Mutation {
        name: "12, templates",
        corpus: "template",
        seeds: &seeds,
        pieces: &pieces,
        rounds: 60_000,
        limit: LIMIT,
    };
    mutation.run(fuzzing::fuzz_template);
}
