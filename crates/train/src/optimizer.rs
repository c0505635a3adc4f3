//! `AdamW` over all parameters, and the gradient's norm: torch's arithmetic.

use std::sync::Arc;

use engine::backend::{Backend, EngineError};
use engine::shapes::AdamW;
use model::Parameter;

use crate::arguments::TrainingArguments;
use crate::error::TrainError;
use crate::tensors::{Stored, Tensors};

/// The moments of every parameter, and how to use them.
pub(crate) struct Optimizer<B: Backend> {
    backend: Arc<B>,
    moments: Vec<Moments<B>>,
    settings: AdamW,
    max_grad_norm: f32,
}

struct Moments<B: Backend> {
    m: B::Buf,
    v: B::Buf,
    weight_decay: f64,
}

impl<B: Backend> Optimizer<B> {
    pub(crate) fn new(
        backend: Arc<B>,
        parameters: &[Parameter<B>],
        arguments: &TrainingArguments,
    ) -> Self {
        let moments = |parameter: &Parameter<B>| {
            let len = backend.len(&parameter.value);
            let weight_decay = if parameter.decay {
                arguments.weight_decay
            } else {
                0.0
            };
            Moments {
                m: backend.zeros(len),
                v: backend.zeros(len),
                weight_decay,
            }
        };
        let moments = parameters.iter().map(moments).collect();
        let settings = AdamW {
            learning_rate: 0.0,
            beta1: arguments.adam_beta1,
            beta2: arguments.adam_beta2,
            eps: arguments.adam_epsilon,
            weight_decay: 0.0,
            step: 0,
            grad_scale: 1.0,
        };
        Self {
            backend,
            moments,
            settings,
            max_grad_norm: arguments.max_grad_norm as f32,
        }
    }

    /// Norm of all gradients together, as torch takes it: the norm of the tensors' norms, in f32.
    pub(crate) fn gradient_norm(&self, parameters: &[Parameter<B>]) -> Result<f32, EngineError> {
        let mut squares = 0.0;
        for parameter in parameters {
            let norm = self.backend.sum_of_squares(&parameter.grad)?.sqrt() as f32;
            squares += f64::from(norm) * f64::from(norm);
        }
        Ok(squares.sqrt() as f32)
    }

    /// What the gradients are multiplied with, as `torch.nn.utils.clip_grad_norm_`; a limit of 0 is
    /// no limit.
    fn clip_coefficient(&self, norm: f32) -> f32 {
        if self.max_grad_norm == 0.0 {
            return 1.0;
        }
        (self.max_grad_norm / (norm + 1e-6)).min(1.0)
    }

    /// One update; `grad_norm` is that of the gradients as they are.
    pub(crate) fn step(
        &mut self,
        parameters: &mut [Parameter<B>],
        learning_rate: f64,
        grad_norm: f32,
    ) {
        self.settings.step += 1;
        let grad_scale = self.clip_coefficient(grad_norm);
        for (parameter, moments) in parameters.iter_mut().zip(&mut self.moments) {
            let weight_decay = moments.weight_decay;
            let settings = AdamW {
                learning_rate,
                weight_decay,
                grad_scale,
                ..self.settings
            };
            let Moments { m, v, .. } = moments;
            self.backend
                .adamw(&mut parameter.value, &parameter.grad, m, v, settings);
        }
    }

    /// Updates done: one less than the run's for each update that had nothing to learn from.
    pub(crate) fn updates(&self) -> u64 {
        self.settings.step
    }

    /// The moments, under torch's names for them.
    pub(crate) fn state(&self, parameters: &[Parameter<B>]) -> Result<Tensors, EngineError> {
        let mut tensors = Tensors::default();
        for (parameter, moments) in parameters.iter().zip(&self.moments) {
            for (kind, buf) in [("exp_avg", &moments.m), ("exp_avg_sq", &moments.v)] {
                let name = format!("{}.{kind}", parameter.name);
                tensors.push(name, &parameter.shape, &self.backend.download(buf)?);
            }
        }
        Ok(tensors)
    }

    /// Takes over what [`Optimizer::state`] gave.
    pub(crate) fn restore(
        &mut self,
        parameters: &[Parameter<B>],
        updates: u64,
        stored: &Stored,
    ) -> Result<(), TrainError> {
        for (parameter, moments) in parameters.iter().zip(&mut self.moments) {
            for (kind, buf) in [("exp_avg", &mut moments.m), ("exp_avg_sq", &mut moments.v)] {
                let name = format!("{}.{kind}", parameter.name);
                let values = stored.values(&name, &parameter.shape)?;
                *buf = self.backend.upload(&values);
            }
        }
        self.settings.step = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::reference::Reference;
    use engine::shapes::ComputeDtype;

    fn optimizer(max_grad_norm: f64) -> (Optimizer<Reference>, Vec<Parameter<Reference>>) {
        let backend = Arc::new(Reference::new(ComputeDtype::F32));
        let parameter = |name: &str, grad: &[f32]| Parameter::<Reference> {
            name: name.into(),
            shape: vec![grad.len()],
            value: vec![1.0; grad.len()],
            grad: grad.to_vec(),
            decay: name.starts_with('a'),
        };
        let parameters = vec![
            parameter("a.weight", &[3.0, 0.0]),
            parameter("b.weight", &[4.0]),
        ];
        let arguments = TrainingArguments {
            max_grad_norm,
            ..TrainingArguments::default()
        };
        (Optimizer::new(backend, &parameters, &arguments), parameters)
    }

    #[test]
    fn the_norm_is_over_all_tensors_and_clipping_is_torchs() {
        let (optimizer, parameters) = optimizer(1.0);
        let norm = optimizer.gradient_norm(&parameters).unwrap();
        assert_eq!(norm, 5.0);
        assert_eq!(optimizer.clip_coefficient(norm), 1.0 / (5.0 + 1e-6));
        assert_eq!(optimizer.clip_coefficient(0.5), 1.0);
        assert_eq!(self::optimizer(0.0).0.clip_coefficient(1e9), 1.0);
    }

    #[test]
    fn weight_decay_spares_what_does_not_decay() {
        let (mut optimizer, mut parameters) = optimizer(1.0);
        optimizer.moments[0].weight_decay = 0.5;
        optimizer.step(&mut parameters, 0.25, 5.0);
        assert_eq!(parameters[0].value[1], 1.0 - 0.25 * 0.5);
        assert!((parameters[1].value[0] - 0.75).abs() < 1e-6);
    }

    #[test]
    fn the_first_step_of_adamw_moves_by_the_learning_rate() {
        let (mut optimizer, mut parameters) = optimizer(1.0);
        optimizer.step(&mut parameters, 0.25, 5.0);
        assert!((parameters[1].value[0] - 0.75).abs() < 1e-6);
        assert_eq!(parameters[0].value[1], 1.0);
        assert_eq!(optimizer.updates(), 1);
    }
}
