//! Which regular expressions of a tokenizer file may run.
//!
//! The engine backtracks, and gives up after ten million steps, but by a panic. So a pattern runs when its steps are
//! bounded by what it is made of: of each alternative at most one repeat is endless, the ways in which its other repeats
//! can be taken are few, and what is repeated is itself always of one form. The alternatives of published patterns that
//! have more (`\s*[\r\n]+`) are known by their text: what their two repeats take does not overlap for long. Ten kilobytes
//! of the worst text then take a second or two.

use super::build::QWEN2_PATTERN;

const MAX_PATTERN_BYTES: usize = 64 << 10;
/// Brackets within brackets.
const MAX_NESTING: usize = 32;
/// A repeat of more than this counts as endless.
const MANY: usize = 64;
/// Ways to take the repeats and choices of one alternative without an endless repeat.
const MAX_WAYS: usize = 64;
/// The same beside an endless repeat: each is a walk over the rest of the text.
const MAX_WAYS_ENDLESS: usize = 2;
/// Alternatives in which something must follow an endless repeat: where it does not, each start is a walk.
const MAX_TAILS: usize = 1;

/// Alternatives beyond these limits, of GPT-2, Llama 3, Qwen 2, o200k, Tekken, DeepSeek and their kin.
const KNOWN: [&str; 11] = [
    r"\s+(?!\S)",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
];

/// Why a pattern must not run.
pub(super) fn check(pattern: &str) -> Result<(), &'static str> {
    if pattern == QWEN2_PATTERN {
        return Ok(());
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err("it is longer than 64 KiB");
    }
    let mut scan = Scan {
        pattern,
        at: 0,
        depth: 0,
    };
    let cost = scan.alternatives()?;
    if cost.tails > MAX_TAILS {
        return Err("in several of its alternatives something must follow an endless repeat");
    }
    match scan.peek() {
        None => Ok(()),
        Some(_) => Err("its brackets do not match"),
    }
}

/// What of a pattern can be taken in how many ways.
#[derive(Clone, Copy)]
struct Cost {
    endless: usize,
    ways: usize,
    tails: usize,
}

const PLAIN: Cost = Cost {
    endless: 0,
    ways: 1,
    tails: 0,
};

/// How often a part may be taken.
struct Repeat {
    least: usize,
    most: usize,
}

struct Scan<'p> {
    pattern: &'p str,
    at: usize,
    depth: usize,
}

impl Scan<'_> {
    fn rest(&self) -> &[u8] {
        self.pattern.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    /// Up to the end or to a closing bracket; a choice is as costly as all of its branches.
    fn alternatives(&mut self) -> Result<Cost, &'static str> {
        let mut sum = Cost { ways: 0, ..PLAIN };
        loop {
            let start = self.at;
            let cost = self.alternative()?;
            let known = self
                .pattern
                .get(start..self.at)
                .is_some_and(|text| KNOWN.contains(&text));
            let most = match cost.endless {
                0 => MAX_WAYS,
                _ => MAX_WAYS_ENDLESS,
            };
            if !known && (cost.endless > 1 || cost.ways > most) {
                return Err("its repeats can share a text in too many ways");
            }
            sum.endless = sum.endless.max(cost.endless);
            sum.ways = sum.ways.saturating_add(cost.ways);
            sum.tails += if known { 0 } else { cost.tails };
            match self.peek() {
                Some(b'|') => self.at += 1,
                _ => return Ok(sum),
            }
        }
    }

    fn alternative(&mut self) -> Result<Cost, &'static str> {
        let mut sum = PLAIN;
        while let Some(byte) = self.peek() {
            if matches!(byte, b'|' | b')') {
                break;
            }
            let (mut cost, mut least) = (self.part()?, 1);
            while let Some(repeat) = self.repeat() {
                cost = repeated(cost, &repeat)?;
                least = repeat.least.min(least);
            }
            sum.tails += cost.tails + usize::from(sum.endless > 0 && least > 0);
            sum.endless += cost.endless;
            sum.ways = sum.ways.saturating_mul(cost.ways);
        }
        Ok(sum)
    }

    /// A letter, a class or a group.
    fn part(&mut self) -> Result<Cost, &'static str> {
        match self.peek() {
            Some(b'\\') => {
                if matches!(self.rest().get(1), Some(b'1'..=b'9' | b'k' | b'g')) {
                    return Err("it refers back to a group");
                }
                self.at += 2;
                // `\p{L}`, `\x{41}`.
                if self.peek() == Some(b'{') {
                    let end = self.rest().iter().position(|&byte| byte == b'}');
                    self.at += end.map_or(0, |end| end + 1);
                }
                Ok(PLAIN)
            }
            Some(b'[') => {
                self.at = end_of_class(self.pattern.as_bytes(), self.at);
                Ok(PLAIN)
            }
            Some(b'(') => self.group(),
            _ => {
                self.at += 1;
                Ok(PLAIN)
            }
        }
    }

    fn group(&mut self) -> Result<Cost, &'static str> {
        if self.depth == MAX_NESTING {
            return Err("its brackets are nested more than 32 deep");
        }
        self.at += 1;
        if self.rest().starts_with(b"?") {
            // The kind of group, as `?:`, `?i:`, `?!`, `?<=`.
            let end = self.rest().iter().position(|byte| b":!=>)".contains(byte));
            let end = end.ok_or("its brackets do not match")?;
            self.at += end + usize::from(self.rest().get(end) != Some(&b')'));
        }
        self.depth += 1;
        let cost = self.alternatives()?;
        self.depth -= 1;
        match self.peek() {
            Some(b')') => self.at += 1,
            _ => return Err("its brackets do not match"),
        }
        Ok(cost)
    }

    /// `*`, `+`, `?`, `{n}`, `{n,}`, `{,m}`, `{n,m}`.
    fn repeat(&mut self) -> Option<Repeat> {
        let (least, most, length) = match self.peek()? {
            b'*' => (0, usize::MAX, 1),
            b'+' => (1, usize::MAX, 1),
            b'?' => (0, 1, 1),
            b'{' => {
                let end = self.rest().iter().position(|&byte| byte == b'}')?;
                let text = self.pattern.get(self.at + 1..self.at + end)?;
                let (least, most) = text.split_once(',').unwrap_or((text, text));
                let number = |text: &str, none| {
                    if text.is_empty() {
                        Some(none)
                    } else {
                        text.parse().ok()
                    }
                };
                (number(least, 0)?, number(most, usize::MAX)?, end + 1)
            }
            _ => return None,
        };
        self.at += length;
        // `a+?` is lazy and `a++` possessive: one repeat, not two. `a{1}+` is two in this engine.
        if length == 1 && matches!(self.peek(), Some(b'?' | b'+')) {
            self.at += 1;
        }
        Some(Repeat { least, most })
    }
}

fn repeated(part: Cost, repeat: &Repeat) -> Result<Cost, &'static str> {
    let varies = part.endless > 0 || part.ways > 1;
    if varies && repeat.most > 1 {
        return Err("it repeats what itself repeats or is a choice");
    }
    let ways = repeat.most.saturating_sub(repeat.least).saturating_add(1);
    Ok(match ways > MANY {
        true => Cost {
            endless: part.endless + 1,
            ..part
        },
        false => Cost {
            ways: part.ways.saturating_mul(ways),
            ..part
        },
    })
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
            r"\p{N}{1,3}",
            r"[一-龥぀-ゟ゠-ヿ]+",
            r#"[!"\#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#,
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[0-9][0-9][0-9]",
            "[ab]?a+x",
            r"\s",
            " ",
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
            "a*a*b",
            "a*a*a*a*a*b",
            "(?:a{1,60}){1,60}b",
            "a{1,1000}a{1,1000}b",
            &"a?".repeat(30),
            "(?=a*)a*",
            "(?:a|b|c){2}(?:a|b|c){2}",
            "[ab]?a+(?:x|y|z)",
            "a+b|a+c",
            &"(".repeat(100),
            "a)",
            "(a",
            "(?<!a*)b*",
        ] {
            assert!(check(pattern).is_err(), "{pattern}");
        }
    }
}
