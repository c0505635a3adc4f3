//! Text in, text out.

use std::ops::ControlFlow;

use data::Tokenizer;
use engine::cpu::Cpu;
use model::{Decoder, GenerationConfig};

use crate::error::Result;

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Generated {
    /// Ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Ids behind it, an end-of-text id included.
    pub new_ids: Vec<u32>,
    /// What they add to the prompt's text, special tokens left out: a space between the two is part of it.
    pub text: String,
}

/// Generates behind `prompt`; `on_text` gets each piece as soon as it is whole characters.
pub(crate) fn generate(
    decoder: &Decoder<Cpu>,
    tokenizer: &Tokenizer,
    prompt: &str,
    config: &GenerationConfig,
    mut on_text: impl FnMut(&str),
) -> Result<Generated> {
    let prompt_ids = tokenizer.encode(prompt, true)?;
    let mut stream = tokenizer.stream(true).behind(&prompt_ids)?;
    let mut text = String::new();
    let mut failed = None;
    let new_ids = decoder.generate(&prompt_ids, config, |id| match stream.push(id) {
        Ok(piece) => {
            on_text(&piece);
            text.push_str(&piece);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let rest = stream.finish()?;
    on_text(&rest);
    text.push_str(&rest);
    Ok(Generated {
        prompt_ids,
        new_ids,
        text,
    })
}
