//! The table of limits, as far as this crate keeps them: each takes what is just below, and refuses what is just above.

use data::template::{
    FUEL, MAX_BRANCHES, MAX_LINE_BYTES, MAX_RENDERED_BYTES, MAX_TAG_TOKENS, MAX_TEMPLATE_BYTES,
};
use data::{SpecialTokens, Template};
use serde_json::json;
use testkit::Hostile;

use crate::{data, told};

/// The same source with a bit more or less in it.
fn both(row: &mut Hostile, limit: &str, size: usize, read: impl Fn(bool) -> Result<usize, String>) {
    row.harmless(&format!("{limit}, below"), size, || {
        read(false).map(|_| "taken")
    });
    row.refused(&format!("{limit}, above"), size, || read(true));
}

fn render(source: &str, q: &str) -> Result<usize, String> {
    let row = json!({"q": q, "n": 7, "none": null});
    let template = Template::jinja(source, "x").map_err(|error| told(&error))?;
    let rendered = template.render(
        row.as_object().expect("an object"),
        &SpecialTokens::default(),
    );
    rendered
        .map(|(prompt, _)| prompt.len())
        .map_err(|error| told(&error))
}

#[test]
fn templates_are_taken_up_to_their_limits() {
    let mut row = Hostile::new("limits, templates");
    both(
        &mut row,
        "size of a template",
        MAX_TEMPLATE_BYTES,
        |above| {
            let line = "x".repeat(MAX_LINE_BYTES - 1) + "\n";
            let mut source = line.repeat(MAX_TEMPLATE_BYTES.div_ceil(MAX_LINE_BYTES));
            source.truncate(MAX_TEMPLATE_BYTES + usize::from(above));
            render(&source, "a")
        },
    );
    both(&mut row, "a line", MAX_LINE_BYTES, |above| {
        render(&"x".repeat(MAX_LINE_BYTES + usize::from(above)), "a")
    });
    both(&mut row, "a tag", 4 * MAX_TAG_TOKENS, |above| {
        // `{{ n`, then `+n` each of two, then `}}`.
        let sum = "+n".repeat((MAX_TAG_TOKENS - 3) / 2 + usize::from(above));
        render(&format!("{{{{ n{sum} }}}}"), "a")
    });
    both(&mut row, "branches", 32 * MAX_BRANCHES, |above| {
        let branches = "{% elif none %}\n".repeat(MAX_BRANCHES + usize::from(above));
        render(&format!("{{% if none %}}{branches}{{% endif %}}"), "a")
    });
    both(
        &mut row,
        "text of a rendering",
        MAX_RENDERED_BYTES,
        |above| {
            render(
                "{{ q }}",
                &"x".repeat(MAX_RENDERED_BYTES + usize::from(above)),
            )
        },
    );
    both(&mut row, "fuel", 64, |above| {
        // A turn of the inner loop is two instructions at the least.
        let turns = FUEL / if above { 2 } else { 8 } / 100;
        render(
            &format!(
                "{{% for i in range(100) %}}{{% for j in range({turns}) %}}{{% endfor %}}{{% endfor %}}"
            ),
            "a",
        )
    });
    both(&mut row, "macros within macros", 64, |above| {
        let depth = if above { 100 } else { 15 };
        render(
            &format!(
                "{{% macro f(n) %}}{{% if n %}}{{{{ f(n - 1) }}}}{{% endif %}}{{% endmacro %}}{{{{ f({depth}) }}}}"
            ),
            "a",
        )
    });
    both(&mut row, "a list", 64, |above| {
        render(
            &format!("{{{{ range({}) | length }}}}", 32_767 + u32::from(above)),
            "a",
        )
    });
    insta::assert_snapshot!(row.finish(16));
}
