//! Norms, activations, rows by number, optimizer steps.

use super::{Output, collect, random, span, view, view_mut};
use lowrank_engine::backend::{Backend, Matrix};
use lowrank_engine::shapes::{Activation, AdamW, Norm, Write};
use proptest::prelude::*;

/// Operations on rows and elements.
#[derive(Debug, Clone)]
pub(crate) struct Elements {
    rows: usize,
    cols: usize,
    gap: usize,
    add: bool,
    layer: bool,
    activation: Activation,
    key: u64,
}

impl Elements {
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        let activations = [
            Activation::GeluTanh,
            Activation::Gelu,
            Activation::Silu,
            Activation::Relu,
        ];
        let activation = prop::sample::select(activations.to_vec());
        (
            1usize..30,
            2usize..140,
            0usize..4,
            any::<[bool; 2]>(),
            activation,
            any::<u64>(),
        )
            .prop_map(|(rows, cols, gap, flags, activation, key)| Self {
                rows,
                cols,
                gap,
                add: flags[0],
                layer: flags[1],
                activation,
                key,
            })
    }

    pub(super) fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let mut outputs = self.norm(backend);
        outputs.extend(self.activation(backend));
        outputs.extend(self.kept(backend));
        outputs.extend(self.rows(backend));
        outputs.extend(self.step(backend));
        outputs
    }

    fn write(&self) -> Write {
        if self.add { Write::Add } else { Write::Set }
    }

    fn input<B: Backend>(&self, backend: &B, len: usize, k: u64) -> B::Buf {
        backend.upload(&random(len, self.key ^ k))
    }

    fn norm<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let at = span(self.rows, self.cols, self.gap);
        // With so large an eps no row of two equal values has a huge 1/deviation.
        let norm = if self.layer {
            Norm::Layer { eps: 0.1 }
        } else {
            Norm::Rms { eps: 0.1 }
        };
        let [x, dy] = [1, 2].map(|k| self.input(backend, at.end(), k));
        let [weight, bias] = [3, 4].map(|k| self.input(backend, self.cols, k));
        let [mut y, mut dx] = [5, 6].map(|k| self.input(backend, at.end(), k));
        let [mut dw, mut db] = [7, 8].map(|k| self.input(backend, self.cols, k));
        let mut stats = backend.alloc(2 * self.rows);
        let bias = self.layer.then_some(&bias);
        backend.norm(
            norm,
            view(&x, at),
            &weight,
            bias,
            view_mut(&mut y, at),
            &mut stats,
        );
        backend.norm_backward(
            norm,
            view(&x, at),
            &stats,
            &weight,
            view(&dy, at),
            view_mut(&mut dx, at),
            self.write(),
        );
        backend.norm_backward_parameters(
            norm,
            view(&x, at),
            &stats,
            view(&dy, at),
            Some(&mut dw),
            self.layer.then_some(&mut db),
        );
        vec![
            collect(backend, "norm", &y),
            collect(backend, "stats", &stats),
            collect(backend, "norm dx", &dx),
            collect(backend, "norm dweight", &dw),
            collect(backend, "norm dbias", &db),
        ]
    }

    fn activation<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let (one, two) = (
            span(self.rows, self.cols, self.gap),
            span(self.rows, 2 * self.cols, self.gap),
        );
        let wide: Vec<f32> = random(two.end(), self.key ^ 1)
            .iter()
            .map(|x| 6.0 * x)
            .collect();
        let (x, mut dgated) = (backend.upload(&wide), backend.upload(&wide));
        let [dy, mut dx] = [2, 2].map(|k| self.input(backend, one.end(), k));
        let [mut y, mut gated] = [3, 5].map(|k| self.input(backend, one.end(), k));
        let f = self.activation;
        backend.activation(f, view(&x, one), view_mut(&mut y, one));
        backend.activation_backward(f, view(&x, one), view_mut(&mut dx, one));
        backend.gated_activation(f, view(&x, two), view_mut(&mut gated, one));
        backend.gated_activation_backward(f, view_mut(&mut dgated, two), view(&dy, one));
        vec![
            collect(backend, "activation", &y),
            collect(backend, "activation dx", &dx),
            collect(backend, "gated", &gated),
            collect(backend, "gated dx", &dgated),
        ]
    }

    /// What is laid by for a backward pass, and the slopes of an activation.
    fn kept<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let (rows, cols) = (self.rows, self.cols);
        let dense = span(rows, cols, 0);
        let wide: Vec<f32> = random(dense.end(), self.key ^ 7)
            .iter()
            .map(|x| 6.0 * x)
            .collect();
        let x = backend.upload(&wide);
        let copy = backend.recall(backend.keep_copy(&x));
        let moved = backend.recall(backend.keep(backend.upload(&wide)));
        let mut dx = self.input(backend, dense.end(), 8);
        let (y, slopes) = backend.activation_keep(self.activation, x, rows);
        backend.activation_recall(self.activation, slopes, view_mut(&mut dx, dense));
        vec![
            collect(backend, "a copy kept", &copy),
            collect(backend, "a buffer kept", &moved),
            collect(backend, "activation, slopes kept", &y),
            collect(backend, "kept slopes dx", &dx),
        ]
    }

    fn rows<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let at = span(self.rows, self.cols, self.gap);
        let many: Vec<u32> = (0..self.rows as u32).map(|i| i * 7 % 5).collect();
        // 37 is prime and there are fewer rows, so none comes twice.
        let once: Vec<u32> = (0..self.rows).map(|i| (i * 31 % 37) as u32).collect();
        let table = self.input(backend, 5 * self.cols, 1);
        let table = Matrix::Dense {
            values: &table,
            rows: 5,
            cols: self.cols,
        };
        let (many, once) = (backend.upload_ids(&many), backend.upload_ids(&once));
        let [x, mut y] = [2, 3].map(|k| self.input(backend, at.end(), k));
        let mut dtable = self.input(backend, 5 * self.cols, 4);
        let large = span(37, self.cols, self.gap);
        let mut scattered = self.input(backend, large.end(), 5);
        backend.embed(table, &many, view_mut(&mut y, at), self.write());
        backend.copy(view(&x, at), view_mut(&mut y, at), Write::Add);
        backend.embed_backward(view(&x, at), &many, &mut dtable);
        backend.scatter_rows(view(&x, at), &once, view_mut(&mut scattered, large));
        let mut gathered = backend.zeros(at.end());
        backend.gather_rows(view(&scattered, large), &once, view_mut(&mut gathered, at));
        vec![
            collect(backend, "embed", &y),
            collect(backend, "dtable", &dtable),
            collect(backend, "scattered", &scattered),
            collect(backend, "gathered", &gathered),
        ]
    }

    fn step<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let size = self.rows * self.cols;
        let [mut p, g] = [1, 2].map(|k| self.input(backend, size, k));
        let [mut m, mut v] = [backend.zeros(size), backend.zeros(size)];
        for step in 1..=3 {
            let settings = AdamW {
                learning_rate: 1e-2,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-6,
                weight_decay: 0.1,
                step,
                grad_scale: 0.5 + step as f32,
            };
            backend.adamw(&mut p, &g, &mut m, &mut v, settings);
        }
        let squares = backend.sum_of_squares(&p).unwrap() as f32;
        vec![
            collect(backend, "parameter", &p),
            collect(backend, "m", &m),
            collect(backend, "v", &v),
            Output {
                name: "squares",
                values: vec![squares],
                sizes: None,
            },
        ]
    }
}
