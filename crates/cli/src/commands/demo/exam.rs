//! Questions, put to a model.

use anyhow::Result;
use lowrank::{CausalLm, Dataset, GenerationConfig, LowrankError, PeftModel, Template, Tokenizer};

use super::NEW_TOKENS;

/// A question as the model reads it, and the answer that is right.
pub(super) struct Question {
    pub(super) instruction: String,
    pub(super) prompt: String,
    pub(super) answer: String,
}

/// Every question of `rows`, `limit` of them at most, from all over the data set.
pub(super) fn questions(
    rows: &Dataset,
    tokenizer: &Tokenizer,
    limit: usize,
) -> Result<Vec<Question>> {
    let stride = rows.len().div_ceil(limit.max(1)).max(1);
    let template = Template::alpaca();
    let question = |index| -> Result<Question> {
        let row = rows.row(index)?;
        let prompt = template.render_prompt(&row, tokenizer.special_tokens());
        let text = |name: &str| {
            let value = row.get(name).and_then(|value| value.as_str());
            value.unwrap_or_default().to_owned()
        };
        Ok(Question {
            prompt: prompt.map_err(LowrankError::from)?,
            instruction: text("instruction"),
            answer: text("output"),
        })
    };
    (0..rows.len()).step_by(stride).map(question).collect()
}

/// Who is asked.
pub(super) enum Candidate<'a> {
    Plain(&'a CausalLm),
    Adapted(&'a PeftModel),
}

impl Candidate<'_> {
    /// The greedy answer to every question.
    pub(super) fn answers(
        &self,
        tokenizer: &Tokenizer,
        questions: &[Question],
    ) -> Result<Vec<String>> {
        let base = match self {
            Self::Plain(base) => base,
            Self::Adapted(adapted) => adapted.base(),
        };
        let config = GenerationConfig {
            max_new_tokens: Some(NEW_TOKENS),
            do_sample: false,
            ..base.generation_config(tokenizer)
        };
        let answer = |question: &Question| {
            let prompt = &question.prompt;
            let said = match self {
                Self::Plain(base) => base.generate(tokenizer, prompt, &config, |_| {}),
                Self::Adapted(adapted) => adapted.generate(tokenizer, prompt, &config, |_| {}),
            };
            Ok(said?.text)
        };
        questions.iter().map(answer).collect()
    }
}

/// Answers that are right to the letter, white space around them aside.
pub(super) fn right(questions: &[Question], answers: &[String]) -> usize {
    let pairs = questions.iter().zip(answers);
    pairs
        .filter(|(question, answer)| question.answer.trim() == answer.trim())
        .count()
}
