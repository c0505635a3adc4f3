//! Row 52: templates that would loop, grow, climb or reach out. Each ends within 100 ms and 32 MiB.

use std::time::Duration;

use data::{SpecialTokens, Template};
use serde_json::json;
use testkit::Hostile;

use crate::{data, told};

/// Renders a prompt of this source, for a row with a text, a list and a number.
fn render(source: &str) -> Result<usize, String> {
    let row = json!({"q": "a question", "n": 7, "list": [[1, 2], [3]], "none": null});
    let row = row.as_object().expect("an object");
    let template = Template::jinja(source, "x").map_err(|error| told(&error))?;
    let rendered = template.render(row, &SpecialTokens::default());
    rendered
        .map(|(prompt, _)| prompt.len())
        .map_err(|error| told(&error))
}

/// Doubles `ns.x`, which starts as `first`, fifty times by `double`, then prints what `show` makes of it.
fn doubled(first: &str, double: &str, show: &str) -> String {
    format!(
        "{{% set ns = namespace(x={first}) %}}{{% for i in range(50) %}}{{% set ns.x = {double} %}}{{% endfor %}}{{{{ {show} }}}}"
    )
}

fn loops() -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![
        (
            "a loop of 10^9",
            text("{% for i in range(1000000000) %}{% endfor %}"),
        ),
        (
            "loops in loops",
            text(
                "{% for i in range(99999) %}{% for j in range(99999) %}{{ q }}{% endfor %}{% endfor %}",
            ),
        ),
        (
            "ten loops in loops",
            format!(
                "{}x{}",
                "{% for i in range(9999) %}".repeat(10),
                "{% endfor %}".repeat(10)
            ),
        ),
        (
            "a loop that captures",
            text("{% set x %}{% for i in range(99999) %}{{ q * 900 }}{% endfor %}{% endset %}"),
        ),
        (
            "a recursive loop",
            text("{% for x in list recursive %}{{ loop(list) }}{% endfor %}"),
        ),
        (
            "a macro that calls itself",
            text("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        ),
        (
            "macros that call each other",
            text(
                "{% macro f() %}{{ g() }}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
            ),
        ),
        (
            "a macro that forks",
            text(
                "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            ),
        ),
        (
            "a call block that calls itself",
            text("{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}"),
        ),
    ]
}

/// Text and lists that grow.
const GROWTH: &[(&str, &str)] = &[
    ("10^9 repeats", "{{ 'x' * 1000000000 }}"),
    ("10^8 repeats", "{{ 'x' * 100000000 }}"),
    (
        "6*10^7 repeats that are not printed",
        "{% set a = 'x' * 60000000 %}{{ a | length }}",
    ),
    (
        "2*10^7 repeats, twice",
        "{% set a = 'x' * 20000000 %}{% set b = 'y' * 20000000 %}{{ q }}{{ a | length + b | length }}",
    ),
    ("9 MB of text", "{{ 'x' * 9000000 }}"),
    (
        "text that doubles by a set block",
        "{% set ns = namespace(x='x') %}{% for i in range(50) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    ),
    (
        "lists in lists by repeats",
        "{{ ([[[1] * 9999] * 9999] * 9999) | tojson }}",
    ),
    (
        "a namespace in itself",
        "{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns | tojson }}",
    ),
    (
        "a namespace in its own list",
        "{% set ns = namespace(x=1) %}{% set ns.x = [ns] %}{{ ns.x | tojson }}",
    ),
    ("a list of 10^9", "{{ ([1] * 1000000000) | list | length }}"),
    (
        "replace of each letter by a text",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    ),
    (
        "the method replace of each letter",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    ),
    (
        "replace of nothing",
        "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    ),
    (
        "a joiner of 100 KB",
        "{{ range(99999) | join('x' * 100000) }}",
    ),
    (
        "the method join",
        "{{ ('x' * 100000).join(['a'] * 99999) }}",
    ),
    ("an indent of 10^9", "{{ 'a\nb' | indent(1000000000) }}"),
    (
        "lines, each indented",
        "{{ ('a\n' * 100000) | indent(100000) }}",
    ),
    ("a width of 10^9", "{{ '%1000000000d' | format(7) }}"),
    ("a precision of 10^9", "{{ '%.1000000000f' | format(7.5) }}"),
    (
        "the method's width of 10^9",
        "{{ '{:1000000000}'.format('a') }}",
    ),
    ("words", "{{ ('a ' * 5000000).split() | length }}"),
    (
        "words by a separator",
        "{{ ('a,' * 5000000).split(',') | length }}",
    ),
    ("lines", "{{ ('a\n' * 5000000).splitlines() | length }}"),
    ("letters", "{{ ('a' * 9000000) | list | length }}"),
    ("text turned round", "{{ ('a' * 15000000)[::-1] | length }}"),
    (
        "upper case, again and again",
        "{% set a = 'ß' * 4000000 %}{% for i in range(99) %}{% set b = a | upper %}{% endfor %}",
    ),
    (
        "10,000 fields, each of 1 MB",
        "{{ ('{0}' * 10000).format('x' * 1000000) }}",
    ),
    (
        "10,000 wide fields",
        "{{ ('{0:9999}' * 10000).format('x') }}",
    ),
    (
        "10,000 named fields of 1 MB",
        "{{ ('{a}' * 10000).format(a='x' * 1000000) }}",
    ),
    (
        "a width from an argument",
        "{{ '{:{}}'.format('a', 1000000000) }}",
    ),
    (
        "10,000 fields of printf, each of 1 MB",
        "{{ ('%(a)s' * 10000) | format(a='x' * 1000000) }}",
    ),
    (
        "a text in a thousand lists",
        "{{ ([['x' * 100000] * 1000] | list) ~ '' }}",
    ),
    (
        "slices of 10^9",
        "{{ [1] | slice(1000000000, 0) | list | length }}",
    ),
    ("a power", "{{ 9 ** 999999999 }}"),
    (
        "a sort of 10^5 texts",
        "{{ (range(99999) | map('string') | sort)[0] }}",
    ),
    (
        "a search for what is nearly there",
        "{{ ('a' * 500000 ~ 'b') in ('a' * 9000000) }}",
    ),
    (
        "a count of what is nearly there",
        "{{ ('a' * 9000000).count('a' * 500000 ~ 'b') }}",
    ),
];

/// As [`doubled`].
const DOUBLED: &[(&str, &str, &str, &str)] = &[
    ("text that doubles by ~", "'x'", "ns.x ~ ns.x", "ns.x"),
    ("text that doubles by +", "'x'", "ns.x + ns.x", "ns.x"),
    (
        "text that doubles by join",
        "'x'",
        "[ns.x, ns.x] | join",
        "ns.x",
    ),
    (
        "text that doubles by format",
        "'x'",
        "'%s%s' | format(ns.x, ns.x)",
        "ns.x",
    ),
    (
        "text that doubles by replace",
        "'x'",
        "'ab' | replace('a', ns.x) | replace('b', ns.x)",
        "ns.x",
    ),
    (
        "text that doubles by the method replace",
        "'x'",
        "'ab'.replace('a', ns.x).replace('b', ns.x)",
        "ns.x",
    ),
    (
        "text that doubles by the method join",
        "'x'",
        "ns.x.join(['a', 'b', 'c'])",
        "ns.x",
    ),
    (
        "text that doubles by the method format",
        "'x'",
        "'{}{}'.format(ns.x, ns.x)",
        "ns.x",
    ),
    ("a list that doubles", "[1]", "ns.x + ns.x", "ns.x | length"),
    (
        "a list that doubles by chain",
        "[1]",
        "ns.x | chain(ns.x) | list",
        "ns.x | length",
    ),
    (
        "lists of themselves, as JSON",
        "[1]",
        "[ns.x, ns.x]",
        "ns.x | tojson",
    ),
    (
        "lists of themselves, as text",
        "[1]",
        "[ns.x, ns.x]",
        "ns.x | string",
    ),
    (
        "lists of themselves, compared",
        "[1]",
        "[ns.x, ns.x]",
        "(ns.x == [ns.x[0], ns.x[1]]) | string",
    ),
    (
        "maps of themselves, as JSON",
        "{'a': 1}",
        "{'a': ns.x, 'b': ns.x}",
        "ns.x | tojson",
    ),
    (
        "maps of themselves, compared",
        "{'a': 1}",
        "{'a': ns.x, 'b': ns.x}",
        "(ns.x == {'a': ns.x.a, 'b': ns.x.b}) | string",
    ),
];

fn growth() -> Vec<(&'static str, String)> {
    let plain = GROWTH
        .iter()
        .map(|(name, source)| (*name, (*source).to_owned()));
    let doubled = DOUBLED
        .iter()
        .map(|(name, first, double, show)| (*name, doubled(first, double, show)));
    let made = vec![(
        "lists doubled forty times, one after the other",
        format!(
            "{}{{{{ a | length }}}}",
            "{% set a = (a or [1]) + (a or [1]) %}"
                .repeat(40)
                .replacen("(a or [1])", "[1]", 2)
        ),
    )];
    plain.chain(doubled).chain(made).collect()
}

fn reach() -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![
        ("include", text("{% include '/etc/passwd' %}")),
        ("import", text("{% import '/etc/passwd' as x %}{{ x }}")),
        (
            "from import",
            text("{% from 'os' import system %}{{ system('true') }}"),
        ),
        ("extends", text("{% extends '../../secret' %}")),
        (
            "a walk by dunders",
            text("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ),
        ("the globals of a method", text("{{ q.strip.__globals__ }}")),
        (
            "the globals of cycler",
            text("{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
        ),
        (
            "the globals of a macro",
            text("{% macro m() %}{% endmacro %}{{ m.__globals__['os'] }}"),
        ),
        (
            "the template itself",
            text("{{ self._TemplateReference__context }}"),
        ),
        (
            "a format that walks",
            text("{{ '{0.__class__}'.format(q) }}"),
        ),
        (
            "attr by a filter",
            text("{{ q | attr('__class__') | attr('__base__') }}"),
        ),
        ("the environment", text("{{ environ['HOME'] }}")),
        ("open", text("{{ open('/etc/passwd').read() }}")),
        (
            "raise_exception",
            text("{{ raise_exception('not this row') }}"),
        ),
    ]
}

fn shapes() -> Vec<(&'static str, String)> {
    vec![
        ("a template of 1 MB", "x".repeat(1 << 20)),
        (
            "10,000 brackets",
            format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000)),
        ),
        (
            "10,000 lists",
            format!("{{{{ {}{} }}}}", "[".repeat(10_000), "]".repeat(10_000)),
        ),
        (
            "10,000 nots",
            format!("{{{{ {}1 }}}}", "not ".repeat(10_000)),
        ),
        (
            "10,000 minuses",
            format!("{{{{ {}1 }}}}", "-".repeat(10_000)),
        ),
        (
            "5,000 ifs",
            format!(
                "{}x{}",
                "{% if n %}".repeat(5_000),
                "{% endif %}".repeat(5_000)
            ),
        ),
        (
            "5,000 elifs",
            format!(
                "{{% if none %}}{}{{% endif %}}",
                "{% elif none %}x".repeat(5_000)
            ),
        ),
        (
            "a chain of 20,000 filters",
            format!("{{{{ q{} }}}}", "|upper".repeat(20_000)),
        ),
        (
            "a chain of 60,000 dots",
            format!("{{{{ q{} }}}}", ".a".repeat(60_000)),
        ),
        (
            "a sum of 60,000",
            format!("{{{{ n{} }}}}", "+n".repeat(60_000)),
        ),
        (
            "an integer of 100,000 digits",
            format!("{{{{ {} }}}}", "9".repeat(100_000)),
        ),
        (
            "a line of 200,000 characters",
            format!("{{{{ q }}{}", "x".repeat(200_000)),
        ),
        (
            "an error behind 65,535 characters",
            format!("{}{{{{ ' }}}}", "x".repeat(65_530)),
        ),
        (
            "70,000 lines, then an error",
            format!("{}{{{{ ' }}}}", "\n".repeat(70_000)),
        ),
        (
            "a block that does not end",
            "{% for x in list %}".to_owned(),
        ),
        ("a comment that does not end", "{# ".to_owned()),
        ("an unknown tag", "{% exec 'id' %}".to_owned()),
    ]
}

#[test]
fn row_52_a_template_ends_soon_and_small() {
    let mut row = Hostile::new("row 52, templates")
        .within(Duration::from_millis(100))
        .allocating(32 << 20);
    for (name, source) in loops()
        .into_iter()
        .chain(growth())
        .chain(reach())
        .chain(shapes())
    {
        row.refused(name, source.len(), || render(&source));
    }
    insta::assert_snapshot!(row.finish(25));
}
