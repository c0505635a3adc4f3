//! How to generate: a user's settings, with transformers' names and defaults.

use formats::hf_config;
use serde_json::Value;

use crate::error::ModelError;

/// Keys of `generation_config.json` that decide which tokens transformers takes and that nothing here reads, with the
/// number that asks for nothing. So do null, `false`, and an empty list.
const UNREAD: [(&str, Option<f64>); 22] = [
    ("num_beams", Some(1.0)),
    ("penalty_alpha", Some(0.0)),
    ("dola_layers", None),
    ("constraints", None),
    ("force_words_ids", None),
    ("guidance_scale", Some(1.0)),
    ("sequence_bias", None),
    ("encoder_repetition_penalty", Some(1.0)),
    ("no_repeat_ngram_size", Some(0.0)),
    ("encoder_no_repeat_ngram_size", Some(0.0)),
    ("bad_words_ids", None),
    ("min_length", Some(0.0)),
    ("min_new_tokens", Some(0.0)),
    ("forced_bos_token_id", None),
    ("forced_eos_token_id", None),
    ("exponential_decay_length_penalty", None),
    ("suppress_tokens", None),
    ("begin_suppress_tokens", None),
    ("watermarking_config", None),
    ("token_healing", None),
    ("stop_strings", None),
    ("max_time", None),
];
/// The same of those that only draws ask for.
const UNREAD_BY_DRAWS: [(&str, Option<f64>); 5] = [
    ("min_p", Some(0.0)),
    ("top_h", None),
    ("typical_p", Some(1.0)),
    ("epsilon_cutoff", Some(0.0)),
    ("eta_cutoff", Some(0.0)),
];

/// How to generate. The defaults are greedy, as `GenerationConfig`'s.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    /// Prompt and new tokens together.
    pub max_length: usize,
    /// New tokens; wins over `max_length`.
    pub max_new_tokens: Option<usize>,
    /// Draw instead of taking the likeliest.
    pub do_sample: bool,
    /// Divides the logits.
    pub temperature: f32,
    /// Only the k likeliest; 0: all.
    pub top_k: usize,
    /// Only the likeliest that together reach this probability.
    pub top_p: f32,
    /// Above 1: tokens that are there already become less likely (Keskar et al. 2019, arXiv:1909.05858).
    pub repetition_penalty: f32,
    /// Of the draws.
    pub seed: u64,
    /// Ends the text; is part of it.
    pub eos_token_ids: Vec<u32>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_length: 20,
            max_new_tokens: None,
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 42,
            eos_token_ids: Vec::new(),
        }
    }
}

impl GenerationConfig {
    /// What `generation_config.json` says of drawing and of the end; the defaults where it says nothing. Lengths are for
    /// the caller to say.
    pub fn from_stored(stored: &hf_config::GenerationConfig) -> Self {
        let defaults = Self::default();
        let or = |value: Option<f64>, default| value.map_or(default, |value| value as f32);
        Self {
            do_sample: stored.do_sample.unwrap_or(defaults.do_sample),
            temperature: or(stored.temperature, defaults.temperature),
            top_k: stored.top_k.unwrap_or(defaults.top_k),
            top_p: or(stored.top_p, defaults.top_p),
            repetition_penalty: or(stored.repetition_penalty, defaults.repetition_penalty),
            eos_token_ids: stored.eos_token_ids.clone(),
            ..defaults
        }
    }

    /// Says which keys of `generation_config.json` change what transformers generates with these settings, but nothing
    /// here.
    pub fn notice(&self, stored: &hf_config::GenerationConfig) -> Option<String> {
        let of_draws = if self.do_sample {
            &UNREAD_BY_DRAWS[..]
        } else {
            &[]
        };
        let keys = UNREAD.iter().chain(of_draws);
        let keys = keys.filter(|(key, idle)| {
            let value = stored.raw.get(*key);
            value.is_some_and(|value| asks(value, *idle))
        });
        let names: Vec<&str> = keys.map(|(key, _)| *key).collect();
        (!names.is_empty()).then(|| {
            format!(
                "generation_config.json sets what is not honoured here, transformers' text may differ: {}",
                names.join(", ")
            )
        })
    }

    /// The length at which generation stops, prompt included.
    ///
    /// # Errors
    /// [`ModelError::Generation`] when a setting is out of range, or leaves no room for a token.
    pub fn total_length(&self, prompt: usize) -> Result<usize, ModelError> {
        let fault = |name, reason, value: String| {
            Err(ModelError::Generation {
                name,
                reason,
                value,
            })
        };
        let positive = |value: f32| value.is_finite() && value > 0.0;
        if prompt == 0 {
            return fault("prompt", "must have at least one token", "0".into());
        }
        if !positive(self.temperature) {
            return fault(
                "temperature",
                "must be above 0",
                self.temperature.to_string(),
            );
        }
        if !positive(self.top_p) || self.top_p > 1.0 {
            return fault(
                "top_p",
                "must be above 0 and at most 1",
                self.top_p.to_string(),
            );
        }
        if !positive(self.repetition_penalty) {
            return fault(
                "repetition_penalty",
                "must be above 0",
                self.repetition_penalty.to_string(),
            );
        }
        match self.max_new_tokens {
            Some(0) => fault("max_new_tokens", "must be above 0", "0".into()),
            Some(new) => Ok(prompt.saturating_add(new)),
            None if self.max_length <= prompt => {
                let value = format!("{} with a prompt of {prompt}", self.max_length);
                fault(
                    "max_length",
                    "counts the prompt and must be longer than it",
                    value,
                )
            }
            None => Ok(self.max_length),
        }
    }
}

/// Whether a setting's value asks for anything; `idle` is a number that does not.
fn asks(value: &Value, idle: Option<f64>) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != idle,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(file: &Value) -> hf_config::GenerationConfig {
        let map = file.as_object().expect("an object").clone();
        let config = hf_config::HfConfig::from_map(map, "generation_config.json");
        hf_config::GenerationConfig::of(&config).expect("values of the right kinds")
    }

    fn stored(file: &Value) -> GenerationConfig {
        GenerationConfig::from_stored(&read(file))
    }

    #[test]
    fn stored_keys_that_change_the_text_and_are_not_honoured_are_told() {
        let idle = json!({"num_beams": 1, "no_repeat_ngram_size": 0, "min_new_tokens": null, "guidance_scale": 1.0,
            "suppress_tokens": [], "token_healing": false, "typical_p": 1, "use_cache": true, "length_penalty": 2.0,
            "repetition_penalty": 1.3, "temperature": 0.6, "max_length": 4096, "transformers_version": "5.23.0"});
        for do_sample in [false, true] {
            let config = GenerationConfig {
                do_sample,
                ..GenerationConfig::default()
            };
            assert_eq!(config.notice(&read(&idle)), None);
        }
        let file = json!({"num_beams": 4, "no_repeat_ngram_size": 2, "suppress_tokens": [0], "forced_eos_token_id": 0,
            "min_p": 0.1});
        let told = |do_sample| {
            let config = GenerationConfig {
                do_sample,
                ..GenerationConfig::default()
            };
            config.notice(&read(&file)).expect("some are not honoured")
        };
        let greedy = ": num_beams, no_repeat_ngram_size, forced_eos_token_id, suppress_tokens";
        assert!(told(false).ends_with(greedy), "{}", told(false));
        assert!(
            told(true).ends_with(&format!("{greedy}, min_p")),
            "{}",
            told(true)
        );
    }

    #[test]
    fn a_file_says_how_to_draw_and_where_to_end_but_not_how_long() {
        assert_eq!(stored(&json!({})), GenerationConfig::default());
        let found = stored(
            &json!({"do_sample": true, "temperature": 0.6, "top_k": 0, "top_p": 0.9,
            "repetition_penalty": 1.1, "eos_token_id": [2, 7], "max_length": 4096}),
        );
        let want = GenerationConfig {
            do_sample: true,
            temperature: 0.6,
            top_k: 0,
            top_p: 0.9,
            repetition_penalty: 1.1,
            eos_token_ids: vec![2, 7],
            ..GenerationConfig::default()
        };
        assert_eq!(found, want);
    }

    #[test]
    fn a_length_without_room_for_a_token_is_refused() {
        let config = GenerationConfig {
            max_length: 5,
            ..GenerationConfig::default()
        };
        assert!(config.total_length(5).is_err());
        assert_eq!(config.total_length(4).ok(), Some(5));
    }
}
