//! The operations.
//!
//! Conventions. Buffers hold f32. `T` rows are tokens. Gradients of parameters are always added
//! (`d… += …`), since an update may take several passes; gradients of activations follow [`Write`].
//! Outputs may not overlap inputs. The same inputs give the same bits for any number of threads.

use crate::shapes::{
    Activation, AdamW, AttentionShape, ComputeDtype, LoraShape, LossMode, Norm, Orient, Rotation,
    Segment, StoredMatrix, View, ViewMut, Write,
};

/// What can fail below the door: only the functions that wait for a value report it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A stored matrix whose bytes are not its shape.
    #[error("a {rows}×{cols} matrix needs {want} bytes: found {found}")]
    StoredSize {
        /// Rows claimed.
        rows: usize,
        /// Columns claimed.
        cols: usize,
        /// Bytes that the shape needs.
        want: usize,
        /// Bytes there are.
        found: usize,
    },
}

/// A matrix that a projection multiplies with.
pub enum Matrix<'a, B: Backend + ?Sized> {
    /// Bytes of a file.
    Frozen(&'a B::Weight),
    /// Trained values, f32, row-major `rows × cols`.
    Dense {
        /// The values.
        values: &'a B::Buf,
        /// Rows as stored.
        rows: usize,
        /// Columns as stored.
        cols: usize,
    },
}

impl<B: Backend + ?Sized> Clone for Matrix<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for Matrix<'_, B> {}

/// Queries, keys and values that attention reads.
pub enum Qkv<'a, B: Backend + ?Sized> {
    /// As projections and rotation left them.
    Made(View<'a, B::Buf>),
    /// As they were laid by, rows without gaps.
    Kept(&'a B::Kept),
}

/// A projection of a group.
pub struct Linear<'a, B: Backend + ?Sized> {
    /// Its matrix.
    pub weight: Matrix<'a, B>,
    /// Its bias, `[O]`.
    pub bias: Option<&'a B::Buf>,
    /// O, its columns of y: the matrix's own.
    pub out_features: usize,
}

/// Buffers and fused operations.
pub trait Backend: Send + Sync {
    /// A buffer of f32.
    type Buf: Send + Sync;
    /// A list of token ids, positions or row numbers.
    type Ids: Send + Sync;
    /// A buffer laid by for the backward pass.
    type Kept: Send + Sync;
    /// Slopes of an activation laid by for the backward pass.
    type Slopes: Send + Sync;
    /// A frozen matrix.
    type Weight: Send + Sync;

    // --- movement ---

    /// The arithmetic of the products.
    fn compute_dtype(&self) -> ComputeDtype;
    /// A buffer whose contents are unspecified.
    fn alloc(&self, len: usize) -> Self::Buf;
    /// A buffer of zeros.
    fn zeros(&self, len: usize) -> Self::Buf;
    /// A buffer with these values.
    fn upload(&self, values: &[f32]) -> Self::Buf;
    /// The values of a buffer.
    ///
    /// # Errors
    /// What an operation enqueued before met.
    fn download(&self, buf: &Self::Buf) -> Result<Vec<f32>, EngineError>;
    /// Elements of a buffer.
    fn len(&self, buf: &Self::Buf) -> usize;
    /// Ids on the device.
    fn upload_ids(&self, ids: &[u32]) -> Self::Ids;
    /// Takes a frozen matrix in (a CPU keeps the mapped bytes, a GPU copies them once).
    ///
    /// # Errors
    /// [`EngineError::StoredSize`].
    fn weight(&self, stored: StoredMatrix) -> Result<Self::Weight, EngineError>;
    /// Lays a buffer by for the backward pass: rounded to bf16 where products round their inputs to it.
    fn keep(&self, x: Self::Buf) -> Self::Kept;
    /// [`Backend::keep`] of a buffer that is needed further.
    fn keep_copy(&self, x: &Self::Buf) -> Self::Kept;
    /// A buffer with what was laid by.
    fn recall(&self, kept: Self::Kept) -> Self::Buf;
    /// `y = x` or `y += x`, of equal size.
    fn copy(&self, x: View<'_, Self::Buf>, y: ViewMut<'_, Self::Buf>, write: Write);
    /// Sets every element.
    fn fill(&self, buf: &mut Self::Buf, value: f32);
    /// `y[i] = x[rows[i]]`.
    fn gather_rows(&self, x: View<'_, Self::Buf>, rows: &Self::Ids, y: ViewMut<'_, Self::Buf>);
    /// `dx[rows[i]] += dy[i]`; `rows` has no repeats.
    fn scatter_rows(&self, dy: View<'_, Self::Buf>, rows: &Self::Ids, dx: ViewMut<'_, Self::Buf>);

    // --- embedding ---

    /// `y[t] = table[ids[t]]`, table `[V, D]`.
    fn embed(
        &self,
        table: Matrix<'_, Self>,
        ids: &Self::Ids,
        y: ViewMut<'_, Self::Buf>,
        write: Write,
    );
    /// `dtable[ids[t]] += dy[t]`, in the order of t.
    fn embed_backward(&self, dy: View<'_, Self::Buf>, ids: &Self::Ids, dtable: &mut Self::Buf);

    // --- projections ---

    /// `y = x·Wᵀ + bias` (or `y += …`), x `[T, D]`, y `[T, O]`.
    fn linear(
        &self,
        x: View<'_, Self::Buf>,
        weight: Matrix<'_, Self>,
        orient: Orient,
        bias: Option<&Self::Buf>,
        y: ViewMut<'_, Self::Buf>,
        write: Write,
    );
    /// [`Self::linear`] of projections that read the same x and are oriented alike; their columns of y follow each other.
    fn linear_group(
        &self,
        x: View<'_, Self::Buf>,
        group: &[Linear<'_, Self>],
        orient: Orient,
        y: ViewMut<'_, Self::Buf>,
        write: Write,
    ) {
        let mut first = 0;
        for linear in group {
            let y = ViewMut {
                buf: &mut *y.buf,
                span: y.span.columns(first, linear.out_features),
            };
            self.linear(x, linear.weight, orient, linear.bias, y, write);
            first += linear.out_features;
        }
    }
    /// `dx = dy·W` (or `dx += …`).
    fn linear_backward_input(
        &self,
        dy: View<'_, Self::Buf>,
        weight: Matrix<'_, Self>,
        orient: Orient,
        dx: ViewMut<'_, Self::Buf>,
        write: Write,
    );
    /// `dweight += dyᵀ·x`, laid out as `orient` says.
    fn linear_backward_weight(
        &self,
        x: View<'_, Self::Buf>,
        dy: View<'_, Self::Buf>,
        orient: Orient,
        dweight: &mut Self::Buf,
    );
    /// `dbias += Σ_t dy[t]`.
    fn bias_backward(&self, dy: View<'_, Self::Buf>, dbias: &mut Self::Buf);
    /// `y += scaling · xa·Bᵀ` with `xa = dropout(x)·Aᵀ` `[T, R]`, which is written for the backward pass.
    fn lora(
        &self,
        x: View<'_, Self::Buf>,
        a: &Self::Buf,
        b: &Self::Buf,
        shape: LoraShape,
        xa: &mut Self::Buf,
        y: ViewMut<'_, Self::Buf>,
    );
    /// With `g = scaling · dy·B` `[T, R]`: `db += scaling · dyᵀ·xa`, `da += gᵀ·dropout(x)`,
    /// `dx += dropout'(g·A)`.
    #[expect(
        clippy::too_many_arguments,
        reason = "a fused operation with two parameters"
    )]
    fn lora_backward(
        &self,
        x: View<'_, Self::Buf>,
        xa: &Self::Buf,
        dy: View<'_, Self::Buf>,
        a: &Self::Buf,
        b: &Self::Buf,
        shape: LoraShape,
        da: &mut Self::Buf,
        db: &mut Self::Buf,
        dx: Option<ViewMut<'_, Self::Buf>>,
    );

    // --- normalisation, activation ---

    /// Normalises each row; `stats` gets what the backward pass needs (2 values a row).
    fn norm(
        &self,
        norm: Norm,
        x: View<'_, Self::Buf>,
        weight: &Self::Buf,
        bias: Option<&Self::Buf>,
        y: ViewMut<'_, Self::Buf>,
        stats: &mut Self::Buf,
    );
    /// Gradient of [`Backend::norm`] with respect to its input.
    #[expect(
        clippy::too_many_arguments,
        reason = "a fused operation with two parameters"
    )]
    fn norm_backward(
        &self,
        norm: Norm,
        x: View<'_, Self::Buf>,
        stats: &Self::Buf,
        weight: &Self::Buf,
        dy: View<'_, Self::Buf>,
        dx: ViewMut<'_, Self::Buf>,
        write: Write,
    );
    /// `dweight += Σ_t dy[t]·x̂[t]`, `dbias += Σ_t dy[t]`.
    fn norm_backward_parameters(
        &self,
        norm: Norm,
        x: View<'_, Self::Buf>,
        stats: &Self::Buf,
        dy: View<'_, Self::Buf>,
        dweight: Option<&mut Self::Buf>,
        dbias: Option<&mut Self::Buf>,
    );
    /// `y = f(x)`.
    fn activation(&self, f: Activation, x: View<'_, Self::Buf>, y: ViewMut<'_, Self::Buf>);
    /// `dy` becomes `f'(x)·dy`.
    fn activation_backward(
        &self,
        f: Activation,
        x: View<'_, Self::Buf>,
        dy: ViewMut<'_, Self::Buf>,
    );
    /// `f(x)` of `rows` rows without gaps, where the backward pass needs of `x` the slopes `f'(x)` alone: they are laid
    /// by within 1/400 where products round their inputs to bf16, and `x` is then the buffer that comes back.
    fn activation_keep(
        &self,
        f: Activation,
        x: Self::Buf,
        rows: usize,
    ) -> (Self::Buf, Self::Slopes);
    /// `dy` becomes `f'(x)·dy`, with what [`Backend::activation_keep`] laid by.
    fn activation_recall(&self, f: Activation, slopes: Self::Slopes, dy: ViewMut<'_, Self::Buf>);
    /// `y = f(gate)·up`; `gate_up` is `[T, 2I]`, gate first.
    fn gated_activation(
        &self,
        f: Activation,
        gate_up: View<'_, Self::Buf>,
        y: ViewMut<'_, Self::Buf>,
    );
    /// Gradient of [`Backend::gated_activation`]: `gate_up` becomes its own.
    fn gated_activation_backward(
        &self,
        f: Activation,
        gate_up: ViewMut<'_, Self::Buf>,
        dy: View<'_, Self::Buf>,
    );

    // --- attention ---

    /// Turns queries and keys of `qkv` in place. `table` is `[positions, 2·half]`: `half` cosines, then
    /// `half` sines, where `2·half` leading elements of each head turn as pairs `(i, i + half)`.
    fn rotate(
        &self,
        shape: &AttentionShape,
        qkv: ViewMut<'_, Self::Buf>,
        positions: &Self::Ids,
        table: View<'_, Self::Buf>,
        rotation: Rotation,
    );
    /// Causal softmax attention inside each segment; `out` is `[T, H·E]`, heads in order. Scores have
    /// `-slope * distance` added where there is `ALiBi`.
    fn attention(
        &self,
        shape: &AttentionShape,
        qkv: Qkv<'_, Self>,
        segments: &[Segment],
        out: ViewMut<'_, Self::Buf>,
    );
    /// Gradient of [`Backend::attention`], from what was laid by of its `qkv`, rows without gaps: sets every query, key
    /// and value column of `dqkv`.
    fn attention_backward(
        &self,
        shape: &AttentionShape,
        qkv: &Self::Kept,
        segments: &[Segment],
        dout: View<'_, Self::Buf>,
        dqkv: ViewMut<'_, Self::Buf>,
    );
    /// Attention of new tokens over a cache: the keys and values of `qkv` (T new tokens, positions
    /// `past .. past + T`) are appended to `keys` and `values` (`[capacity, K·E]`), then each new token attends
    /// to all positions up to its own.
    fn attention_cached(
        &self,
        shape: &AttentionShape,
        qkv: View<'_, Self::Buf>,
        keys: &mut Self::Buf,
        values: &mut Self::Buf,
        past: usize,
        out: ViewMut<'_, Self::Buf>,
    );

    // --- loss ---

    /// Row r: `losses[first + r] = logsumexp(logits) - logits[target]` (with label smoothing ε:
    /// `(1-ε)·that + ε·mean_v(logsumexp - logits[v])`). With [`LossMode::LossAndGradient`] the row is replaced by
    /// `weights[first + r] · ∂loss/∂logits`. Targets and weights are read from `first` on.
    #[expect(
        clippy::too_many_arguments,
        reason = "a fused operation over a chunk of a longer list"
    )]
    fn cross_entropy(
        &self,
        logits: ViewMut<'_, Self::Buf>,
        targets: &Self::Ids,
        weights: &Self::Buf,
        first: usize,
        label_smoothing: f32,
        mode: LossMode,
        losses: &mut Self::Buf,
    );

    // --- update ---

    /// `Σ x²` of a buffer, in a fixed order.
    ///
    /// # Errors
    /// What an operation enqueued before met.
    fn sum_of_squares(&self, buf: &Self::Buf) -> Result<f64, EngineError>;
    /// One step; `m` and `v` are the moments.
    fn adamw(
        &self,
        parameter: &mut Self::Buf,
        gradient: &Self::Buf,
        m: &mut Self::Buf,
        v: &mut Self::Buf,
        settings: AdamW,
    );
}
