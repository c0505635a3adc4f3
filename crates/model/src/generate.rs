//! Text goes on: prompt in, tokens out, one at a time.

use std::ops::ControlFlow;

use engine::backend::Backend;

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::generation_config::GenerationConfig;
use crate::sampler::next_token;

impl<B: Backend> Decoder<B> {
    /// Generates behind `prompt` and returns the new ids, an end-of-text id included. `on_token` sees each as it
    /// comes, and may end the text.
    ///
    /// # Errors
    /// Settings out of range, ids outside the vocabulary, a prompt longer than the model's positions.
    pub fn generate(
        &self,
        prompt: &[u32],
        config: &GenerationConfig,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Vec<u32>, ModelError> {
        let total = config.total_length(prompt.len())?;
        // A generous `max_length` is not reserved before it is needed.
        let mut cache = self.new_cache(total.min(prompt.len() + 256));
        let mut ids = prompt.to_vec();
        let mut logits = self.extend(&mut cache, prompt)?;
        loop {
            let id = next_token(config, &mut logits, &ids);
            ids.push(id);
            let ended = config.eos_token_ids.contains(&id) || ids.len() >= total;
            if on_token(id).is_break() || ended {
                return Ok(ids.split_off(prompt.len()));
            }
            logits = self.extend(&mut cache, &[id])?;
        }
    }
}
