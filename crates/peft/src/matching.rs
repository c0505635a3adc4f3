//! Which modules a configuration targets: PEFT's `check_target_module_exists`, rule by rule.
//!
//! In order: `exclude_modules`, `modules_to_save` (an adapter never sits inside a saved module), then
//! `target_modules`: a string is a pattern over the whole name, an entry of a list is the exact name or a dotted
//! ending of it. Layer filters apply to endings only. Beside PEFT's answer this reports what each entry caught,
//! because a list with one misspelt entry trains less than was asked for and says nothing.

use formats::adapter_config::OneOrMany;
use model::near::near_names;
use model::tree::ModuleTree;

use crate::LoraConfig;
use crate::condense::condensed;
use crate::error::{PeftError, Result};
use crate::pattern::{Pattern, PatternSet, looks_like_pattern};

/// The shorthand for every linear layer but the head, in any letter case.
pub const ALL_LINEAR: &str = "all-linear";

/// What one entry of `target_modules` caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The entry as written.
    pub entry: String,
    /// Paths of modules.
    pub modules: Vec<String>,
}

/// The answer of the rules.
#[derive(Debug, Clone, Default)]
pub struct Matches {
    /// Paths of the targeted modules, in the model's order.
    pub targeted: Vec<String>,
    /// Paths that only `exclude_modules` or `modules_to_save` kept out.
    pub excluded: Vec<String>,
    /// Per entry of `target_modules`.
    pub coverage: Vec<Coverage>,
    /// What deserves a warning.
    pub notices: Vec<String>,
}

/// Replaces `all-linear` by names and shortens long lists, as PEFT does before it saves a configuration.
/// `head` is the path of the output embedding.
pub fn resolve_targets(
    targets: &OneOrMany<String>,
    tree: &ModuleTree,
    head: &str,
) -> OneOrMany<String> {
    let names = match targets {
        OneOrMany::One(text) if text.to_lowercase() == ALL_LINEAR => all_linear(tree, head),
        OneOrMany::One(text) => return OneOrMany::One(text.clone()),
        OneOrMany::Many(names) => names.clone(),
    };
    OneOrMany::Many(condensed(names, tree))
}

fn all_linear(tree: &ModuleTree, head: &str) -> Vec<String> {
    let modules = tree.named_modules().into_iter();
    let linear =
        modules.filter(|(path, module)| module.layer.projection().is_some() && path != head);
    let mut names: Vec<String> = linear.map(|(path, _)| path).collect();
    names.sort_unstable();
    names
}

/// Applies the rules; `config.target_modules` must be resolved.
///
/// # Errors
/// [`PeftError::Pattern`], [`PeftError::NoTarget`], [`PeftError::AllExcluded`].
pub fn match_modules(config: &LoraConfig, tree: &ModuleTree, model_type: &str) -> Result<Matches> {
    let rules = Rules::new(config)?;
    let mut matches = Matches {
        coverage: rules.empty_coverage(),
        ..Matches::default()
    };
    let mut unmatched = false;
    for (path, _) in tree.named_modules() {
        if path.is_empty() {
            continue;
        }
        if rules.excludes(&path) {
            matches.excluded.push(path);
            continue;
        }
        let caught = rules.caught_by(&path);
        unmatched |= caught.is_empty();
        for &entry in &caught {
            if let Some(coverage) = matches.coverage.get_mut(entry) {
                coverage.modules.push(path.clone());
            }
        }
        if !caught.is_empty() {
            matches.targeted.push(path);
        }
    }
    if matches.targeted.is_empty() {
        return Err(rules.no_target(config, tree, model_type, &matches, unmatched));
    }
    matches.notices = rules.notices(config, tree, &matches);
    Ok(matches)
}

struct Rules<'a> {
    exclude: Vec<Rule<'a>>,
    saved: PatternSet,
    targets: Vec<Rule<'a>>,
    layers: Option<LayerFilter>,
}

/// One string of a rule.
enum Rule<'a> {
    Pattern(&'a str, Pattern),
    Name(&'a str),
}

impl<'a> Rule<'a> {
    fn all(key: &'static str, value: Option<&'a OneOrMany<String>>) -> Result<Vec<Self>> {
        match value {
            None => Ok(Vec::new()),
            Some(OneOrMany::One(text)) if text.is_empty() => Ok(Vec::new()),
            Some(OneOrMany::One(text)) => {
                let pattern = Pattern::full(key, text)?;
                Ok(vec![Self::Pattern(text, pattern)])
            }
            Some(OneOrMany::Many(names)) => Ok(names.iter().map(|name| Self::Name(name)).collect()),
        }
    }

    fn text(&self) -> &'a str {
        match self {
            Self::Pattern(text, _) | Self::Name(text) => text,
        }
    }

    /// The whole name.
    fn is_whole(&self, path: &str) -> bool {
        match self {
            Self::Pattern(_, pattern) => pattern.is_match(path),
            Self::Name(name) => path == *name,
        }
    }

    /// A dotted ending.
    fn is_ending(&self, path: &str) -> bool {
        match self {
            Self::Pattern(..) => false,
            Self::Name(name) => ends_dotted(path, name),
        }
    }
}

pub(crate) fn ends_dotted(path: &str, name: &str) -> bool {
    let rest = path.strip_suffix(name);
    rest.is_some_and(|rest| rest.ends_with('.'))
}

struct LayerFilter {
    wanted: Vec<u32>,
    patterns: Vec<Pattern>,
}

impl LayerFilter {
    fn new(config: &LoraConfig) -> Result<Option<Self>> {
        let Some(wanted) = &config.layers_to_transform else {
            return Ok(None);
        };
        if matches!(wanted, OneOrMany::Many(list) if list.is_empty()) {
            return Ok(None);
        }
        let key = "layers_pattern";
        let named = config
            .layers_pattern
            .as_ref()
            .map_or(&[][..], OneOrMany::as_slice);
        let named: Vec<&String> = named.iter().filter(|name| !name.is_empty()).collect();
        let index = r"\.(?P<idx>\d+)\.)";
        // The lazy start finds the first number: the layer, not an expert inside it.
        let patterns = if named.is_empty() {
            vec![Pattern::wrapped(key, "", r"\A(?:.*?\.[^.]*", index)?]
        } else {
            let wrap = |name: &&String| Pattern::wrapped(key, name, r"\A(?:(?:|.*?\.)", index);
            named.iter().map(wrap).collect::<Result<_>>()?
        };
        let wanted = wanted.as_slice().to_vec();
        Ok(Some(Self { wanted, patterns }))
    }

    fn takes(&self, path: &str) -> bool {
        let index = self.index(path);
        index.is_some_and(|index| self.wanted.contains(&index))
    }

    fn index(&self, path: &str) -> Option<u32> {
        let mut patterns = self.patterns.iter();
        let digits = patterns.find_map(|pattern| pattern.group(path, "idx"))?;
        digits.parse().ok()
    }

    /// What was asked for and what there is, in words.
    fn of(&self, tree: &ModuleTree) -> String {
        let modules = tree.named_modules();
        let last = modules
            .iter()
            .filter_map(|(path, _)| self.index(path))
            .max();
        let has = last.map_or("none".to_owned(), |last| format!("0 to {last}"));
        format!("{:?}, the model has {has}", self.wanted)
    }
}

impl<'a> Rules<'a> {
    fn new(config: &'a LoraConfig) -> Result<Self> {
        let saved = config.modules_to_save.iter().flatten().map(String::as_str);
        // PEFT puts the entry into the pattern unescaped, so it is one.
        let (prefix, suffix) = (r"\A(?:(?:|.*\.)", r"(?:\z|\.))");
        let saved = PatternSet::new("modules_to_save", saved, prefix, suffix)?;
        Ok(Self {
            exclude: Rule::all("exclude_modules", config.exclude_modules.as_ref())?,
            saved,
            targets: Rule::all("target_modules", config.target_modules.as_ref())?,
            layers: LayerFilter::new(config)?,
        })
    }

    fn empty_coverage(&self) -> Vec<Coverage> {
        let entries = self.targets.iter().map(|rule| Coverage {
            entry: rule.text().to_owned(),
            modules: Vec::new(),
        });
        entries.collect()
    }

    fn excludes(&self, path: &str) -> bool {
        let by_rule = self
            .exclude
            .iter()
            .any(|rule| rule.is_whole(path) || rule.is_ending(path));
        by_rule || self.saved.first(path).is_some()
    }

    /// Indices of the entries that catch it.
    fn caught_by(&self, path: &str) -> Vec<usize> {
        let whole = self.targets.iter().any(|rule| rule.is_whole(path));
        let filtered = !whole
            && self
                .layers
                .as_ref()
                .is_some_and(|layers| !layers.takes(path));
        let catches = |rule: &Rule<'_>| rule.is_whole(path) || rule.is_ending(path);
        let found = self
            .targets
            .iter()
            .enumerate()
            .filter(|(_, rule)| !filtered && catches(rule));
        found.map(|(index, _)| index).collect()
    }

    fn no_target(
        &self,
        config: &LoraConfig,
        tree: &ModuleTree,
        model_type: &str,
        matches: &Matches,
        unmatched: bool,
    ) -> PeftError {
        let asked: Vec<String> = self
            .targets
            .iter()
            .map(|rule| rule.text().to_owned())
            .collect();
        let would = |path: &String| !self.caught_by(path).is_empty();
        if !unmatched || matches.excluded.iter().any(would) {
            return PeftError::AllExcluded { asked };
        }
        let list = matches!(config.target_modules, Some(OneOrMany::Many(_)));
        let mut near = near_targets(&asked, tree);
        if near.is_empty() {
            near = linear_names(tree);
            near.truncate(8);
        }
        PeftError::NoTarget {
            model_type: model_type.to_owned(),
            near,
            looks_like_pattern: list && asked.iter().any(|entry| looks_like_pattern(entry)),
            layers: self.layers.as_ref().map(|layers| layers.of(tree)),
            asked,
        }
    }

    fn notices(&self, config: &LoraConfig, tree: &ModuleTree, matches: &Matches) -> Vec<String> {
        let mut notices = Vec::new();
        let entries = self.targets.iter().zip(&matches.coverage);
        for (rule, coverage) in entries.filter(|(_, coverage)| coverage.modules.is_empty()) {
            let catches = |path: &String| rule.is_whole(path) || rule.is_ending(path);
            notices.push(if matches.excluded.iter().any(catches) {
                let entry = &coverage.entry;
                format!(
                    "entry `{entry}` of target_modules matches only what is excluded or saved whole"
                )
            } else {
                unmatched_entry(&coverage.entry, config, tree)
            });
        }
        let excluded_by_rule = |path: &String| {
            self.exclude
                .iter()
                .any(|rule| rule.is_whole(path) || rule.is_ending(path))
        };
        if !self.exclude.is_empty() && !matches.excluded.iter().any(excluded_by_rule) {
            notices.push("exclude_modules excludes nothing".into());
        }
        notices
    }
}

fn unmatched_entry(entry: &str, config: &LoraConfig, tree: &ModuleTree) -> String {
    let text = format!("entry `{entry}` of target_modules matches no module, the others do");
    let list = matches!(config.target_modules, Some(OneOrMany::Many(_)));
    if list && looks_like_pattern(entry) {
        return format!("{text}; a pattern must be given as one string, not in a list");
    }
    let near = near_targets(&[entry.to_owned()], tree);
    if near.is_empty() {
        return text;
    }
    format!("{text}; did you mean {}?", near.join(", "))
}

/// Names of linear layers that resemble what was asked for.
fn near_targets(asked: &[String], tree: &ModuleTree) -> Vec<String> {
    let names = linear_names(tree);
    let words = asked.iter().map(|entry| last_word(entry));
    let mut near: Vec<String> = Vec::new();
    for name in words.flat_map(|word| near_names(&word, names.iter().map(String::as_str))) {
        if !near.contains(&name) {
            near.push(name);
        }
    }
    near.truncate(8);
    near
}

/// Last words of the paths of linear layers, sorted.
fn linear_names(tree: &ModuleTree) -> Vec<String> {
    let modules = tree.named_modules();
    let linear = modules
        .iter()
        .filter(|(_, module)| module.layer.projection().is_some());
    let ends = linear.filter_map(|(path, _)| path.rsplit('.').next());
    let ends: std::collections::BTreeSet<&str> = ends.collect();
    ends.into_iter().map(str::to_owned).collect()
}

/// The last run of name letters: of `.*\.1.*query_key_value` the end.
fn last_word(entry: &str) -> String {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut words = entry
        .rsplit(|letter| !is_name(letter))
        .filter(|word| !word.is_empty());
    words.next().unwrap_or(entry).to_owned()
}
