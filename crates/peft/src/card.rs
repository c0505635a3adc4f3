//! The README.md that goes with an adapter: the front matter that PEFT writes, and what we know for certain.

use std::path::Path;

use durable::{Disk, sha256_hex};
use formats::adapter_config::{OneOrMany, PEFT_VERSION};

use crate::plan::AdapterPlan;

/// The card's file.
pub const CARD_NAME: &str = "README.md";
const MAX_CARD_BYTES: u64 = 1 << 20;

/// Whether a folder's card is none that anybody else wrote or wrote in: PEFT's or a person's stays.
pub fn may_replace_card(disk: &Disk, folder: &Path) -> bool {
    let path = folder.join(CARD_NAME);
    !disk.exists(&path)
        || disk
            .read_text_capped(&path, MAX_CARD_BYTES)
            .is_ok_and(|card| is_ours(&card))
}

/// Whether [`model_card`] made a text, and all of it.
fn is_ours(card: &str) -> bool {
    card.find(MARK).is_some_and(|at| {
        let (text, mark) = card.split_at(at);
        mark == mark_of(text)
    })
}

const MARK: &str = "<!-- lowrank wrote this text";

/// The last line of a card whose other lines are `text`.
fn mark_of(text: &str) -> String {
    let digest = sha256_hex(text.as_bytes());
    format!(
        "{MARK} and replaces it until somebody changes it: {} -->\n",
        &digest[..16]
    )
}

/// The card's text.
pub(crate) fn model_card(plan: &AdapterPlan) -> String {
    let base = plan
        .config
        .base_model_name_or_path
        .as_deref()
        .unwrap_or_default();
    let mut text = String::from("---\n");
    if !base.is_empty() {
        text.push_str(&format!("base_model: {}\n", yaml(base)));
    }
    text.push_str("library_name: peft\npipeline_tag: text-generation\ntags:\n");
    if !base.is_empty() {
        text.push_str(&format!(
            "- {}\n",
            yaml(&format!("base_model:adapter:{base}"))
        ));
    }
    text.push_str("- lora\n- transformers\n---\n");
    text.push_str("\n# LoRA adapter\n\n");
    text.push_str(&facts(plan));
    text.push_str(&usage(base));
    text.push_str(&format!(
        "### Framework versions\n\n- PEFT {PEFT_VERSION}\n\n"
    ));
    let mark = mark_of(&text);
    text + &mark
}

fn facts(plan: &AdapterPlan) -> String {
    let config = &plan.config;
    let targets = match &config.target_modules {
        Some(OneOrMany::One(pattern)) => format!("`{pattern}`"),
        Some(OneOrMany::Many(names)) => format!("`{}`", names.join("`, `")),
        None => "none".into(),
    };
    let mut rows = vec![
        format!("| family | {} |", plan.model_type),
        format!(
            "| r, lora_alpha, lora_dropout | {}, {}, {} |",
            config.r,
            config.lora_alpha.get(),
            config.lora_dropout.get()
        ),
        format!(
            "| target_modules | {targets} ({} modules) |",
            plan.targets.len()
        ),
        format!("| bias | {} |", config.bias.name()),
    ];
    if let Some(saved) = config
        .modules_to_save
        .as_ref()
        .filter(|saved| !saved.is_empty())
    {
        rows.push(format!("| modules_to_save | `{}` |", saved.join("`, `")));
    }
    format!(
        "| | |\n|---|---|\n{}\n\n{}\n\n",
        rows.join("\n"),
        plan.trainable_line()
    )
}

fn usage(base: &str) -> String {
    let base = if base.is_empty() { "BASE" } else { base };
    format!(
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n\
         model = AutoModelForCausalLM.from_pretrained({base:?})\n\
         model = PeftModel.from_pretrained(model, \"path/to/this/folder\")\n```\n\n"
    )
}

/// A YAML scalar: plain where that is unambiguous, else quoted as JSON, which YAML reads.
fn yaml(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    let inner = |letter: char| plain(letter) || letter == ':';
    let starts_well = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    if starts_well && text.chars().all(inner) && !text.ends_with(':') {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::{is_ours, mark_of};

    #[test]
    fn a_card_is_ours_until_somebody_changes_it() {
        let text = "---\ntags:\n---\n\n# LoRA adapter\n\n";
        let card = text.to_owned() + &mark_of(text);
        assert!(is_ours(&card));
        assert!(!is_ours(&card.replace("LoRA", "My")));
        assert!(!is_ours(&format!("{card}Made in May.\n")));
        assert!(!is_ours(text) && !is_ours(""));
    }
}
