//! Random cases of every operation, each run through the door of any backend.

use lowrank_engine::backend::{Backend, Matrix};
use lowrank_engine::cpu::Cpu;
use lowrank_engine::reference::Reference;
use lowrank_engine::shapes::{
    Activation, AdamW, AttentionShape, Dropout, HeadLayout, LoraShape, LossMode, Norm, Orient,
    Prefix, Rotation, Segment, Span, StoredDtype, StoredMatrix, View, ViewMut, Write, uniform,
};
use proptest::prelude::*;
use std::sync::Arc;

/// What an operation wrote, whole buffers with all that lies between rows.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) name: &'static str,
    pub(super) values: Vec<f32>,
    /// For each value the sum of the sizes of the terms that it sums.
    pub(super) sizes: Option<Vec<f32>>,
}

/// A case that any backend can run.
pub(super) trait Op {
    fn cpu(&self, backend: &Cpu) -> Vec<Output>;
    fn reference(&self, backend: &Reference) -> Vec<Output>;
}

macro_rules! op {
    ($name:ty) => {
        impl Op for $name {
            fn cpu(&self, backend: &Cpu) -> Vec<Output> {
                self.run(backend)
            }
            fn reference(&self, backend: &Reference) -> Vec<Output> {
                self.run(backend)
            }
        }
    };
}
op!(Projection);
op!(Lora);
op!(Elements);
op!(Attention);
op!(Losses);

fn random(len: usize, key: u64) -> Vec<f32> {
    (0..len)
        .map(|i| 2.0 * uniform(key, i as u64) - 1.0)
        .collect()
}

fn magnitudes(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| x.abs()).collect()
}

/// A rectangle with `gap` unused elements before the first row and between rows.
fn span(rows: usize, cols: usize, gap: usize) -> Span {
    Span {
        offset: gap,
        stride: cols + gap,
        rows,
        cols,
    }
}

fn view<T>(buf: &T, span: Span) -> View<'_, T> {
    View { buf, span }
}

fn view_mut<T>(buf: &mut T, span: Span) -> ViewMut<'_, T> {
    ViewMut { buf, span }
}

fn collect<B: Backend>(backend: &B, name: &'static str, buf: &B::Buf) -> Output {
    Output {
        name,
        values: backend.download(buf).unwrap(),
        sizes: None,
    }
}

/// A matrix that multiplies, forward, backward and its own gradient.
#[derive(Debug, Clone)]
pub(super) struct Projection {
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
    pub(super) fn any() -> impl Strategy<Value = Self> {
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
    pub(super) fn depth(&self) -> usize {
        self.tokens.max(self.inputs).max(self.outputs)
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
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
        let weight = if self.dense {
            Matrix::Dense {
                values: &values,
                rows: shape.0,
                cols: shape.1,
            }
        } else {
            Matrix::Frozen(&frozen)
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

/// A rank-R delta.
#[derive(Debug, Clone)]
pub(super) struct Lora {
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
    pub(super) fn any() -> impl Strategy<Value = Self> {
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
    pub(super) fn roundings(&self) -> f64 {
        let longest = self.tokens.max(self.inputs).max(self.outputs) + self.rank;
        10.0 * (longest as f64 + 10.0)
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let input = |len, k| backend.upload(&random(len, self.key ^ k));
        let shape = LoraShape {
            rank: self.rank,
            scaling: 1.75,
            dropout: self.dropout.map(|probability| Dropout {
                probability,
                key: self.key,
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

/// Operations on rows and elements.
#[derive(Debug, Clone)]
pub(super) struct Elements {
    rows: usize,
    cols: usize,
    gap: usize,
    add: bool,
    layer: bool,
    activation: Activation,
    key: u64,
}

impl Elements {
    pub(super) fn any() -> impl Strategy<Value = Self> {
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

    fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let mut outputs = self.norm(backend);
        outputs.extend(self.activation(backend));
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
        let x = backend.upload(&wide);
        let dy = self.input(backend, one.end(), 2);
        let [mut y, mut dx, mut gated] = [3, 4, 5].map(|k| self.input(backend, one.end(), k));
        let mut dgated = self.input(backend, two.end(), 6);
        let f = self.activation;
        backend.activation(f, view(&x, one), view_mut(&mut y, one));
        backend.activation_backward(f, view(&x, one), view(&dy, one), view_mut(&mut dx, one));
        backend.gated_activation(f, view(&x, two), view_mut(&mut gated, one));
        backend.gated_activation_backward(
            f,
            view(&x, two),
            view(&dy, one),
            view_mut(&mut dgated, two),
        );
        vec![
            collect(backend, "activation", &y),
            collect(backend, "activation dx", &dx),
            collect(backend, "gated", &gated),
            collect(backend, "gated dx", &dgated),
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

/// Rotation and attention.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    lens: Vec<usize>,
    shared: bool,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    layout: u8,
    alibi: bool,
    window: Option<usize>,
    gap: usize,
    key: u64,
}

impl Attention {
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let tokens = (
            prop::collection::vec(1usize..24, 1..5),
            any::<bool>(),
            0usize..4,
        );
        let heads = (1usize..4, 1usize..3, 1usize..20, 0u8..2);
        let rest = (any::<bool>(), prop::option::of(1usize..30), any::<u64>());
        (tokens, heads, rest).prop_map(
            |((lens, shared, gap), (kv_heads, group, half, layout), (alibi, window, key))| Self {
                lens,
                shared,
                kv_heads,
                group,
                head_dim: 2 * half,
                layout,
                alibi,
                window,
                gap,
                key,
            },
        )
    }

    /// BLOOM's interleaved row (which has no groups), or all queries, all keys, all values.
    fn shape(&self) -> AttentionShape {
        let size = self.head_dim;
        let interleaved = self.layout == 0;
        let kv_heads = self.kv_heads;
        let heads = if interleaved {
            kv_heads
        } else {
            kv_heads * self.group
        };
        let at = |first: usize, place: usize| HeadLayout {
            offset: if interleaved {
                place * size
            } else {
                first * size
            },
            stride: if interleaved { 3 * size } else { size },
        };
        AttentionShape {
            heads,
            kv_heads,
            head_dim: size,
            scale: 1.0 / (size as f32).sqrt(),
            query: at(0, 0),
            key: at(heads, 1),
            value: at(heads + kv_heads, 2),
            alibi_slopes: self
                .alibi
                .then(|| (0..heads).map(|h| 0.7f32.powi(h as i32 + 1)).collect()),
            sliding_window: self.window,
        }
    }

    fn segments(&self) -> Vec<Segment> {
        let first = Prefix {
            start: 0,
            len: self.lens[0],
        };
        let mut start = 0;
        self.lens
            .iter()
            .map(|len| {
                let prefix = (self.shared && start > 0).then_some(first);
                start += len;
                Segment {
                    start: start - len,
                    len: *len,
                    prefix,
                }
            })
            .collect()
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let shape = self.shape();
        let tokens: usize = self.lens.iter().sum();
        let at = span(
            tokens,
            (shape.heads + 2 * shape.kv_heads) * shape.head_dim,
            self.gap,
        );
        let to = span(tokens, shape.heads * shape.head_dim, self.gap);
        let input = |len, k| backend.upload(&random(len, self.key ^ k));
        let mut qkv = input(at.end(), 1);
        let half = shape.head_dim.div_ceil(4);
        let table = input(tokens * 2 * half, 2);
        let table = Span::dense(tokens, 2 * half).of(&table);
        let positions: Vec<u32> = (0..tokens as u32).rev().collect();
        let positions = backend.upload_ids(&positions);
        backend.rotate(
            &shape,
            view_mut(&mut qkv, at),
            &positions,
            table,
            Rotation::Forward,
        );
        let (mut out, mut lse) = (input(to.end(), 3), backend.alloc(tokens * shape.heads));
        let segments = self.segments();
        backend.attention(
            &shape,
            view(&qkv, at),
            &segments,
            view_mut(&mut out, to),
            &mut lse,
        );
        let (dout, mut dqkv) = (input(to.end(), 4), input(at.end(), 5));
        backend.attention_backward(
            &shape,
            view(&qkv, at),
            &segments,
            view(&out, to),
            &lse,
            view(&dout, to),
            view_mut(&mut dqkv, at),
        );
        backend.rotate(
            &shape,
            view_mut(&mut dqkv, at),
            &positions,
            table,
            Rotation::Backward,
        );
        let mut outputs = vec![
            collect(backend, "rotated", &qkv),
            collect(backend, "attended", &out),
            collect(backend, "lse", &lse),
            collect(backend, "dqkv", &dqkv),
        ];
        outputs.push(self.cached(backend, &shape, &qkv, at));
        outputs
    }

    /// The first tokens in one go, the others one by one or three by three.
    fn cached<B: Backend>(
        &self,
        backend: &B,
        shape: &AttentionShape,
        qkv: &B::Buf,
        at: Span,
    ) -> Output {
        let width = shape.kv_heads * shape.head_dim;
        let [mut keys, mut values] = [
            backend.zeros(at.rows * width),
            backend.zeros(at.rows * width),
        ];
        let to = span(at.rows, shape.heads * shape.head_dim, self.gap);
        let mut out = backend.zeros(to.end());
        let mut past = 0;
        while past < at.rows {
            let new = if past == 0 {
                self.lens[0]
            } else {
                1 + past % 3
            }
            .min(at.rows - past);
            let rows = view_mut(&mut out, to.rows(past, new));
            backend.attention_cached(
                shape,
                view(qkv, at.rows(past, new)),
                &mut keys,
                &mut values,
                past,
                rows,
            );
            past += new;
        }
        collect(backend, "cached", &out)
    }
}

/// Spans as views, for a buffer that is read often.
trait Of {
    fn of<T>(self, buf: &T) -> View<'_, T>;
}

impl Of for Span {
    fn of<T>(self, buf: &T) -> View<'_, T> {
        View { buf, span: self }
    }
}

/// Cross-entropy in two chunks.
#[derive(Debug, Clone)]
pub(super) struct Losses {
    rows: usize,
    vocabulary: usize,
    gap: usize,
    smoothing: f32,
    gradient: bool,
    key: u64,
}

impl Losses {
    pub(super) fn any() -> impl Strategy<Value = Self> {
        (
            1usize..9,
            2usize..2000,
            0usize..4,
            prop::sample::select(vec![0.0f32, 0.1]),
            any::<bool>(),
            any::<u64>(),
        )
            .prop_map(|(rows, vocabulary, gap, smoothing, gradient, key)| Self {
                rows,
                vocabulary,
                gap,
                smoothing,
                gradient,
                key,
            })
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let all = self.rows + 3;
        let targets: Vec<u32> = (0..all)
            .map(|r| (r * 977 % self.vocabulary) as u32)
            .collect();
        let targets = backend.upload_ids(&targets);
        let weights = backend.upload(&random(all, self.key ^ 1));
        let mut losses = backend.zeros(all);
        let mode = if self.gradient {
            LossMode::LossAndGradient
        } else {
            LossMode::Loss
        };
        let mut outputs = Vec::new();
        for (first, rows) in [(0, 3), (3, self.rows)] {
            let at = span(rows, self.vocabulary, self.gap);
            let logits: Vec<f32> = random(at.end(), self.key ^ 2)
                .iter()
                .map(|x| 9.0 * x)
                .collect();
            let mut logits = backend.upload(&logits);
            let chunk = view_mut(&mut logits, at);
            backend.cross_entropy(
                chunk,
                &targets,
                &weights,
                first,
                self.smoothing,
                mode,
                &mut losses,
            );
            if self.gradient {
                outputs.push(collect(backend, "dlogits", &logits));
            }
        }
        outputs.push(collect(backend, "losses", &losses));
        outputs
    }
}
