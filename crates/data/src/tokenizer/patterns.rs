//! Which regular expressions of a tokenizer file may run.
//!
//! The engine backtracks. It gives up after ten million steps, but by a panic; so patterns that can take exponential time
//! are refused before they run: a repeat without end over something that itself repeats without end or offers a choice,
//! and back-references. No published tokenizer known to us has one.

use super::build::QWEN2_PATTERN;

const MAX_PATTERN_BYTES: usize = 64 << 10;

/// What a group has been seen to hold.
#[derive(Clone, Copy, Default)]
struct Group {
    endless: bool,
    choice: bool,
}

/// Why a pattern must not run.
pub(super) fn check(pattern: &str) -> Result<(), &'static str> {
    if pattern == QWEN2_PATTERN {
        return Ok(());
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err("it is longer than 64 KiB");
    }
    let bytes = pattern.as_bytes();
    let (mut open, mut last, mut at) = (vec![Group::default()], Group::default(), 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                if matches!(bytes.get(at + 1), Some(b'1'..=b'9' | b'k' | b'g')) {
                    return Err("it refers back to a group");
                }
                (last, at) = (Group::default(), at + 2);
                continue;
            }
            b'[' => {
                (last, at) = (Group::default(), end_of_class(bytes, at));
                continue;
            }
            b'(' => open.push(Group::default()),
            b')' => {
                last = open.pop().unwrap_or_default();
                let outer = open.last_mut().ok_or("its brackets do not match")?;
                outer.endless |= last.endless;
                outer.choice |= last.choice;
            }
            b'|' => {
                if let Some(group) = open.last_mut() {
                    group.choice = true;
                }
                last = Group::default();
            }
            b'*' | b'+' | b'{' if is_endless(&bytes[at..]) => {
                // `a?+`, `a++`: possessive, which never gives back.
                if last.endless || last.choice {
                    return Err("an endless repeat of what repeats endlessly or is a choice");
                }
                if let Some(group) = open.last_mut() {
                    group.endless = true;
                }
                if matches!(bytes.get(at + 1), Some(b'+' | b'?')) {
                    at += 1;
                }
            }
            b'?' => {}
            _ => last = Group::default(),
        }
        at += 1;
    }
    Ok(())
}

/// Whether a quantifier has no upper bound: `*`, `+`, `{n,}`.
fn is_endless(rest: &[u8]) -> bool {
    if rest[0] != b'{' {
        return true;
    }
    let end = rest.iter().position(|&byte| byte == b'}');
    end.is_some_and(|end| end > 1 && rest[end - 1] == b',')
}

/// Where a character class ends; classes nest, and `]` first is literal.
fn end_of_class(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'[' => {
                depth += 1;
                at += usize::from(bytes.get(at + 1) == Some(&b'^'));
                at += usize::from(bytes.get(at + 1) == Some(&b']'));
            }
            b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn published_patterns_pass() {
        for pattern in [
            r" ?[^(\s|[.,!?…。，、।۔،])]+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"\d{1,3}(?=(?:\d{3})*\b)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}+|\s*+$",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn exponential_patterns_are_refused() {
        for pattern in [
            "(a+)+b",
            "(a*)*",
            "((a+)b?)+",
            "(a|a)*b",
            "(?:a+){2,}",
            "(?:x|y+)+",
            r"(a)\1",
            r"([^\]]+)*",
            "(a+)?+*",
        ] {
            assert!(check(pattern).is_err(), "{pattern}");
        }
    }
}
