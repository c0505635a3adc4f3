//! Templates against Python's strings and Jinja.

use crate::common::{json, object};
use crate::data::{DataError, SpecialTokens, Template};
use serde_json::{Value, json};

fn tokens() -> SpecialTokens {
    SpecialTokens {
        bos: Some("<s>".into()),
        eos: Some("</s>".into()),
        ..SpecialTokens::default()
    }
}

fn render(prompt: &str, response: &str, row: &Value) -> Result<(String, String), DataError> {
    Template::jinja(prompt, response)?.render(object(row), &tokens())
}

#[test]
fn alpaca_is_the_tutorials_string() {
    let cases = [
        (
            json!({"instruction": "说\u{3000}", "input": "", "output": "x"}),
            "Human: 说\n\nAssistant: ",
        ),
        (
            json!({"instruction": "", "input": " a\u{1f} ", "output": "x"}),
            "Human: \n a\n\nAssistant: ",
        ),
        (
            json!({"instruction": "", "input": null, "output": "x"}),
            "Human:\n\nAssistant: ",
        ),
        (
            json!({"instruction": "a\n", "input": "\u{200b}", "output": "x"}),
            "Human: a\n\n\u{200b}\n\nAssistant: ",
        ),
    ];
    for (row, want) in cases {
        let rendered = Template::alpaca()
            .render(object(&row), &tokens())
            .expect("the row is whole");
        assert_eq!(rendered, (want.to_owned(), "x</s>".to_owned()));
    }
}

#[test]
fn jinja_renders_as_python_does() {
    let golden = json("jinja.json");
    for case in golden["templates"].as_array().expect("a list") {
        let (prompt, response) = (
            case["prompt"].as_str().expect("text"),
            case["response"].as_str().expect("text"),
        );
        let template = Template::jinja(prompt, response).unwrap_or_else(|error| panic!("{error}"));
        let list = |rows: &Value| rows.as_array().expect("a list").clone();
        let (rows, wants) = (list(&golden["rows"]), list(&case["rows"]));
        assert!(!rows.is_empty() && rows.len() == wants.len(), "{prompt:?}");
        for (row, want) in rows.iter().zip(&wants) {
            let (got_prompt, got_response) = template
                .render(object(row), &tokens())
                .expect("the row is whole");
            let end = if template.appends_eos() { "</s>" } else { "" };
            let want_response = format!("{}{end}", want[1].as_str().expect("text"));
            assert_eq!(
                (Some(got_prompt.as_str()), got_response),
                (want[0].as_str(), want_response),
                "{prompt:?}"
            );
        }
    }
}

#[test]
fn a_newline_at_the_end_of_a_template_is_kept() {
    let row = json!({"q": "a", "a": "b"});
    let chat = "{{ q }}<|im_end|>\n<|im_start|>assistant\n";
    let (prompt, response) = render(chat, "{{ a }}\n\n", &row).expect("the row is whole");
    assert_eq!(prompt, "a<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(response, "b\n\n</s>");
}

#[test]
fn end_of_sequence_follows_unless_the_template_names_it() {
    let row = json!({"q": "a", "a": 7, "b": true});
    let plain = render("{{ q }}", "{{ a }} {{ b }}", &row).expect("the row is whole");
    assert_eq!(plain, ("a".into(), "7 True</s>".into()));
    let named = render("{{ bos_token }}{{ q }}", "{{ a }}{{ eos_token }}!", &row)
        .expect("the row is whole");
    assert_eq!(named, ("<s>a".into(), "7</s>!".into()));
}

#[test]
fn what_a_template_does_wrong_is_said() {
    let row = json!({"q": "a", "none": null, "list": [1, 2], "deep": {"x": {"y": 1}}});
    let huge = "x".repeat(crate::data::template::MAX_TEMPLATE_BYTES + 1);
    let cases = [
        ("{{ question }}{{ q }}{{ extra }}", "x"),
        ("{{ q", "x"),
        ("a\n{% if q %}\nb", "x"),
        ("{{ none }}", "x"),
        ("{{ list }}", "x"),
        ("{{ deep.x.z }}", "x"),
        ("{{ raise_exception('not this row') }}", "x"),
        (
            "{% for i in range(30000) %}{% for j in range(30000) %}{{ q }}{% endfor %}{% endfor %}",
            "x",
        ),
        ("{% include 'other' %}", "x"),
        ("{{ q.fly() }}", "x"),
        ("{{ 'x' * 100000000000 }}", "x"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "x"),
        (huge.as_str(), "x"),
    ];
    let said = |(prompt, response): &(&str, &str)| {
        let head: String = prompt.chars().take(60).collect();
        match render(prompt, response, &row) {
            Ok((prompt, _)) => panic!("{head} gave {} bytes", prompt.len()),
            Err(error) => format!("{head:?}\n  {error}\n"),
        }
    };
    insta::assert_snapshot!(cases.iter().map(said).collect::<String>());
}
