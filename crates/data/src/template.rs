//! Rows to prompt and response text.
//!
//! The default is the Alpaca form of the LoRA tutorial; any other is a pair of Jinja strings of the user's run file. They
//! have fuel, size limits, no files, no includes. Fuel pays for text in between too (64 bytes each); lists and maps are
//! measured (see `metered`).

mod metered;
mod methods;
mod shape;

use std::collections::BTreeSet;

use formats::rows::Row;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::python_text::strip;
use crate::{DataError, SpecialTokens};

pub use shape::{MAX_BRANCHES, MAX_LINE_BYTES, MAX_TAG_TOKENS};

/// The longest template source that is read.
pub const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// The longest text that a template may render.
pub const MAX_RENDERED_BYTES: usize = 8 << 20;
/// Jinja instructions that one rendering may run, and 64 bytes of text that it may make for each: 12.8 MB in all, of
/// which minijinja holds two copies at a time. Real templates run some thousands.
pub const FUEL: u64 = 200_000;

const PROMPT: &str = "prompt template";
const RESPONSE: &str = "response template";
/// Names that a template finds besides the columns.
const SPECIALS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// How a row becomes a prompt and a response.
pub struct Template {
    kind: Kind,
    fingerprint: String,
}

enum Kind {
    Alpaca,
    Jinja {
        environment: Box<Environment<'static>>,
        appends_eos: bool,
    },
}

impl Template {
    /// The tutorial's: `"\n".join(["Human: " + instruction, input]).strip() + "\n\nAssistant: "`, and as response the output
    /// with the end-of-sequence token.
    ///
    /// Columns `instruction`, `input` and `output` must be there and hold text. A null `input` counts as empty (JSON rows
    /// may leave it out); a null instruction or output is an error, as it is in Python.
    pub fn alpaca() -> Self {
        Self {
            kind: Kind::Alpaca,
            fingerprint: fingerprint(&["alpaca"]),
        }
    }

    /// Two Jinja strings; each column is a variable, and `eos_token`, `bos_token`, `pad_token`, `unk_token` are too.
    ///
    /// `trim_blocks` and `lstrip_blocks` are on, as for chat templates; a newline at the end of a template is kept, as in a
    /// Python f-string. The end-of-sequence token follows the response,
    /// unless the response template itself names `eos_token`. A column that is not there is an error, and so is printing
    /// null, a list or an object (Python would print `None` or its own notation, which is never meant).
    ///
    /// # Errors
    /// [`DataError::TemplateSyntax`], naming template and line.
    pub fn jinja(prompt: &str, response: &str) -> Result<Self, DataError> {
        let mut environment = environment();
        for (name, source) in [(PROMPT, prompt), (RESPONSE, response)] {
            if source.len() > MAX_TEMPLATE_BYTES {
                let why = format!("{} bytes, the most is {MAX_TEMPLATE_BYTES}", source.len());
                return Err(DataError::TemplateSyntax {
                    template: name.into(),
                    line: None,
                    why,
                });
            }
            shape::check(source, delimiters()).map_err(|(line, why)| {
                DataError::TemplateSyntax {
                    template: name.into(),
                    line: Some(line),
                    why,
                }
            })?;
            environment
                .add_template_owned(name, source.to_owned())
                .map_err(|error| syntax(name, &error))?;
        }
        let response_names = environment
            .get_template(RESPONSE)
            .map_err(|error| syntax(RESPONSE, &error))?;
        let appends_eos = !response_names
            .undeclared_variables(false)
            .contains("eos_token");
        let kind = Kind::Jinja {
            environment: Box::new(environment),
            appends_eos,
        };
        Ok(Self {
            kind,
            // Jinja itself drops a last newline, as an earlier build did: its rows must not pass for these.
            fingerprint: fingerprint(&["jinja, last newline kept", prompt, response]),
        })
    }

    /// SHA-256 (hex) of what decides the text of a row.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether the end-of-sequence token is put after the response by itself.
    pub fn appends_eos(&self) -> bool {
        match &self.kind {
            Kind::Alpaca => true,
            Kind::Jinja { appends_eos, .. } => *appends_eos,
        }
    }

    /// Prompt and response of one row.
    ///
    /// # Errors
    /// [`DataError::MissingColumns`], [`DataError::NotText`] or [`DataError::TemplateRender`].
    pub fn render(&self, row: &Row, tokens: &SpecialTokens) -> Result<(String, String), DataError> {
        let (prompt, mut response) = match &self.kind {
            Kind::Alpaca => alpaca(row)?,
            Kind::Jinja { environment, .. } => (
                render(environment, PROMPT, row, tokens)?,
                render(environment, RESPONSE, row, tokens)?,
            ),
        };
        if self.appends_eos() {
            response.push_str(tokens.eos.as_deref().unwrap_or_default());
        }
        Ok((prompt, response))
    }

    /// The prompt alone, for a row that has no answer yet (its output column may be missing).
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_prompt(&self, row: &Row, tokens: &SpecialTokens) -> Result<String, DataError> {
        match &self.kind {
            Kind::Alpaca => alpaca_prompt(row),
            Kind::Jinja { environment, .. } => render(environment, PROMPT, row, tokens),
        }
    }
}

fn fingerprint(parts: &[&str]) -> String {
    let mut hash = Sha256::new_with_prefix(b"lowrank template 1\n");
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn alpaca(row: &Row) -> Result<(String, String), DataError> {
    let wanted = ["instruction", "input", "output"];
    let missing: Vec<_> = wanted
        .iter()
        .filter(|&&name| !row.contains_key(name))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        return Err(missing_columns("the default template", missing, row));
    }
    Ok((alpaca_prompt(row)?, text(row, "output")?.to_owned()))
}

fn alpaca_prompt(row: &Row) -> Result<String, DataError> {
    let instruction = text(row, "instruction")?;
    let input = match row.get("input") {
        None | Some(Value::Null) => "",
        Some(_) => text(row, "input")?,
    };
    Ok(format!(
        "{}\n\nAssistant: ",
        strip(&format!("Human: {instruction}\n{input}"))
    ))
}

fn text<'r>(row: &'r Row, column: &str) -> Result<&'r str, DataError> {
    match row.get(column) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(DataError::NotText {
            column: column.to_owned(),
            found: kind_of(other).to_owned(),
        }),
        None => Err(missing_columns(
            "the default template",
            vec![column.to_owned()],
            row,
        )),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn missing_columns(template: &str, missing: Vec<String>, row: &Row) -> DataError {
    let columns = row.keys().cloned().collect();
    DataError::MissingColumns {
        template: template.to_owned(),
        missing,
        columns,
    }
}

fn delimiters() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build();
    syntax.expect("the delimiters are Jinja's own")
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(delimiters());
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(100);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("format", methods::printf);
    environment.add_filter(
        "trim",
        |text: &str, characters: Option<&str>| match characters {
            Some(characters) => text.trim_matches(|c| characters.contains(c)).to_owned(),
            None => strip(text).to_owned(),
        },
    );
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let what = format!("{} is printed, which is never meant as text", value.kind());
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        }
        ValueKind::Bool => out
            .write_str(if value.is_true() { "True" } else { "False" })
            .map_err(Into::into),
        _ => minijinja::escape_formatter(out, state, value),
    });
    metered::add_to(&mut environment);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    environment
}

fn syntax(template: &str, error: &minijinja::Error) -> DataError {
    DataError::TemplateSyntax {
        template: template.to_owned(),
        line: error.line(),
        why: words(error),
    }
}

fn words(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn render(
    environment: &Environment<'_>,
    name: &str,
    row: &Row,
    tokens: &SpecialTokens,
) -> Result<String, DataError> {
    let mut context = row.clone();
    let specials = [&tokens.bos, &tokens.eos, &tokens.pad, &tokens.unk];
    for (name, token) in SPECIALS.iter().zip(specials) {
        if let (Some(token), false) = (token, context.contains_key(*name)) {
            context.insert((*name).to_owned(), Value::String(token.clone()));
        }
    }
    let text = metered::render(environment, name, jinja_map(&context));
    let text = text.map_err(|error| failed(environment, name, &context, row, &error))?;
    if text.len() > MAX_RENDERED_BYTES {
        return Err(DataError::TemplateRender {
            template: name.to_owned(),
            line: None,
            why: format!("the text is longer than {MAX_RENDERED_BYTES} bytes"),
        });
    }
    Ok(text)
}

/// Not by serde: with `arbitrary_precision` a number would arrive as a map with a private key.
fn jinja_value(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(value) => minijinja::Value::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => minijinja::Value::from(integer),
            (_, Some(integer)) => minijinja::Value::from(integer),
            _ => minijinja::Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => minijinja::Value::from(text.as_str()),
        Value::Array(items) => items.iter().map(jinja_value).collect(),
        Value::Object(map) => jinja_map(map),
    }
}

fn jinja_map(map: &Row) -> minijinja::Value {
    minijinja::Value::from_pairs(
        map.iter()
            .map(|(name, value)| (name.as_str(), jinja_value(value))),
    )
}

/// An undefined name that is no column is a missing column; what is undefined within a column is not.
fn failed(
    environment: &Environment<'_>,
    name: &str,
    context: &Row,
    row: &Row,
    error: &minijinja::Error,
) -> DataError {
    if error.kind() == ErrorKind::UndefinedError {
        let wanted = environment
            .get_template(name)
            .map(|template| template.undeclared_variables(false));
        let known = |name: &String| {
            context.contains_key(name) || environment.globals().any(|(global, _)| global == name)
        };
        let missing: BTreeSet<String> = wanted
            .unwrap_or_default()
            .into_iter()
            .filter(|name| !known(name))
            .collect();
        if !missing.is_empty() {
            return missing_columns(&format!("the {name}"), missing.into_iter().collect(), row);
        }
    }
    DataError::TemplateRender {
        template: name.to_owned(),
        line: error.line(),
        why: words(error),
    }
}
