//! Products with matrices.

use super::{Output, collect, magnitudes, random, span, view, view_mut};
use lowrank_engine::backend::{Backend, Linear, Matrix};
use lowrank_engine::shapes::{Orient, StoredDtype, StoredMatrix, Write};
use proptest::prelude::*;
use std::sync::Arc;

/// A matrix that multiplies, forward, backward and its own gradient.
#[derive(Debug, Clone)]
pub(crate) struct Projection {
    tokens: usize,
    inputs: usize,
    outputs: usize,
    gap: usize,
    in_out: bool,
    bias: bool,
    add: bool,
    dense: bool,
    dtype: u8,
    key: u64,
}

impl Projection {
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        let sizes = (1usize..40, 1usize..90, 1usize..90, 0usize..4);
        let flags = (any::<[bool; 4]>(), 0u8..3, any::<u64>());
        (sizes, flags).prop_map(
            |((tokens, inputs, outputs, gap), (flags, dtype, key))| Self {
                tokens,
                inputs,
                outputs,
                gap,
                in_out: flags[0],
                bias: flags[1],
                add: flags[2],
                dense: flags[3],
                dtype,
                key,
            },
        )
    }

    /// The longest sum.
    pub(crate) fn depth(&self) -> usize {
        self.tokens.max(self.inputs).max(self.outputs)
    }

    pub(super) fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let mut outputs = self.with(backend, |x| x.to_vec());
        for (output, sizes) in outputs.iter_mut().zip(self.with(backend, magnitudes)) {
            output.sizes = Some(sizes.values);
        }
        outputs
    }

    /// The operations, with all inputs as `see` sees them.
    fn with<B: Backend>(&self, backend: &B, see: impl Fn(&[f32]) -> Vec<f32>) -> Vec<Output> {
        let (rows, cols) = (self.tokens, self.inputs);
        let orient = if self.in_out {
            Orient::InOut
        } else {
            Orient::OutIn
        };
        let shape = if self.in_out {
            (self.inputs, self.outputs)
        } else {
            (self.outputs, self.inputs)
        };
        let write = if self.add { Write::Add } else { Write::Set };
        let input = |len, k| backend.upload(&see(&random(len, self.key ^ k)));
        let x_span = span(rows, cols, self.gap);
        let y_span = span(rows, self.outputs, self.gap);
        let (x, dy) = (input(x_span.end(), 1), input(y_span.end(), 2));
        let values = see(&random(shape.0 * shape.1, self.key ^ 3));
        let frozen = backend.weight(self.stored(&values, shape)).unwrap();
        let values = backend.upload(&values);
        let dense = Matrix::Dense {
            values: &values,
            rows: shape.0,
            cols: shape.1,
        };
        let [weight, other] = if self.dense {
            [dense, Matrix::Frozen(&frozen)]
        } else {
            [Matrix::Frozen(&frozen), dense]
        };
        let bias = self.bias.then(|| input(self.outputs, 4));
        let (mut y, mut dx) = (input(y_span.end(), 5), input(x_span.end(), 6));
        let (mut dw, mut db) = (input(shape.0 * shape.1, 7), input(self.outputs, 8));
        backend.linear(
            view(&x, x_span),
            weight,
            orient,
            bias.as_ref(),
            view_mut(&mut y, y_span),
            write,
        );
        let both_span = span(rows, 2 * self.outputs, self.gap);
        let mut both = input(both_span.end(), 9);
        let linear = |weight, bias| Linear {
            weight,
            bias,
            out_features: self.outputs,
        };
        backend.linear_group(
            view(&x, x_span),
            &[linear(weight, bias.as_ref()), linear(other, None)],
            orient,
            view_mut(&mut both, both_span),
            write,
        );
        backend.linear_backward_input(
            view(&dy, y_span),
            weight,
            orient,
            view_mut(&mut dx, x_span),
            write,
        );
        backend.linear_backward_weight(view(&x, x_span), view(&dy, y_span), orient, &mut dw);
        backend.bias_backward(view(&dy, y_span), &mut db);
        vec![
            collect(backend, "y", &y),
            collect(backend, "y of a group", &both),
            collect(backend, "dx", &dx),
            collect(backend, "dweight", &dw),
            collect(backend, "dbias", &db),
        ]
    }

    fn stored(&self, values: &[f32], (rows, cols): (usize, usize)) -> StoredMatrix {
        let (dtype, bytes): (_, Vec<u8>) = match self.dtype {
            0 => (
                StoredDtype::F32,
                values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            ),
            1 => (
                StoredDtype::F16,
                values
                    .iter()
                    .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
                    .collect(),
            ),
            _ => (
                StoredDtype::Bf16,
                values
                    .iter()
                    .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
                    .collect(),
            ),
        };
        StoredMatrix {
            bytes: Arc::new(bytes),
            dtype,
            rows,
            cols,
        }
    }
}
