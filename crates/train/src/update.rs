//! One update: passes through the model, the gradient's norm, one step of the optimizer.

use engine::backend::EngineError;
use model::PassKey;

use crate::error::TrainError;
use crate::learner::{Learner, Row};
use crate::optimizer::Optimizer;
use crate::passes::{Packing, Passes};
use crate::plan::Plan;

/// What one update gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Update {
    /// Mean loss over what was learnt; 0 where nothing was.
    pub(crate) loss: f64,
    /// Norm of the gradient before clipping; NaN of an update that was left out.
    pub(crate) grad_norm: f64,
    /// As the optimizer used it.
    pub(crate) learning_rate: f64,
    /// Tokens of its rows.
    pub(crate) input_tokens: u64,
    /// Floating-point operations as the Trainer estimates them: 6 for each parameter outside embeddings and each token,
    /// padding included. Neither what ours computes nor what torch does; frozen weights have no gradient of their own.
    pub(crate) flos: f64,
}

/// Learns from the micro-batches of the update that follows `done` updates.
///
/// Where no token of them is learnt, nothing is: parameters and moments stay as they are. The Trainer's loss is 0 / 0 there
/// and its gradients are 0, or NaN where it smooths labels: momentum and decay alone move its weights, or each becomes NaN.
///
/// # Errors
/// A loss or a gradient that is not finite: the parameters are then still those of the last update.
pub(crate) fn update<L: Learner>(
    learner: &mut L,
    optimizer: &mut Optimizer<L::Backend>,
    plan: &Plan,
    micro_batches: &[Vec<Row>],
    done: u64,
) -> Result<Update, TrainError> {
    let arguments = &plan.arguments;
    let packing = Packing {
        normalization: arguments.loss_normalization,
        max_tokens: arguments.max_tokens_per_pass,
        counts_first: learner.counts_first_label(),
        shares_prefixes: learner.shares_prefixes(true),
    };
    let work = Passes::new(micro_batches, packing);
    learner.zero_grad();
    let mut loss = 0.0;
    let mut key = PassKey {
        seed: arguments.seed,
        step: done,
        first_token: 0,
        first_target: 0,
    };
    for pass in &work.passes {
        let losses = learner.forward_backward(&pass.batch, key)?;
        key.first_token += pass.batch.input_ids.len() as u64;
        key.first_target += pass.batch.targets.len() as u64;
        let rows = pass.rows_not_finite(&losses);
        if !rows.is_empty() {
            return Err(TrainError::LossNotFinite {
                step: done + 1,
                rows,
            });
        }
        loss += pass.weighted(&losses);
    }
    let grad_norm = optimizer.gradient_norm(learner.parameters())?;
    if !grad_norm.is_finite() {
        return Err(gradient_not_finite(learner, micro_batches, done + 1)?);
    }
    let learning_rate = plan.schedule.learning_rate(done);
    if work.num_items > 0 {
        optimizer.step(learner.parameters_mut(), learning_rate, grad_norm);
    }
    Ok(Update {
        loss,
        grad_norm: f64::from(grad_norm),
        learning_rate,
        input_tokens: work.input_tokens,
        flos: 6.0 * work.padded_tokens as f64 * learner.num_parameters_without_embeddings() as f64,
    })
}

fn gradient_not_finite<L: Learner>(
    learner: &L,
    micro_batches: &[Vec<Row>],
    step: u64,
) -> Result<TrainError, EngineError> {
    let backend = learner.backend();
    let mut parameters = Vec::new();
    for parameter in learner.parameters() {
        if !engine::backend::Backend::sum_of_squares(&*backend, &parameter.grad)?.is_finite() {
            parameters.push(parameter.name.clone());
        }
    }
    let rows = micro_batches
        .iter()
        .flatten()
        .map(|row| row.index)
        .collect();
    Ok(TrainError::GradientNotFinite {
        step,
        rows,
        parameters,
    })
}
