//! Rank and scaling of each target: `r` and `lora_alpha` with their patterns.

use crate::LoraConfig;
use crate::error::Result;
use crate::pattern::Pattern;
use crate::plan::LoraTarget;

/// The patterns, compiled.
pub(crate) struct Scalings<'a> {
    config: &'a LoraConfig,
    ranks: Vec<(&'a str, Pattern, u32)>,
    alphas: Vec<(&'a str, Pattern, f64)>,
}

impl<'a> Scalings<'a> {
    pub(crate) fn new(config: &'a LoraConfig) -> Result<Self> {
        let ranks = config.rank_pattern.iter();
        let ranks =
            ranks.map(|(key, rank)| Ok((key.as_str(), ending("rank_pattern", key)?, *rank)));
        let alphas = config.alpha_pattern.iter();
        let alphas = alphas
            .map(|(key, alpha)| Ok((key.as_str(), ending("alpha_pattern", key)?, alpha.get())));
        Ok(Self {
            config,
            ranks: ranks.collect::<Result<_>>()?,
            alphas: alphas.collect::<Result<_>>()?,
        })
    }

    /// Rank and scaling; of several patterns that match, the first in the file counts.
    pub(crate) fn of(&self, path: &str) -> (usize, f64) {
        let rank = self
            .ranks
            .iter()
            .find(|(_, pattern, _)| pattern.is_match(path));
        let rank = rank.map_or(self.config.r, |(.., rank)| *rank);
        let alpha = self
            .alphas
            .iter()
            .find(|(_, pattern, _)| pattern.is_match(path));
        let alpha = alpha.map_or(self.config.lora_alpha.get(), |(.., alpha)| *alpha);
        let by = f64::from(rank);
        let by = if self.config.use_rslora {
            by.sqrt()
        } else {
            by
        };
        (rank as usize, alpha / by)
    }

    /// Notices of patterns that no target matches.
    pub(crate) fn unused(&self, targets: &[LoraTarget]) -> Vec<String> {
        let idle = |pattern: &Pattern| !targets.iter().any(|t| pattern.is_match(&t.path));
        let ranks = self.ranks.iter().filter(|(_, pattern, _)| idle(pattern));
        let ranks =
            ranks.map(|(key, ..)| format!("entry `{key}` of rank_pattern matches no target"));
        let alphas = self.alphas.iter().filter(|(_, pattern, _)| idle(pattern));
        let alphas =
            alphas.map(|(key, ..)| format!("entry `{key}` of alpha_pattern matches no target"));
        ranks.chain(alphas).collect()
    }
}

/// `re.match(rf"(.*\.)?({key})$", path)`.
fn ending(key: &'static str, pattern: &str) -> Result<Pattern> {
    Pattern::wrapped(key, pattern, r"\A(?:.*\.)?(?:", r")\z")
}
