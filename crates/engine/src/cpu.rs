//! The backend that runs on this machine's cores, over `kernels`.
//!
//! Frozen matrices stay the bytes of their file; a product decodes the panel that it is about to
//! use. Buffers come from a pool, so a step in the steady state neither allocates nor faults pages in.

mod convert;
mod kept;

pub use kept::{Kept, Slopes};

/// A buffer of f32, cut from the backend's pool.
pub use kernels::Block as Buf;

use crate::backend::{Backend, EngineError, Linear, Matrix, Qkv};
use crate::shapes::{
    Activation, AdamW, AttentionShape, ComputeDtype, Dropout, HeadLayout, LoraShape, LossMode,
    Norm, Orient, Rotation, Segment, StoredMatrix, View, ViewMut, Write,
};
use convert::{
    activation_of, attention_of, dropped_or, factors, mat, mat_mut, norm_of, segments_of, stored,
};
use kernels::gemm::{LoraGradients, lora_backward, lora_forward};
use kernels::{
    Context, Isa, Mat, MatMut, Pool, Precision, Product, activation, attention, elementwise,
    embedding, loss, norm, optim, rope,
};
use std::sync::Arc;

/// The cores of this machine.
pub struct Cpu {
    context: Context,
    compute: ComputeDtype,
    pool: Arc<Pool>,
}

/// A frozen matrix: its file's bytes.
#[derive(Clone)]
pub struct Weight(StoredMatrix);

impl Cpu {
    /// A backend with so many threads (`None`: every core that the process may use), whose products with
    /// whole matrices compute in `compute`. `isa` forbids higher instructions, for tests.
    pub fn new(threads: Option<usize>, compute: ComputeDtype, isa: Option<Isa>) -> Self {
        Self {
            context: Context::new(threads, isa),
            compute,
            pool: Arc::default(),
        }
    }

    /// bf16 where this processor multiplies it natively, else f32.
    pub fn best_compute_dtype() -> ComputeDtype {
        if Isa::detect() >= Isa::Avx512Bf16 {
            ComputeDtype::Bf16
        } else {
            ComputeDtype::F32
        }
    }

    /// The instruction set in effect.
    pub fn isa(&self) -> Isa {
        self.context.isa()
    }

    /// Threads that work.
    pub fn threads(&self) -> usize {
        self.context.threads().count()
    }

    fn precision(&self) -> Precision {
        match self.compute {
            ComputeDtype::F32 => Precision::F32,
            ComputeDtype::Bf16 => Precision::Bf16,
        }
    }

    /// `x` with dropout, in a buffer of its own; `None` where there is none.
    fn dropped(&self, x: Mat<'_>, dropout: Option<Dropout>) -> Option<Buf> {
        let dropout = dropout.filter(|dropout| dropout.probability > 0.0)?;
        let mut kept = self.alloc(x.rows * x.cols);
        let to = MatMut::dense(kept.as_mut_slice(), x.rows, x.cols);
        kernels::dropout::dropout(&self.context, x, dropout, to, false);
        Some(kept)
    }

    fn product(
        &self,
        x: View<'_, Buf>,
        weight: Matrix<'_, Self>,
        product: Product,
        bias: Option<&Buf>,
        y: ViewMut<'_, Buf>,
        write: Write,
    ) {
        kernels::gemm(
            &self.context,
            mat(x),
            stored(weight),
            product,
            bias.map(Buf::as_slice),
            mat_mut(y),
            write == Write::Add,
            self.precision(),
        );
    }
}

fn forward_product(orient: Orient) -> Product {
    match orient {
        Orient::OutIn => Product::Nt,
        Orient::InOut => Product::Nn,
    }
}

impl Backend for Cpu {
    type Buf = Buf;
    type Ids = Vec<u32>;
    type Kept = Kept;
    type Slopes = Slopes;
    type Weight = Weight;

    fn compute_dtype(&self) -> ComputeDtype {
        self.compute
    }

    fn alloc(&self, len: usize) -> Buf {
        self.pool.take(len)
    }

    fn zeros(&self, len: usize) -> Buf {
        let mut buf = self.alloc(len);
        self.fill(&mut buf, 0.0);
        buf
    }

    fn upload(&self, values: &[f32]) -> Buf {
        let mut buf = self.alloc(values.len());
        buf.as_mut_slice().copy_from_slice(values);
        buf
    }

    fn download(&self, buf: &Buf) -> Result<Vec<f32>, EngineError> {
        Ok(buf.as_slice().to_vec())
    }

    fn len(&self, buf: &Buf) -> usize {
        buf.as_slice().len()
    }

    fn upload_ids(&self, ids: &[u32]) -> Vec<u32> {
        ids.to_vec()
    }

    fn weight(&self, stored: StoredMatrix) -> Result<Weight, EngineError> {
        stored.checked_bytes()?;
        Ok(Weight(stored))
    }

    fn keep(&self, x: Buf) -> Kept {
        self.lay_by(x)
    }

    fn keep_copy(&self, x: &Buf) -> Kept {
        self.lay_by_copy(x)
    }

    fn recall(&self, kept: Kept) -> Buf {
        self.take_up(kept)
    }

    fn copy(&self, x: View<'_, Buf>, y: ViewMut<'_, Buf>, write: Write) {
        elementwise::copy(&self.context, mat(x), mat_mut(y), write == Write::Add);
    }

    fn fill(&self, buf: &mut Buf, value: f32) {
        elementwise::fill(&self.context, buf.as_mut_slice(), value);
    }

    fn gather_rows(&self, x: View<'_, Buf>, rows: &Vec<u32>, y: ViewMut<'_, Buf>) {
        elementwise::gather(&self.context, mat(x), rows, mat_mut(y));
    }

    fn scatter_rows(&self, dy: View<'_, Buf>, rows: &Vec<u32>, dx: ViewMut<'_, Buf>) {
        embedding::scatter_add(&self.context, mat(dy), rows, mat_mut(dx));
    }

    fn embed(&self, table: Matrix<'_, Self>, ids: &Vec<u32>, y: ViewMut<'_, Buf>, write: Write) {
        let add = write == Write::Add;
        embedding::embed(&self.context, stored(table), ids, mat_mut(y), add);
    }

    fn embed_backward(&self, dy: View<'_, Buf>, ids: &Vec<u32>, dtable: &mut Buf) {
        let cols = dy.span.cols;
        let rows = dtable.as_slice().len() / cols;
        let table = MatMut::dense(dtable.as_mut_slice(), rows, cols);
        embedding::scatter_add(&self.context, mat(dy), ids, table);
    }

    fn linear(
        &self,
        x: View<'_, Buf>,
        weight: Matrix<'_, Self>,
        orient: Orient,
        bias: Option<&Buf>,
        y: ViewMut<'_, Buf>,
        write: Write,
    ) {
        self.product(x, weight, forward_product(orient), bias, y, write);
    }

    fn linear_group(
        &self,
        x: View<'_, Buf>,
        group: &[Linear<'_, Self>],
        orient: Orient,
        y: ViewMut<'_, Buf>,
        write: Write,
    ) {
        let product = forward_product(orient);
        let biased = group.iter().map(|linear| {
            let weight = stored(linear.weight);
            let (_, columns) = product.sizes(weight.rows, weight.cols);
            assert_eq!(columns, linear.out_features, "columns of a projection");
            (weight, linear.bias.map(Buf::as_slice))
        });
        let group: Vec<_> = biased.collect();
        kernels::gemm_group(
            &self.context,
            mat(x),
            &group,
            product,
            mat_mut(y),
            write == Write::Add,
            self.precision(),
        );
    }

    fn linear_backward_input(
        &self,
        dy: View<'_, Buf>,
        weight: Matrix<'_, Self>,
        orient: Orient,
        dx: ViewMut<'_, Buf>,
        write: Write,
    ) {
        let product = match orient {
            Orient::OutIn => Product::Nn,
            Orient::InOut => Product::Nt,
        };
        self.product(dy, weight, product, None, dx, write);
    }

    fn linear_backward_weight(
        &self,
        x: View<'_, Buf>,
        dy: View<'_, Buf>,
        orient: Orient,
        dweight: &mut Buf,
    ) {
        let (a, b) = match orient {
            Orient::OutIn => (mat(dy), mat(x)),
            Orient::InOut => (mat(x), mat(dy)),
        };
        let sums = MatMut::dense(dweight.as_mut_slice(), a.cols, b.cols);
        kernels::gemm_tn(&self.context, a, b, 1.0, sums);
    }

    fn bias_backward(&self, dy: View<'_, Buf>, dbias: &mut Buf) {
        elementwise::add_column_sums(&self.context, mat(dy), dbias.as_mut_slice());
    }

    fn lora(
        &self,
        x: View<'_, Buf>,
        a: &Buf,
        b: &Buf,
        shape: LoraShape,
        xa: &mut Buf,
        y: ViewMut<'_, Buf>,
    ) {
        let dropped = self.dropped(mat(x), shape.dropout);
        let input = dropped_or(&dropped, x);
        let factors = factors(a, b, shape, x.span.cols, y.span.cols);
        let size = x.span.rows * shape.rank;
        let xa = MatMut::dense(&mut xa.as_mut_slice()[..size], x.span.rows, shape.rank);
        lora_forward(&self.context, input, factors, xa, mat_mut(y));
    }

    fn lora_backward(
        &self,
        x: View<'_, Buf>,
        xa: &Buf,
        dy: View<'_, Buf>,
        a: &Buf,
        b: &Buf,
        shape: LoraShape,
        da: &mut Buf,
        db: &mut Buf,
        dx: Option<ViewMut<'_, Buf>>,
    ) {
        let (tokens, inputs, outputs) = (x.span.rows, x.span.cols, dy.span.cols);
        let dropped = self.dropped(mat(x), shape.dropout);
        // With dropout the input's gradient goes through the mask, so it is made apart.
        let mut behind = dropped
            .as_ref()
            .filter(|_| dx.is_some())
            .map(|_| self.zeros(tokens * inputs));
        let mut dx = dx.map(mat_mut);
        let straight = match &mut behind {
            Some(behind) => Some(MatMut::dense(behind.as_mut_slice(), tokens, inputs)),
            None => dx.as_mut().map(MatMut::reborrow),
        };
        lora_backward(
            &self.context,
            dropped_or(&dropped, x),
            Mat::dense(&xa.as_slice()[..tokens * shape.rank], tokens, shape.rank),
            mat(dy),
            factors(a, b, shape, inputs, outputs),
            LoraGradients {
                da: MatMut::dense(da.as_mut_slice(), shape.rank, inputs),
                db: MatMut::dense(db.as_mut_slice(), outputs, shape.rank),
                dx: straight,
            },
        );
        if let (Some(behind), Some(dropout), Some(dx)) = (&behind, shape.dropout, dx) {
            let behind = Mat::dense(behind.as_slice(), tokens, inputs);
            kernels::dropout::dropout(&self.context, behind, dropout, dx, true);
        }
    }

    fn norm(
        &self,
        norm: Norm,
        x: View<'_, Buf>,
        weight: &Buf,
        bias: Option<&Buf>,
        y: ViewMut<'_, Buf>,
        stats: &mut Buf,
    ) {
        norm::forward(
            &self.context,
            norm_of(norm),
            mat(x),
            weight.as_slice(),
            bias.map(Buf::as_slice),
            mat_mut(y),
            stats.as_mut_slice(),
        );
    }

    fn norm_backward(
        &self,
        norm: Norm,
        x: View<'_, Buf>,
        stats: &Buf,
        weight: &Buf,
        dy: View<'_, Buf>,
        dx: ViewMut<'_, Buf>,
        write: Write,
    ) {
        norm::backward(
            &self.context,
            norm_of(norm),
            mat(x),
            stats.as_slice(),
            weight.as_slice(),
            mat(dy),
            mat_mut(dx),
            write == Write::Add,
        );
    }

    fn norm_backward_parameters(
        &self,
        _norm: Norm,
        x: View<'_, Buf>,
        stats: &Buf,
        dy: View<'_, Buf>,
        dweight: Option<&mut Buf>,
        dbias: Option<&mut Buf>,
    ) {
        norm::backward_parameters(
            &self.context,
            mat(x),
            stats.as_slice(),
            mat(dy),
            dweight.map(Buf::as_mut_slice),
            dbias.map(Buf::as_mut_slice),
        );
    }

    fn activation(&self, f: Activation, x: View<'_, Buf>, y: ViewMut<'_, Buf>) {
        activation::forward(&self.context, activation_of(f), mat(x), mat_mut(y));
    }

    fn activation_backward(&self, f: Activation, x: View<'_, Buf>, dy: ViewMut<'_, Buf>) {
        activation::backward_in_place(&self.context, activation_of(f), mat(x), mat_mut(dy));
    }

    fn activation_keep(&self, f: Activation, x: Buf, rows: usize) -> (Buf, Slopes) {
        self.activate_and_lay_by(f, x, rows)
    }

    fn activation_recall(&self, f: Activation, slopes: Slopes, dy: ViewMut<'_, Buf>) {
        self.times_slopes(f, slopes, dy);
    }

    fn gated_activation(&self, f: Activation, gate_up: View<'_, Buf>, y: ViewMut<'_, Buf>) {
        activation::gated(&self.context, activation_of(f), mat(gate_up), mat_mut(y));
    }

    fn gated_activation_backward(
        &self,
        f: Activation,
        gate_up: ViewMut<'_, Buf>,
        dy: View<'_, Buf>,
    ) {
        let f = activation_of(f);
        activation::gated_backward(&self.context, f, mat_mut(gate_up), mat(dy));
    }

    fn rotate(
        &self,
        shape: &AttentionShape,
        qkv: ViewMut<'_, Buf>,
        positions: &Vec<u32>,
        table: View<'_, Buf>,
        rotation: Rotation,
    ) {
        let heads = |layout: HeadLayout, count| rope::Heads {
            offset: layout.offset,
            stride: layout.stride,
            count,
        };
        let kinds = [
            heads(shape.query, shape.heads),
            heads(shape.key, shape.kv_heads),
        ];
        let back = rotation == Rotation::Backward;
        rope::rotate(
            &self.context,
            mat_mut(qkv),
            &kinds,
            positions,
            mat(table),
            back,
        );
    }

    fn attention(
        &self,
        shape: &AttentionShape,
        qkv: Qkv<'_, Self>,
        segments: &[Segment],
        out: ViewMut<'_, Buf>,
    ) {
        let qkv = match qkv {
            Qkv::Made(view) => mat(view).into(),
            Qkv::Kept(kept) => kept.stream(out.span.rows),
        };
        attention::forward(
            &self.context,
            &attention_of(shape, self.precision()),
            qkv,
            &segments_of(segments),
            mat_mut(out),
        );
    }

    fn attention_backward(
        &self,
        shape: &AttentionShape,
        qkv: &Kept,
        segments: &[Segment],
        dout: View<'_, Buf>,
        dqkv: ViewMut<'_, Buf>,
    ) {
        attention::backward(
            &self.context,
            &attention_of(shape, self.precision()),
            qkv.stream(dqkv.span.rows),
            &segments_of(segments),
            mat(dout),
            mat_mut(dqkv),
        );
    }

    fn attention_cached(
        &self,
        shape: &AttentionShape,
        qkv: View<'_, Buf>,
        keys: &mut Buf,
        values: &mut Buf,
        past: usize,
        out: ViewMut<'_, Buf>,
    ) {
        attention::cached(
            &self.context,
            &attention_of(shape, self.precision()),
            mat(qkv),
            keys.as_mut_slice(),
            values.as_mut_slice(),
            past,
            mat_mut(out),
        );
    }

    fn cross_entropy(
        &self,
        logits: ViewMut<'_, Buf>,
        targets: &Vec<u32>,
        weights: &Buf,
        first: usize,
        label_smoothing: f32,
        mode: LossMode,
        losses: &mut Buf,
    ) {
        let rows = first..first + logits.span.rows;
        let work = loss::CrossEntropy {
            targets: &targets[rows.clone()],
            weights: &weights.as_slice()[rows.clone()],
            label_smoothing,
            gradient: mode == LossMode::LossAndGradient,
        };
        let losses = &mut losses.as_mut_slice()[rows];
        loss::cross_entropy(&self.context, mat_mut(logits), work, losses);
    }

    fn sum_of_squares(&self, buf: &Buf) -> Result<f64, EngineError> {
        Ok(elementwise::sum_of_squares(&self.context, buf.as_slice()))
    }

    fn adamw(
        &self,
        parameter: &mut Buf,
        gradient: &Buf,
        m: &mut Buf,
        v: &mut Buf,
        settings: AdamW,
    ) {
        let parameter = optim::Parameter {
            value: parameter.as_mut_slice(),
            m: m.as_mut_slice(),
            v: v.as_mut_slice(),
        };
        let settings = optim::AdamW {
            learning_rate: settings.learning_rate,
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            weight_decay: settings.weight_decay,
            step: settings.step,
            grad_scale: settings.grad_scale,
        };
        optim::adamw(&self.context, parameter, gradient.as_slice(), settings);
    }
}
