//! Methods of texts: Python's idea of whitespace, and what `format` may make. minijinja's fuel pays for the text of a
//! format when it is there, which is too late.

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};

use crate::python_text::{is_space, strip};

/// Digits of a width or precision.
const MAX_DIGITS: usize = 4;
/// What a number may come to as text.
const NUMBER_BYTES: usize = 512;
/// Bytes that a unit of minijinja's fuel pays for.
const BYTES_OF_FUEL: usize = 64;
/// A method of which the text made is not bounded by fuel: it is paid for first.
const FORMAT: &str = "format";

/// The callback for methods that minijinja itself does not know.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if let Some(result) = space_method(state, text, method, args)? {
            return Ok(result);
        }
        if method == FORMAT {
            pay(state, text, fields(text), args)?;
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// The methods that depend on what Python takes for whitespace, which is a little more than Rust does.
fn space_method(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    if !args.is_empty() {
        return Ok(None);
    }
    Ok(Some(match method {
        "strip" => strip(text).into(),
        "lstrip" => text.trim_start_matches(is_space).into(),
        "rstrip" => text.trim_end_matches(is_space).into(),
        "split" => {
            let words = || text.split(is_space).filter(|word| !word.is_empty());
            state.consume_fuel(words().count() as u64)?;
            words().collect()
        }
        _ => return Ok(None),
    }))
}

/// The filter `format`, which is Python's `%`.
pub(super) fn printf(
    state: &mut State<'_, '_>,
    format: &Value,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let text = format.as_str().unwrap_or_default();
    let specs = text.split('%').skip(1).map(|rest| {
        let named = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let rest = named.map_or(rest, |(_, rest)| rest);
        let end = rest.find(|c: char| !"-+ #.*0123456789".contains(c));
        rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
    });
    let values: Vec<Value> = args.iter().map(|value| (**value).clone()).collect();
    pay(state, text, specs, &values)?;
    minijinja::filters::format(state, format, args)
}

/// What stands between the brackets of `text.format(…)`.
fn fields(text: &str) -> impl Iterator<Item = &str> {
    text.split('{')
        .skip(1)
        .map(|rest| rest.split('}').next().unwrap_or_default())
}

/// Takes the fuel for the most that a format of these fields can give.
fn pay<'t>(
    state: &State<'_, '_>,
    text: &str,
    specs: impl Iterator<Item = &'t str>,
    args: &[Value],
) -> Result<(), Error> {
    let mut longest = NUMBER_BYTES;
    for value in args {
        longest = longest.max(value_bytes(value)?);
    }
    let mut bytes = text.len();
    for spec in specs {
        if spec.contains('*') || spec.ends_with(':') && text.contains("{}") {
            return Err(refused("format with a width from its arguments"));
        }
        bytes = bytes.saturating_add(longest);
        for number in spec.split(|c: char| !c.is_ascii_digit()) {
            if number.len() > MAX_DIGITS {
                return Err(refused("format with a width or precision above 9999"));
            }
            bytes = bytes.saturating_add(number.parse().unwrap_or_default());
        }
    }
    state.consume_fuel((bytes / BYTES_OF_FUEL) as u64)
}

fn value_bytes(value: &Value) -> Result<usize, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.len());
    }
    match value.kind() {
        ValueKind::Map if value.is_kwargs() => {
            let named = Kwargs::try_from(value.clone())?;
            let mut sizes = named.args().map(|name| value_bytes(&named.peek(name)?));
            sizes.try_fold(0, |longest, size| Ok(size?.max(longest)))
        }
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
            Err(refused("format of a list or a map"))
        }
        _ => Ok(NUMBER_BYTES),
    }
}

fn refused(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("{what} is not supported"),
    )
}
