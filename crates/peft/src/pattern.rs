//! Python's `re` as far as target patterns need it, in linear time.
//!
//! The `regex` crate runs in time linear in pattern and text, so a stranger's `adapter_config.json` cannot hang
//! us; the price is that lookaround and backreferences do not exist, which is said by name. What Python reads
//! differently (a `[` inside a class, `\Z`, possessive repeats) is translated or refused, never misread.

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use crate::error::PeftError;

/// Longest pattern taken.
const MAX_PATTERN_BYTES: usize = 64 << 10;
/// Memory that one compiled pattern may take.
const MAX_COMPILED_BYTES: usize = 4 << 20;
/// The same for one of many: thousands of them must still compile in seconds.
const MAX_SMALL_BYTES: usize = 256 << 10;
/// Memory that all patterns of one key may take together.
const MAX_SET_BYTES: usize = 64 << 20;
/// Brackets within brackets.
const MAX_NESTING: u32 = 100;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// `re.fullmatch(pattern, …)`.
    ///
    /// # Errors
    /// [`PeftError::Pattern`].
    pub(crate) fn full(key: &'static str, pattern: &str) -> Result<Self, PeftError> {
        Self::wrapped(key, pattern, r"\A(?:", r")\z")
    }

    /// `re.match(prefix + pattern + suffix, …)`, where both wraps are ours and well formed.
    ///
    /// # Errors
    /// [`PeftError::Pattern`].
    pub(crate) fn wrapped(
        key: &'static str,
        pattern: &str,
        prefix: &str,
        suffix: &str,
    ) -> Result<Self, PeftError> {
        let translated = checked(key, pattern, MAX_COMPILED_BYTES)?;
        let whole = format!("{prefix}{translated}{suffix}");
        let fault = |error: regex::Error| fault(key, pattern, explain(&error));
        compile(&whole, MAX_COMPILED_BYTES).map(Self).map_err(fault)
    }

    /// Whether it matches.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The text of a named group in the first match.
    pub(crate) fn group<'t>(&self, text: &'t str, name: &str) -> Option<&'t str> {
        let captures = self.0.captures(text)?;
        captures.name(name).map(|found| found.as_str())
    }
}

/// Several patterns, compiled as one machine under one memory limit.
#[derive(Debug, Clone)]
pub(crate) struct PatternSet(RegexSet);

impl PatternSet {
    /// As [`Pattern::wrapped`], each.
    ///
    /// # Errors
    /// [`PeftError::Pattern`].
    pub(crate) fn new<'p>(
        key: &'static str,
        patterns: impl IntoIterator<Item = &'p str>,
        prefix: &str,
        suffix: &str,
    ) -> Result<Self, PeftError> {
        let mut wrapped = Vec::new();
        for pattern in patterns {
            wrapped.push(checked(key, pattern, MAX_SMALL_BYTES)?);
        }
        let whole = wrapped.iter().map(|one| format!("{prefix}{one}{suffix}"));
        let compiled = RegexSetBuilder::new(whole)
            .size_limit(MAX_SET_BYTES)
            .dfa_size_limit(MAX_SET_BYTES)
            .nest_limit(MAX_NESTING)
            .build();
        compiled.map(Self).map_err(|error| PeftError::Pattern {
            key,
            pattern: format!("{} entries", wrapped.len()),
            why: explain(&error),
        })
    }

    /// Index of the first one that matches.
    pub(crate) fn first(&self, text: &str) -> Option<usize> {
        self.0.matches(text).iter().next()
    }

    /// Indices of all that match.
    pub(crate) fn all(&self, text: &str) -> Vec<usize> {
        self.0.matches(text).iter().collect()
    }
}

/// Whether an entry of a list looks as if a pattern was meant.
pub(crate) fn looks_like_pattern(entry: &str) -> bool {
    entry.contains([
        '*', '+', '?', '[', ']', '(', ')', '|', '^', '$', '\\', '{', '}',
    ])
}

/// The pattern in Rust's spelling, well formed by itself: `a)|(b` would be so only inside our brackets.
fn checked(key: &'static str, pattern: &str, max_bytes: usize) -> Result<String, PeftError> {
    if pattern.len() > MAX_PATTERN_BYTES {
        let why = format!("longer than {MAX_PATTERN_BYTES} bytes");
        return Err(fault(key, pattern, why));
    }
    let translated = translate(pattern).map_err(|why| fault(key, pattern, why.into()))?;
    match compile(&translated, max_bytes) {
        Ok(_) => Ok(translated),
        Err(error) => Err(fault(key, pattern, explain(&error))),
    }
}

fn fault(key: &'static str, pattern: &str, why: String) -> PeftError {
    let pattern = pattern.chars().take(200).collect();
    PeftError::Pattern { key, pattern, why }
}

fn compile(pattern: &str, max_bytes: usize) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(max_bytes)
        .dfa_size_limit(max_bytes)
        .nest_limit(MAX_NESTING)
        .build()
}

fn explain(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    let reason = last.trim().trim_start_matches("error: ");
    if reason.contains("look-around") || reason.contains("backreferences") {
        return format!("{reason} (Python has them; here patterns run in linear time)");
    }
    reason.to_owned()
}

/// Python's spelling in Rust's.
fn translate(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len());
    let mut letters = pattern.chars().peekable();
    let mut in_class = false;
    let mut class_start = false;
    let mut after_repeat = false;
    while let Some(letter) = letters.next() {
        let repeat_here = !in_class && matches!(letter, '*' | '+' | '?' | '}');
        if letter == '+' && after_repeat && !in_class {
            return Err("possessive repeats are not supported");
        }
        let starts_class = letter == '[' && !in_class;
        match letter {
            '\\' => escape(
                &mut out,
                letters.next().ok_or("it ends in a lone backslash")?,
            )?,
            '[' if in_class => out.push_str("\\["),
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(letter);
            }
            '-' if in_class && letters.peek() == Some(&'-') => {
                return Err("`--` inside a class is not supported");
            }
            ']' if in_class && !class_start => {
                in_class = false;
                out.push(letter);
            }
            // Python: a `]` right after the opening is a member.
            ']' if in_class => out.push_str("\\]"),
            _ => out.push(letter),
        }
        in_class |= starts_class;
        class_start = starts_class || (class_start && in_class && letter == '^');
        after_repeat = repeat_here && !after_repeat;
    }
    Ok(out)
}

fn escape(out: &mut String, letter: char) -> Result<(), &'static str> {
    match letter {
        'Z' => out.push_str("\\z"),
        // Word edges in Rust, plain signs in Python.
        '<' | '>' => out.push(letter),
        'p' | 'P' => return Err("`\\p` does not exist in Python"),
        _ => {
            out.push('\\');
            out.push(letter);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(pattern: &str, text: &str) -> bool {
        let compiled = Pattern::full("target_modules", pattern);
        compiled.unwrap_or_else(|e| panic!("{e}")).is_match(text)
    }

    #[test]
    fn a_pattern_must_match_the_whole_name() {
        assert!(full(
            r".*\.1.*query_key_value",
            "transformer.h.11.self_attention.query_key_value"
        ));
        assert!(!full(
            r".*\.1.*query_key_value",
            "transformer.h.1.query_key_value.x"
        ));
        assert!(!full("q_proj", "model.q_proj"));
        assert!(full("a|model.q_proj", "model.q_proj"));
        assert!(full("(?i).*Q_PROJ", "model.q_proj"));
    }

    #[test]
    fn classes_read_as_in_python() {
        assert!(full("[[a]x", "[x"));
        assert!(full("[]a]+", "]a]"));
        assert!(full("[^]a]", "b"));
        assert!(full("[a&&b]+", "a&b"));
        assert!(full(r"[\]x]+", "]x"));
        assert!(full(r"a\Z", "a"));
        assert!(full(r"\<a", "<a"));
    }

    #[test]
    fn what_only_python_can_do_is_refused_by_name() {
        for pattern in [
            r".*(?!mlp)\.q_proj",
            r"(?<=a)b",
            r"(a)\1",
            "a++",
            "a*+b",
            "a)|(b",
            "(a",
            "a\\",
        ] {
            let error = Pattern::full("target_modules", pattern).expect_err(pattern);
            assert!(error.to_string().contains("target_modules"), "{error}");
        }
        let error = Pattern::full("target_modules", "(?!x)a").unwrap_err();
        assert!(error.to_string().contains("look-around"), "{error}");
    }

    #[test]
    fn a_bomb_is_refused_or_harmless() {
        assert!(Pattern::full("target_modules", "((a{1000}){1000}){1000}").is_err());
        let nested = Pattern::full("target_modules", "(a*)*b").unwrap();
        assert!(!nested.is_match(&"a".repeat(100_000)));
    }
}
