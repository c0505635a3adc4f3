//! Python's idea of whitespace.

/// `str.isspace` of one character: Unicode's whitespace and the four separators U+001C to U+001F.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::strip;

    /// Every character of which Python 3.11 says `chr(i).isspace()`.
    const PYTHON_SPACES: &str = "\t\n\u{b}\u{c}\r\u{1c}\u{1d}\u{1e}\u{1f} \u{85}\u{a0}\u{1680}\u{2000}\u{2001}\u{2002}\
        \u{2003}\u{2004}\u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}";

    #[test]
    fn strips_what_python_strips_and_nothing_else() {
        for c in '\0'..=char::MAX {
            let text = format!("{c}a{c}");
            let want = if PYTHON_SPACES.contains(c) {
                "a"
            } else {
                &text
            };
            assert_eq!(strip(&text), want, "U+{:04X}", u32::from(c));
        }
        assert_eq!(strip(" \u{3000}a b\u{200b}\u{2029}"), "a b\u{200b}");
    }
}
