//! Loss and perplexity of a data set under a decoder, row by row, in constant memory.
//!
//! The loss is the mean over all labelled tokens, whichever row they are of; the Trainer's `eval_loss` of a run (see
//! `evaluate`) weighs by batches and rows.

use engine::backend::Backend;
use model::{Decoder, TokenBatch};
use serde::Serialize;

use crate::error::TrainError;
use crate::learner::{Examples, Row};

/// What a model makes of a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean loss over all labelled tokens.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Labelled tokens.
    pub tokens: u64,
    /// Row by row.
    pub rows: Vec<RowLoss>,
}

/// One row's part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RowLoss {
    /// Its number in the data set.
    pub row: usize,
    /// Labelled tokens.
    pub tokens: u64,
    /// Mean loss over them; null where there are none.
    pub loss: Option<f64>,
}

/// Runs every row through the decoder; `progress` hears of (done, total).
///
/// # Errors
/// A row that cannot be read or does not fit the model; [`TrainError::NothingLabelled`].
pub fn evaluate<B: Backend>(
    decoder: &Decoder<B>,
    examples: &dyn Examples,
    mut progress: impl FnMut(usize, usize),
) -> Result<Evaluation, TrainError> {
    let total = examples.len();
    let mut sums = Sums::default();
    for index in 0..total {
        let row = examples.example(index)?;
        let batch = TokenBatch::of_rows([(&*row.input_ids, &*row.labels)], 1.0);
        sums.add(&row, &decoder.losses(&batch, 0.0)?);
        progress(index + 1, total);
    }
    sums.evaluation()
}

/// Of the rows so far.
#[derive(Default)]
struct Sums {
    rows: Vec<RowLoss>,
    losses: f64,
    tokens: u64,
}

impl Sums {
    /// * `losses`: one a labelled token.
    fn add(&mut self, row: &Row, losses: &[f32]) {
        let sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
        let tokens = losses.len() as u64;
        self.rows.push(RowLoss {
            row: row.index,
            tokens,
            loss: (tokens > 0).then(|| sum / tokens as f64),
        });
        self.losses += sum;
        self.tokens += tokens;
    }

    fn evaluation(self) -> Result<Evaluation, TrainError> {
        if self.tokens == 0 {
            let rows = self.rows.len();
            return Err(TrainError::NothingLabelled { rows });
        }
        let loss = self.losses / self.tokens as f64;
        Ok(Evaluation {
            loss,
            perplexity: loss.exp(),
            tokens: self.tokens,
            rows: self.rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_nothing_to_say_have_no_perplexity() {
        let mut sums = Sums::default();
        for index in 0..2 {
            let row = Row {
                index,
                input_ids: vec![1, 2],
                labels: vec![-100, -100],
            };
            sums.add(&row, &[]);
        }
        let error = sums.evaluation().unwrap_err();
        assert!(
            error.to_string().starts_with("none of 2 rows has"),
            "{error}"
        );
    }

    #[test]
    fn every_token_weighs_the_same_whichever_row_it_is_of() {
        let mut sums = Sums::default();
        for (index, losses) in [&[3.0][..], &[], &[1.0, 0.5, 0.5]].iter().enumerate() {
            let row = Row {
                index,
                input_ids: Vec::new(),
                labels: Vec::new(),
            };
            sums.add(&row, losses);
        }
        let found = sums.evaluation().unwrap();
        assert_eq!((found.loss, found.perplexity), (1.25, 1.25f64.exp()));
        assert_eq!(found.tokens, 4);
        let rows: Vec<_> = found
            .rows
            .iter()
            .map(|one| (one.row, one.tokens, one.loss))
            .collect();
        assert_eq!(
            rows,
            [(0, 1, Some(3.0)), (1, 0, None), (2, 3, Some(2.0 / 3.0))]
        );
    }
}
