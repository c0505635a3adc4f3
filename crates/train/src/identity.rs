//! What a checkpoint belongs to, in the parts that are compared: what differs is told by its name, and can be let differ
//! by it.
//!
//! A manifest holds the adapter's configuration and what a data set is made of as one text each.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::ChangedSetting;

/// The adapter's configuration, as [`peft::planned_config`] spells it.
pub const LORA: &str = "lora";
/// Digests of rows, template and tokenizer, then `max_length N`: see `data::encoded::fingerprint`.
pub const DATASET: &str = "dataset";
/// The same of the rows that are evaluated.
pub const EVAL_DATASET: &str = "eval_dataset";

/// Everything that differs.
pub(crate) fn differing(
    before: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Vec<ChangedSetting> {
    let (before, now) = (parts(before), parts(now));
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let difference = |name: &String| {
        let (was, is) = (before.get(name), now.get(name));
        (was != is).then(|| ChangedSetting {
            name: name.clone(),
            was: was.cloned().unwrap_or_default(),
            is: is.cloned().unwrap_or_default(),
        })
    };
    names.into_iter().filter_map(difference).collect()
}

/// Whether a name that somebody gave means the part: its own, that of its group, or its own without the group's.
pub(crate) fn means(given: &str, part: &str) -> bool {
    let group = part.split_once('.').map(|(group, own)| [group, own]);
    given == part || group.is_some_and(|names| names.contains(&given))
}

fn parts(identity: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let split = identity.iter().flat_map(|(name, text)| {
        let parts = match name.as_str() {
            LORA => peft::comparable_fields(text),
            DATASET | EVAL_DATASET => dataset(text),
            _ => None,
        };
        match parts {
            Some(parts) => parts
                .into_iter()
                .map(|(part, value)| (format!("{name}.{part}"), value))
                .collect(),
            None => vec![(name.clone(), text.clone())],
        }
    });
    split.collect()
}

fn dataset(text: &str) -> Option<Vec<(String, String)>> {
    let words: Vec<&str> = text.split(' ').collect();
    let [rows, template, tokenizer, "max_length", max_length] = words[..] else {
        return None;
    };
    let parts = [
        ("rows", rows),
        ("template", template),
        ("tokenizer", tokenizer),
        ("max_length", max_length),
    ];
    Some(
        parts
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(lora: &str, dataset: &str) -> BTreeMap<String, String> {
        let entries = [(LORA, lora), (DATASET, dataset), ("seed", "42")];
        entries
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into()
    }

    fn told(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
        let told = differing(before, now);
        told.iter().map(ToString::to_string).collect()
    }

    const CONFIG: &str = r#"{"r": 8, "lora_alpha": 8, "target_modules": ["q", "v"],
        "base_model_name_or_path": "M", "peft_version": "0.21.2"}"#;

    #[test]
    fn only_what_differs_is_told_and_by_its_name() {
        let before = identity(CONFIG, "a b c max_length 256");
        let now = identity(&CONFIG.replace("8,", "4,"), "a b d max_length 128");
        let want = [
            "`dataset.max_length` was 256, is 128",
            "`dataset.tokenizer` was c, is d",
            "`lora.lora_alpha` was 8, is 4",
            "`lora.r` was 8, is 4",
        ];
        assert_eq!(told(&before, &now), want);
        let other = identity(&CONFIG.replace("\"q\", ", ""), "a b c max_length 256");
        let want = [r#"`lora.target_modules` was ["q","v"], is ["v"]"#];
        assert_eq!(told(&before, &other), want);
    }

    #[test]
    fn a_digest_is_told_by_its_beginning() {
        let digest = |digit: &str| format!("{} b c max_length 256", digit.repeat(64));
        let (before, now) = (
            identity(CONFIG, &digest("a")),
            identity(CONFIG, &digest("e")),
        );
        let want = ["`dataset.rows` was aaaaaaaaaaaa, is eeeeeeeeeeee"];
        assert_eq!(told(&before, &now), want);
    }

    #[test]
    fn a_part_is_meant_by_its_name_its_group_and_its_own() {
        for given in ["lora.r", "lora", "r"] {
            assert!(means(given, "lora.r"), "{given}");
        }
        for given in ["lor", "lora.", ".r", "lora.r.x", ""] {
            assert!(!means(given, "lora.r"), "{given}");
        }
        assert!(means("seed", "seed") && !means("", "seed"));
    }
}
