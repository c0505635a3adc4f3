//! Low-rank deltas.

use super::{Output, collect, random, span, view, view_mut};
use lowrank_engine::backend::Backend;
use lowrank_engine::shapes::{Dropout, LoraShape};
use proptest::prelude::*;

/// A rank-R delta.
#[derive(Debug, Clone)]
pub(crate) struct Lora {
    tokens: usize,
    inputs: usize,
    outputs: usize,
    rank: usize,
    gap: usize,
    dropout: Option<f32>,
    input_gradient: bool,
    key: u64,
}

impl Lora {
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        let sizes = (1usize..40, 1usize..90, 1usize..90, 1usize..20, 0usize..4);
        let rest = (prop::option::of(0.0f32..0.9), any::<bool>(), any::<u64>());
        (sizes, rest).prop_map(
            |((tokens, inputs, outputs, rank, gap), (dropout, input_gradient, key))| Self {
                tokens,
                inputs,
                outputs,
                rank,
                gap,
                dropout,
                input_gradient,
                key,
            },
        )
    }

    /// Two sums after each other, and kept inputs up to ten times as large.
    pub(crate) fn roundings(&self) -> f64 {
        let longest = self.tokens.max(self.inputs).max(self.outputs) + self.rank;
        10.0 * (longest as f64 + 10.0)
    }

    pub(super) fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let input = |len, k| backend.upload(&random(len, self.key ^ k));
        let shape = LoraShape {
            rank: self.rank,
            scaling: 1.75,
            dropout: self.dropout.map(|probability| Dropout {
                probability,
                key: self.key,
                first_row: 2,
            }),
        };
        let x_span = span(self.tokens, self.inputs, self.gap);
        let y_span = span(self.tokens, self.outputs, self.gap);
        let (x, dy) = (input(x_span.end(), 1), input(y_span.end(), 2));
        let (a, b) = (
            input(self.rank * self.inputs, 3),
            input(self.outputs * self.rank, 4),
        );
        let (mut y, mut dx) = (input(y_span.end(), 5), input(x_span.end(), 6));
        let mut xa = input(self.tokens * self.rank, 7);
        let (mut da, mut db) = (
            input(self.rank * self.inputs, 8),
            input(self.outputs * self.rank, 9),
        );
        backend.lora(
            view(&x, x_span),
            &a,
            &b,
            shape,
            &mut xa,
            view_mut(&mut y, y_span),
        );
        let gradient = self.input_gradient.then(|| view_mut(&mut dx, x_span));
        backend.lora_backward(
            view(&x, x_span),
            &xa,
            view(&dy, y_span),
            &a,
            &b,
            shape,
            &mut da,
            &mut db,
            gradient,
        );
        vec![
            collect(backend, "y", &y),
            collect(backend, "xa", &xa),
            collect(backend, "da", &da),
            collect(backend, "db", &db),
            collect(backend, "dx", &dx),
        ]
    }
}
