//! `repr(float)`.

/// The text of `repr(value)` in Python: the shortest digits that read back as `value`, with an exponent below
/// 1e-4 and from 1e16 on; `NaN`, `Infinity` and `-Infinity` as `json.dumps` spells them.
///
/// ```
/// assert_eq!(lowrank_formats::pyjson::float_repr(0.00005), "5e-05");
/// assert_eq!(lowrank_formats::pyjson::float_repr(1e16), "1e+16");
/// assert_eq!(lowrank_formats::pyjson::float_repr(3.0), "3.0");
/// ```
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = shortest(value);
    let (mantissa, exponent) = text.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes a decimal exponent");
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits = mantissa.replace('.', "");
    format!("{sign}{}", layout(&digits, exponent))
}

/// The shortest digits that read back as `value`, the nearest of them, as `{:e}` writes.
///
/// Rust and Python agree on how many digits, but where two such texts are equally near (1.20542144775390625 of
/// 17 digits), Rust takes the larger and Python the even one. The exact form of as many digits rounds to even.
fn shortest(value: f64) -> String {
    let shortest = format!("{value:e}");
    let digits = shortest
        .bytes()
        .take_while(|&byte| byte != b'e')
        .filter(u8::is_ascii_digit)
        .count();
    let even = format!("{value:.*e}", digits - 1);
    match even.parse() == Ok(value) {
        true => even,
        false => shortest,
    }
}

/// `digits` have the point after the first, times 10^exponent.
fn layout(digits: &str, exponent: i32) -> String {
    match exponent {
        -4..=-1 => format!(
            "0.{}{digits}",
            "0".repeat(exponent.unsigned_abs() as usize - 1)
        ),
        0..=15 => plain(digits, exponent as usize + 1),
        _ => {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{first}{point}{rest}e{sign}{:02}", exponent.unsigned_abs())
        }
    }
}

fn plain(digits: &str, whole: usize) -> String {
    if digits.len() <= whole {
        return format!("{digits}{}.0", "0".repeat(whole - digits.len()));
    }
    let (whole, fraction) = digits.split_at(whole);
    format!("{whole}.{fraction}")
}
