//! Loss and perplexity of a data set under a model, row by row, in constant memory.

use engine::backend::Backend;
use model::{Decoder, TokenBatch};
use serde::Serialize;

use crate::dataset::TokenizedDataset;
use crate::error::Result;

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
pub(crate) fn evaluate<B: Backend>(
    decoder: &Decoder<B>,
    dataset: &TokenizedDataset,
    mut progress: impl FnMut(usize, usize),
) -> Result<Evaluation> {
    let mut rows = Vec::with_capacity(dataset.len());
    let (mut sum, mut tokens) = (0.0, 0);
    for row in 0..dataset.len() {
        let losses = decoder.losses(&batch(&dataset.encoded.get(row)))?;
        let row_sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
        let count = losses.len() as u64;
        rows.push(RowLoss {
            row,
            tokens: count,
            loss: (count > 0).then(|| row_sum / count as f64),
        });
        sum += row_sum;
        tokens += count;
        progress(row + 1, dataset.len());
    }
    let loss = sum / tokens.max(1) as f64;
    Ok(Evaluation {
        loss,
        perplexity: loss.exp(),
        tokens,
        rows,
    })
}

fn batch(example: &data::Example) -> TokenBatch {
    let mut batch = TokenBatch::default();
    batch.push_row(&example.input_ids, &example.labels, 1.0);
    batch
}
