//! Names that a user may have meant.

/// Of `candidates`, at most three that differ from `asked` by few letters or contain it, nearest first.
pub fn near_names<'a>(asked: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let limit = asked.chars().count() / 3 + 1;
    let mut scored: Vec<(usize, &str)> = candidates
        .into_iter()
        .map(|name| (distance(asked, name), name))
        .filter(|(score, name)| *score <= limit || contains_either_way(asked, name))
        .collect();
    scored.sort_unstable();
    scored.dedup();
    scored.truncate(3);
    scored
        .into_iter()
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn contains_either_way(asked: &str, name: &str) -> bool {
    asked.len() >= 3 && name.len() >= 3 && (name.contains(asked) || asked.contains(name))
}

/// Edits (insert, delete, replace) that turn one word into the other, letter case ignored.
pub fn distance(left: &str, right: &str) -> usize {
    // Long inputs are nobody's typing slip, and the table would be quadratic in them.
    let letters = |text: &str| -> Vec<char> { text.to_lowercase().chars().take(128).collect() };
    let (left, right) = (letters(left), letters(right));
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (slot, b) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *slot;
            last = replaced.min(last + 1).min(diagonal + 1);
            *slot = last;
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("Bloom", "bloom"), 0);
    }

    #[test]
    fn near_names_finds_slips_and_parts() {
        let names = ["query_key_value", "dense", "dense_h_to_4h"];
        assert_eq!(near_names("query_key_values", names), ["query_key_value"]);
        assert_eq!(near_names("h_to_4h", names), ["dense_h_to_4h"]);
        assert!(near_names("zzzz", names).is_empty());
    }
}
