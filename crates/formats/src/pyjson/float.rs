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
    // Rust's `{:e}` has the same shortest digits as Python's repr; only the layout differs.
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes a decimal exponent");
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits = mantissa.replace('.', "");
    format!("{sign}{}", layout(&digits, exponent))
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
