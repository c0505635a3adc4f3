//! Rotary frequencies by the rules of Transformers' `modeling_rope_utils` (`ROPE_INIT_FUNCTIONS`).
//!
//! Computed in f32 step by step, as torch does: at position 100,000 one ulp of a frequency is a visible angle,
//! so "more exact" would mean "another model". `longrope` and partial rotation are refused.

use std::f64::consts::PI;

use super::error::ConfigError;
use super::keys::{Keys, MAX_POSITIONS};
use crate::spec::Positions;

type Result<T> = std::result::Result<T, ConfigError>;

const KINDS: &str = "use one of default, linear, dynamic, llama3, yarn";

/// The rotation that a config asks for.
pub(super) fn rope(config: Keys<'_>, head_dim: usize) -> Result<Positions> {
    let rule = Rule::read(config, head_dim)?;
    let (inv_freq, attention_scaling) = match rule.kind {
        // Dynamic NTK leaves the base alone up to max_position_embeddings.
        "default" | "dynamic" => (rule.plain(), 1.0),
        "linear" => (rule.linear()?, 1.0),
        "llama3" => (rule.llama3()?, 1.0),
        "yarn" => rule.yarn()?,
        other => return Err(config.unsupported("rope_type", other, KINDS)),
    };
    if inv_freq.iter().any(|freq| !freq.is_finite()) || !attention_scaling.is_finite() {
        return Err(config.unsupported("rope_parameters", rule.kind, "frequencies are not finite"));
    }
    Ok(Positions::Rope {
        inv_freq: inv_freq.into_iter().map(f64::from).collect(),
        attention_scaling,
    })
}

struct Rule<'a> {
    config: Keys<'a>,
    /// `rope_scaling` (old) or `rope_parameters` (new), or nothing.
    scaling: Option<Keys<'a>>,
    kind: &'a str,
    theta: f64,
    head_dim: usize,
}

impl<'a> Rule<'a> {
    fn read(config: Keys<'a>, head_dim: usize) -> Result<Self> {
        let scaling = match config.below("rope_scaling")? {
            Some(old) => Some(old),
            None => config.below("rope_parameters")?,
        };
        let inner = scaling.unwrap_or(config);
        let theta = inner.positive(&["rope_theta"])?;
        let theta = theta.map_or_else(|| config.positive(&["rope_theta"]), |theta| Ok(Some(theta)));
        let kind = match scaling {
            Some(keys) => keys.text(&["rope_type", "type"])?,
            None => None,
        };
        let rule = Self {
            config,
            scaling,
            kind: kind.unwrap_or("default"),
            theta: theta?.unwrap_or(10_000.0),
            head_dim,
        };
        rule.refuse_partial(inner)?;
        Ok(rule)
    }

    fn refuse_partial(&self, inner: Keys<'_>) -> Result<()> {
        for keys in [inner, self.config] {
            let factor = keys.positive(&["partial_rotary_factor"])?;
            if let Some(other) = factor.filter(|factor| *factor != 1.0) {
                let why = "every column of a head must turn";
                return Err(keys.unsupported("partial_rotary_factor", &other.to_string(), why));
            }
        }
        Ok(())
    }

    fn need(&self, key: &'static str) -> Result<f64> {
        let keys = self.scaling.unwrap_or(self.config);
        keys.positive(&[key])?.ok_or_else(|| keys.missing(&[key]))
    }

    /// `theta^(2i / E)`.
    fn powers(&self) -> Vec<f32> {
        let base = f64::from(self.theta as f32);
        let exponents = (0..self.head_dim).step_by(2);
        exponents
            .map(|i| base.powf(f64::from(i as f32 / self.head_dim as f32)) as f32)
            .collect()
    }

    fn plain(&self) -> Vec<f32> {
        self.powers().iter().map(|power| power.recip()).collect()
    }

    fn linear(&self) -> Result<Vec<f32>> {
        let factor = self.need("factor")? as f32;
        Ok(self.plain().iter().map(|freq| freq / factor).collect())
    }

    fn original_positions(&self) -> Result<f64> {
        let key = "original_max_position_embeddings";
        // A key beside the block wins over one inside it, as in `standardize_rope_params`.
        let found = match self.config.positive(&[key])? {
            Some(outside) => Some(outside),
            None => self.scaling.unwrap_or(self.config).positive(&[key])?,
        };
        match found {
            Some(positions) => Ok(positions),
            None => Ok(self.max_positions()? as f64),
        }
    }

    fn max_positions(&self) -> Result<usize> {
        self.config
            .required_size(&["max_position_embeddings"], MAX_POSITIONS)
    }

    fn llama3(&self) -> Result<Vec<f32>> {
        let factor = self.need("factor")? as f32;
        let (low, high) = (
            self.need("low_freq_factor")?,
            self.need("high_freq_factor")?,
        );
        if low >= high {
            let found = format!("{low} and {high}");
            let why = "low_freq_factor must be below high_freq_factor";
            return Err(self.config.unsupported("low_freq_factor", &found, why));
        }
        let old = self.original_positions()?;
        let (longest, shortest) = ((old / low) as f32, (old / high) as f32);
        let blend = |freq: f32| {
            let wave = (2.0 * PI) as f32 * freq.recip();
            if wave > longest {
                return freq / factor;
            }
            if wave < shortest {
                return freq;
            }
            let smooth = (old as f32 * wave.recip() - low as f32) / (high - low) as f32;
            (1.0 - smooth) * freq / factor + smooth * freq
        };
        Ok(self.plain().into_iter().map(blend).collect())
    }

    fn yarn(&self) -> Result<(Vec<f32>, f64)> {
        let keys = self.scaling.unwrap_or(self.config);
        let old = self.original_positions()?;
        let factor = match keys.positive(&["factor"])? {
            Some(factor) => factor,
            None => self.max_positions()? as f64 / old,
        };
        let fast = keys.positive(&["beta_fast"])?.unwrap_or(32.0);
        let slow = keys.positive(&["beta_slow"])?.unwrap_or(1.0);
        let (mut low, mut high) = (self.turns(fast, old), self.turns(slow, old));
        if keys.flag("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(self.head_dim as f64 - 1.0));
        if low == high {
            high += 0.001; // as Transformers: no division by zero
        }
        let blend = |(i, power): (usize, f32)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let keep = 1.0 - ramp;
            (factor as f32 * power).recip() * (1.0 - keep) + power.recip() * keep
        };
        let inv_freq = self.powers().into_iter().enumerate().map(blend).collect();
        Ok((inv_freq, yarn_attention(keys, factor)?))
    }

    /// The dimension whose wave turns `rotations` times over the trained length.
    fn turns(&self, rotations: f64, old: f64) -> f64 {
        self.head_dim as f64 * (old / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
    }
}

fn yarn_attention(keys: Keys<'_>, factor: f64) -> Result<f64> {
    if let Some(given) = keys.positive(&["attention_factor"])? {
        return Ok(given);
    }
    let scale = |mscale: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * mscale * factor.ln() + 1.0
        }
    };
    // Zero counts as not given.
    let given = |key: &'static str| match keys.find(&[key]) {
        Some((_, value)) if value.as_f64() == Some(0.0) => Ok(None),
        _ => keys.positive(&[key]),
    };
    Ok(match (given("mscale")?, given("mscale_all_dim")?) {
        (Some(one), Some(all)) => scale(one) / scale(all),
        _ => scale(1.0),
    })
}
