//! Flags in Hugging Face's names, made from tables: `--learning-rate` is `learning_rate` of
//! `TrainingArguments`, `--lora-alpha` is `lora_alpha` of `LoraConfig`.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use lowrank::{FIELDS, Field, unsupported_arguments};
use serde_json::{Map, Value};

/// One field of `LoraConfig` that a command line may set.
struct LoraField {
    name: &'static str,
    help: &'static str,
    kind: Kind,
}

/// How a flag's text becomes a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A word, a number, or JSON.
    Scalar,
    /// Names with commas between them; a single one that looks like a regex stays a regex.
    Targets,
    /// Names, or numbers, with commas between them.
    List,
    /// `--flag`, or `--flag false`.
    Switch,
}

const fn lora(name: &'static str, kind: Kind, help: &'static str) -> LoraField {
    LoraField { name, help, kind }
}

const LORA_FIELDS: &[LoraField] = &[
    lora("r", Kind::Scalar, "Rank of the deltas [default: 8]"),
    lora(
        "lora_alpha",
        Kind::Scalar,
        "Deltas are scaled by lora_alpha / r [default: 8]",
    ),
    lora(
        "lora_dropout",
        Kind::Scalar,
        "Dropout on the input of the deltas [default: 0.0]",
    ),
    lora(
        "target_modules",
        Kind::Targets,
        "Modules that get a delta: names with commas between (suffixes of module paths), a regex on the whole \
         path, or all-linear [default: the architecture's]",
    ),
    lora(
        "exclude_modules",
        Kind::Targets,
        "Modules that get none, in the same forms",
    ),
    lora(
        "bias",
        Kind::Scalar,
        "Biases to train: none, all, lora_only [default: none]",
    ),
    lora(
        "modules_to_save",
        Kind::List,
        "Modules to train whole and save with the adapter",
    ),
    lora(
        "layers_to_transform",
        Kind::List,
        "Numbers of the blocks that get deltas [default: all]",
    ),
    lora(
        "layers_pattern",
        Kind::Scalar,
        "Name of the list of blocks, for layers_to_transform",
    ),
    lora(
        "rank_pattern",
        Kind::Scalar,
        "Ranks by module pattern, as JSON: {\"k_proj\": 4}",
    ),
    lora(
        "alpha_pattern",
        Kind::Scalar,
        "lora_alpha by module pattern, as JSON",
    ),
    lora(
        "fan_in_fan_out",
        Kind::Switch,
        "Base weights lie as [in, out]; found out by itself for GPT-2",
    ),
    lora("use_rslora", Kind::Switch, "Scale by lora_alpha / sqrt(r)"),
    lora(
        "init_lora_weights",
        Kind::Scalar,
        "true (A random, B zero), false (both random), gaussian",
    ),
    lora(
        "ensure_weight_tying",
        Kind::Switch,
        "Keep tied matrices tied when modules_to_save names one",
    ),
];

/// Every name that the `lora:` section of a run file may use from a command line.
pub(crate) fn lora_names() -> impl Iterator<Item = &'static str> {
    LORA_FIELDS.iter().map(|field| field.name)
}

/// The flags of `TrainingArguments` that were given, as the `train:` section of a run file.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrainFlags {
    /// Values of `TrainingArguments`, as text.
    pub(crate) train: Map<String, Value>,
}

/// The flags of `LoraConfig` that were given, as its `lora:` section.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoraFlags {
    /// Values of `LoraConfig`.
    pub(crate) lora: Map<String, Value>,
}

impl Args for TrainFlags {
    fn augment_args(command: Command) -> Command {
        let command = FIELDS
            .iter()
            .fold(command, |command, field| command.arg(train_flag(field)));
        // Known so that the reason can be told, as for the same key of a run file.
        unsupported_arguments().fold(command, |command, name| {
            let hidden = flag(name, String::new(), "TrainingArguments").hide(true);
            command.arg(switch(hidden))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for TrainFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        let names = FIELDS.iter().map(|field| field.name);
        for name in names.chain(unsupported_arguments()) {
            if let Some(text) = matches.get_one::<String>(name) {
                self.train
                    .insert(name.to_owned(), Value::String(text.clone()));
            }
        }
        Ok(())
    }
}

impl Args for LoraFlags {
    fn augment_args(command: Command) -> Command {
        LORA_FIELDS.iter().fold(command, |command, field| {
            let arg = flag(field.name, field.help.to_owned(), "LoraConfig");
            command.arg(if field.kind == Kind::Switch {
                switch(arg)
            } else {
                arg
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LoraFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for field in LORA_FIELDS {
            if let Some(text) = matches.get_one::<String>(field.name) {
                self.lora
                    .insert(field.name.to_owned(), value(text, field.kind));
            }
        }
        Ok(())
    }
}

fn train_flag(field: &'static Field) -> Arg {
    let default = field.default_text();
    let mut help = field.help.trim().to_owned();
    if !default.is_empty() {
        help.push_str(&format!(" [default: {default}]"));
    }
    let old = field.old_names().map(|name| name.replace('_', "-"));
    let arg = flag(field.name, help, "TrainingArguments").aliases(old);
    if field.is_switch { switch(arg) } else { arg }
}

fn flag(name: &'static str, help: String, heading: &'static str) -> Arg {
    Arg::new(name)
        .long(name.replace('_', "-"))
        .help(help)
        .help_heading(heading)
        .value_name("VALUE")
        // Told by its range, not as a flag that is unknown.
        .allow_negative_numbers(true)
        .action(ArgAction::Set)
}

/// `--flag` alone means true.
fn switch(arg: Arg) -> Arg {
    arg.num_args(0..=1)
        .require_equals(false)
        .default_missing_value("true")
        .value_name("BOOL")
}

fn value(text: &str, kind: Kind) -> Value {
    let scalar =
        |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let list = || {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
    };
    match kind {
        Kind::Scalar | Kind::Switch => scalar(text),
        Kind::List => Value::Array(list().map(scalar).collect()),
        Kind::Targets if is_pattern(text) || text == "all-linear" => Value::String(text.to_owned()),
        Kind::Targets => Value::Array(list().map(|name| Value::String(name.to_owned())).collect()),
    }
}

/// A module name has none of these; a regex that is worth writing has one.
fn is_pattern(text: &str) -> bool {
    text.contains(['*', '+', '?', '[', '(', '|', '\\', '^', '$', '{'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_are_names_unless_they_look_like_a_regex() {
        assert_eq!(
            value("query_key_value", Kind::Targets),
            json!(["query_key_value"])
        );
        assert_eq!(
            value("q_proj, v_proj", Kind::Targets),
            json!(["q_proj", "v_proj"])
        );
        assert_eq!(
            value(".*\\.1.*query_key_value", Kind::Targets),
            json!(".*\\.1.*query_key_value")
        );
        assert_eq!(value("all-linear", Kind::Targets), json!("all-linear"));
    }

    #[test]
    fn lists_and_scalars_keep_their_kind() {
        assert_eq!(value("1,2", Kind::List), json!([1, 2]));
        assert_eq!(
            value("word_embeddings", Kind::List),
            json!(["word_embeddings"])
        );
        assert_eq!(value("gaussian", Kind::Scalar), json!("gaussian"));
        assert_eq!(value("16", Kind::Scalar), json!(16));
    }
}
