//! Our JSON text against what Python's json module wrote (tools/python/formats_pyjson.py).

use lowrank_formats::pyjson::{
    Json, JsonFaultKind, Style, float_repr, parse, to_string, value_to_string,
};

fn fixture(text: &str) -> Vec<Json> {
    match parse(text.as_bytes()) {
        Ok(Json::Array(items)) => items,
        other => panic!("a fixture is a list: {other:?}"),
    }
}

fn text<'a>(case: &'a Json, key: &str) -> &'a str {
    case.get(key)
        .and_then(Json::as_str)
        .expect("the fixture has it")
}

#[test]
fn floats_have_pythons_digits() {
    let cases = fixture(include_str!("fixtures/pyjson/floats.json"));
    assert!(cases.len() > 400);
    for case in cases {
        let Json::Array(pair) = case else {
            panic!("a pair")
        };
        let [Json::String(hex), Json::String(want)] = pair.as_slice() else {
            panic!("two texts")
        };
        let bits = u64::from_str_radix(hex, 16).expect("hex").swap_bytes();
        assert_eq!(float_repr(f64::from_bits(bits)), *want);
    }
}

#[test]
fn texts_are_pythons_bytes_in_every_style() {
    let raw = Style {
        indent: Some(4),
        sort_keys: false,
        in_order: &[],
        ensure_ascii: false,
        separators: None,
    };
    for case in fixture(include_str!("fixtures/pyjson/texts.json")) {
        let value = case.get("value").expect("the fixture has it");
        assert_eq!(to_string(value, Style::LINE), text(&case, "line"));
        assert_eq!(to_string(value, Style::PRETTY), text(&case, "pretty"));
        assert_eq!(to_string(value, Style::COMPACT), text(&case, "compact"));
        assert_eq!(to_string(value, raw), text(&case, "raw"));
        for key in ["line", "pretty", "compact", "raw"] {
            assert_eq!(parse(text(&case, key).as_bytes()).as_ref(), Ok(value));
        }
    }
}

#[test]
fn values_of_serde_keep_their_numbers() {
    let source = r#"{"a": 3.8400000000000005e-05, "b": 16.0, "c": 16, "d": 1e3, "e": -0, "f": 123456789012345678901}"#;
    let value: serde_json::Value = serde_json::from_str(source).expect("json");
    let want = r#"{"a": 3.8400000000000005e-05, "b": 16.0, "c": 16, "d": 1000.0, "e": 0, "f": 123456789012345678901}"#;
    assert_eq!(value_to_string(&value, Style::LINE), want);
    let ours = parse(source.as_bytes()).expect("json");
    assert_eq!(to_string(&ours, Style::LINE), want);
    assert_eq!(value_to_string(&ours.into_value(), Style::LINE), want);
}

#[test]
fn numbers_that_only_python_writes_are_read_and_kept_for_serde() {
    let value = parse(b"[NaN, Infinity, -Infinity, 1e400]").expect("python's json");
    assert_eq!(
        to_string(&value, Style::LINE),
        "[NaN, Infinity, -Infinity, Infinity]"
    );
    let kept = value_to_string(&value.into_value(), Style::COMPACT);
    assert!(
        kept.starts_with(r#"[{"__float__":"NaN"},{"__float__":"Infinity"}"#),
        "{kept}"
    );
}

#[test]
fn a_repeated_key_keeps_its_last_value_and_first_place() {
    let value = parse(br#"{"a":1,"b":2,"a":3}"#).expect("json");
    assert_eq!(to_string(&value, Style::COMPACT), r#"{"a":3,"b":2}"#);
}

#[test]
fn each_fault_is_named_with_its_place() {
    use JsonFaultKind::{
        Control, Depth, End, Escape, Expected, Integer, Memory, Surrogate, Trailing, Utf8,
    };
    let digits = "9".repeat(60);
    let cases: Vec<(&[u8], usize, usize, JsonFaultKind)> = vec![
        (b"", 1, 1, End("a value")),
        (b"{\"a\":", 1, 6, End("a value")),
        (b"[1,\n 2", 2, 3, End("`,` or `]`")),
        (b"\"ab", 1, 4, End("`\"`")),
        (b"\"ab\\", 1, 4, End("an escape")),
        (b"[1 2]", 1, 4, Expected("`,` or `]`")),
        (b"[1,]", 1, 4, Expected("a value")),
        (b"{a:1}", 1, 2, Expected("a string")),
        (b"{\"a\" 1}", 1, 6, Expected("`:`")),
        (b"nul", 1, 1, Expected("a value")),
        (b"- 1", 1, 1, Expected("a value")),
        (b"01", 1, 2, Trailing),
        (b"1 2", 1, 3, Trailing),
        (b"\xef\xbb\xbf1", 1, 1, Expected("a value")),
        (b"\"\xff\"", 1, 2, Utf8),
        (b"\"a\nb\"", 1, 3, Control),
        (b"\"\\x\"", 1, 2, Escape),
        (b"\"\\u12g4\"", 1, 2, Escape),
        (b"\"\\ud800\"", 1, 2, Surrogate),
        (b"\"\\ud800\\u0041\"", 1, 2, Surrogate),
        (b"\"\\udc00\"", 1, 2, Surrogate),
        (digits.as_bytes(), 1, 1, Integer),
    ];
    for (input, line, column, kind) in cases {
        let fault = parse(input).expect_err("a fault");
        assert_eq!(
            (fault.line, fault.column, &fault.kind),
            (line, column, &kind),
            "{input:?}"
        );
    }
    let nested = |levels: usize| {
        let text = ["[".repeat(levels), "]".repeat(levels)].concat();
        parse(text.as_bytes()).map_err(|fault| fault.kind).err()
    };
    assert_eq!(nested(64), None);
    assert_eq!(nested(65), Some(Depth(64)));
    let many = |count: usize| {
        let text = format!("[{{}}{}]", ",{}".repeat(count));
        parse(text.as_bytes()).map_err(|fault| fault.kind).err()
    };
    assert_eq!(many(100_000), None);
    assert_eq!(many(200_000), Some(Memory));
    let deep = "[".repeat(1_000_000);
    assert_eq!(
        parse(deep.as_bytes()).map_err(|fault| fault.kind),
        Err(Depth(64))
    );
}
