//! Names that a user may have meant.

/// Letters that are compared: what is longer is nobody's typing slip, and the table would be quadratic in it.
const LETTERS: usize = 128;

/// The one of `candidates` that `asked` is most likely a misspelling of.
pub fn nearest_name<'a>(
    asked: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let scored = candidates
        .into_iter()
        .map(|name| (distance(asked, name), name));
    let slips = scored.filter(|&(score, name)| is_slip(score, asked, name));
    slips.min().map(|(_, name)| name)
}

/// Of `candidates`, at most three that `asked` is a misspelling or a part of, or that are part of it, nearest first.
pub fn near_names<'a>(asked: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(usize, &str)> = candidates
        .into_iter()
        .map(|name| (distance(asked, name), name))
        .filter(|&(score, name)| is_slip(score, asked, name) || contains_either_way(asked, name))
        .collect();
    scored.sort_unstable();
    scored.dedup();
    scored.truncate(3);
    scored
        .into_iter()
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// About a third of the letters differ at most: two letters swapped count twice, and that must pass in a word of five.
fn is_slip(score: usize, asked: &str, name: &str) -> bool {
    score * 3 <= asked.len().max(name.len()).min(LETTERS) + 1
}

fn contains_either_way(asked: &str, name: &str) -> bool {
    asked.len() >= 3 && name.len() >= 3 && (name.contains(asked) || asked.contains(name))
}

/// Levenshtein's distance: edits (insert, delete, replace) that turn one word into the other, letter case ignored.
fn distance(left: &str, right: &str) -> usize {
    let letters = |text: &str| -> Vec<char> { text.to_lowercase().chars().take(LETTERS).collect() };
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

    #[test]
    fn a_wholly_different_name_has_no_nearest() {
        let names = ["learning_rate", "seed", "weight_decay"];
        assert_eq!(nearest_name("xyzzy", names), None);
        assert_eq!(nearest_name("sede", names), None);
        assert_eq!(nearest_name("weight_deacy", names), Some("weight_decay"));
        assert_eq!(nearest_name("SEED", names), Some("seed"));
        assert_eq!(nearest_name(&"x".repeat(10_000), names), None);
    }

    #[test]
    fn one_name_and_a_list_of_them_draw_the_line_alike() {
        for (asked, name) in [("sede", "seed"), ("lr", "r"), ("weight", "wieght")] {
            let nearest = nearest_name(asked, [name]);
            assert_eq!(
                near_names(asked, [name]).first().map(String::as_str),
                nearest
            );
        }
    }
}
