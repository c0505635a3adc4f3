//! Rank and scaling of each target: `r` and `lora_alpha` with their patterns.

use std::collections::BTreeSet;

use crate::LoraConfig;
use crate::error::Result;
use crate::pattern::PatternSet;
use crate::plan::LoraTarget;

/// The patterns, compiled.
pub(crate) struct Scalings<'a> {
    config: &'a LoraConfig,
    ranks: PatternSet,
    alphas: PatternSet,
}

impl<'a> Scalings<'a> {
    pub(crate) fn new(config: &'a LoraConfig) -> Result<Self> {
        let ranks = config.rank_pattern.keys().map(String::as_str);
        let alphas = config.alpha_pattern.keys().map(String::as_str);
        // re.match(rf"(.*\.)?({key})$", path)
        let (prefix, suffix) = (r"\A(?:.*\.)?(?:", r")\z");
        Ok(Self {
            config,
            ranks: PatternSet::new("rank_pattern", ranks, prefix, suffix)?,
            alphas: PatternSet::new("alpha_pattern", alphas, prefix, suffix)?,
        })
    }

    /// Rank and scaling; of several patterns that match, the first in the file counts.
    pub(crate) fn of(&self, path: &str) -> (usize, f64) {
        let config = self.config;
        let rank = self.ranks.first(path);
        let rank = rank.and_then(|index| config.rank_pattern.get_index(index));
        let rank = rank.map_or(config.r, |(_, rank)| *rank);
        let alpha = self.alphas.first(path);
        let alpha = alpha.and_then(|index| config.alpha_pattern.get_index(index));
        let alpha = alpha.map_or(config.lora_alpha.get(), |(_, alpha)| alpha.get());
        let by = f64::from(rank);
        let by = if config.use_rslora { by.sqrt() } else { by };
        (rank as usize, alpha / by)
    }

    /// Notices of patterns that no target matches.
    pub(crate) fn unused(&self, targets: &[LoraTarget]) -> Vec<String> {
        let ranks = self.config.rank_pattern.keys();
        let alphas = self.config.alpha_pattern.keys();
        let mut notices = idle("rank_pattern", ranks, &self.ranks, targets);
        notices.extend(idle("alpha_pattern", alphas, &self.alphas, targets));
        notices
    }
}

fn idle<'k>(
    key: &str,
    entries: impl Iterator<Item = &'k String>,
    patterns: &PatternSet,
    targets: &[LoraTarget],
) -> Vec<String> {
    let hit: BTreeSet<usize> = targets.iter().flat_map(|t| patterns.all(&t.path)).collect();
    let idle = entries
        .enumerate()
        .filter(|(index, _)| !hit.contains(index));
    idle.map(|(_, entry)| format!("entry `{entry}` of {key} matches no target"))
        .collect()
}
