//! What operations are told about their operands. Plain values, no numbers of the model in them.
//!
//! Shape letters: T tokens, D hidden, O out, H heads, K kv heads, E head dim, R rank, V vocabulary.

use crate::backend::EngineError;
use std::sync::Arc;

pub use kernels::dropout::Dropout;
pub use kernels::elementwise::uniform;

/// A rectangle of a buffer: row `r` is `buf[offset + r * stride ..][..cols]`.
#[derive(Debug)]
pub struct View<'a, T> {
    /// The buffer looked into.
    pub buf: &'a T,
    /// Where, and how large.
    pub span: Span,
}

/// A rectangle of a buffer that an operation writes.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    /// The buffer written to.
    pub buf: &'a mut T,
    /// Where, and how large.
    pub span: Span,
}

/// Position and size of a rectangle inside a buffer, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First element of the first row.
    pub offset: usize,
    /// Distance between the starts of two rows.
    pub stride: usize,
    /// Rows.
    pub rows: usize,
    /// Columns, at most `stride`.
    pub cols: usize,
}

impl Span {
    /// A rectangle without gaps from the buffer's start.
    pub fn dense(rows: usize, cols: usize) -> Self {
        Self {
            offset: 0,
            stride: cols,
            rows,
            cols,
        }
    }

    /// `count` columns of this rectangle, from column `first` on.
    #[must_use]
    pub fn columns(self, first: usize, count: usize) -> Self {
        assert!(
            first + count <= self.cols,
            "columns {first}+{count} of {}",
            self.cols
        );
        Self {
            offset: self.offset + first,
            cols: count,
            ..self
        }
    }

    /// `count` rows of this rectangle, from row `first` on.
    #[must_use]
    pub fn rows(self, first: usize, count: usize) -> Self {
        assert!(
            first + count <= self.rows,
            "rows {first}+{count} of {}",
            self.rows
        );
        Self {
            offset: self.offset + first * self.stride,
            rows: count,
            ..self
        }
    }

    /// One past the last element that the rectangle touches.
    pub fn end(self) -> usize {
        if self.rows == 0 {
            self.offset
        } else {
            self.offset + (self.rows - 1) * self.stride + self.cols
        }
    }
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T> View<'a, T> {
    /// The buffer's first `rows × cols` elements.
    pub fn dense(buf: &'a T, rows: usize, cols: usize) -> Self {
        Self {
            buf,
            span: Span::dense(rows, cols),
        }
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// The buffer's first `rows × cols` elements.
    pub fn dense(buf: &'a mut T, rows: usize, cols: usize) -> Self {
        Self {
            buf,
            span: Span::dense(rows, cols),
        }
    }
}

/// Whether an operation replaces its output or adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// `y = …`
    Set,
    /// `y += …`
    Add,
}

/// Which way round a projection's matrix lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orient {
    /// `[O, D]`, torch's `nn.Linear`: `y = x·Wᵀ`.
    OutIn,
    /// `[D, O]`, GPT-2's `Conv1D`: `y = x·W`.
    InOut,
}

/// How a frozen matrix's elements are written in its file (little endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Brain float.
    Bf16,
}

impl StoredDtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A frozen matrix as its file has it: row-major bytes that are looked at, never copied.
#[derive(Clone)]
pub struct StoredMatrix {
    /// Exactly `rows * cols * dtype.size()` bytes; any alignment.
    pub bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// Element format.
    pub dtype: StoredDtype,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

impl StoredMatrix {
    /// The bytes, after comparing their number with the shape.
    ///
    /// # Errors
    /// [`EngineError::StoredSize`].
    pub fn checked_bytes(&self) -> Result<&[u8], EngineError> {
        let bytes: &[u8] = (*self.bytes).as_ref();
        let want = self
            .rows
            .saturating_mul(self.cols)
            .saturating_mul(self.dtype.size());
        if bytes.len() == want {
            return Ok(bytes);
        }
        Err(EngineError::StoredSize {
            rows: self.rows,
            cols: self.cols,
            want,
            found: bytes.len(),
        })
    }
}

/// The arithmetic of products with frozen matrices and of those in attention, but for cached attention's: they are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeDtype {
    /// Inputs and weights in f32: follows torch in f32.
    F32,
    /// Inputs and weights rounded to bf16, sums and outputs in f32.
    Bf16,
}

/// A normalisation without its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// `(x - mean) / sqrt(var + eps) * weight + bias`.
    Layer {
        /// Added to the variance.
        eps: f32,
    },
    /// `x / sqrt(mean(x²) + eps) * weight`.
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
}

/// An elementwise non-linearity, named by its formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `0.5x(1 + tanh(0.79788456 x (1 + 0.044715 x²)))`: `BloomGelu`, `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`.
    GeluTanh,
    /// `0.5x(1 + erf(x/√2))`: `gelu`.
    Gelu,
    /// `x·sigmoid(x)`: `silu`, `swish`.
    Silu,
    /// `max(x, 0)`: `relu`.
    Relu,
}

/// Where one kind of head (query, key or value) lies in a row of the fused `qkv` buffer:
/// head `h` is at `offset + h * stride`, E elements long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLayout {
    /// Column of head 0.
    pub offset: usize,
    /// Columns between the starts of neighbouring heads.
    pub stride: usize,
}

/// One family's attention, as arithmetic.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionShape {
    /// H, query heads.
    pub heads: usize,
    /// K, key and value heads; divides H. Query head `h` reads kv head `h / (H / K)`.
    pub kv_heads: usize,
    /// E.
    pub head_dim: usize,
    /// Multiplies `q·k` before the softmax.
    pub scale: f32,
    /// Queries in a row of `qkv`.
    pub query: HeadLayout,
    /// Keys in a row of `qkv`.
    pub key: HeadLayout,
    /// Values in a row of `qkv`.
    pub value: HeadLayout,
    /// `ALiBi`: per query head the slope, subtracted from a score once for each token between query and
    /// key. BLOOM adds `slope * key_position`, which the softmax makes equal.
    pub alibi_slopes: Option<Vec<f32>>,
    /// A query at position p sees keys at positions in `(p - window, p]`; `None`: all of `[0, p]`.
    pub sliding_window: Option<usize>,
}

/// A run of tokens in the packed stream that attends only to itself (causally), after an optional
/// run that it shares with other segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// First token, in the stream.
    pub start: usize,
    /// Number of tokens, at least 1.
    pub len: usize,
    /// Tokens before this segment that it also attends to; they are a segment of their own, earlier
    /// in the stream, without a prefix.
    pub prefix: Option<Prefix>,
}

/// The shared beginning of several segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// First token, in the stream.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
}

impl Segment {
    /// The position (as for `ALiBi` and RoPE) of the segment's first own token.
    pub fn first_position(&self) -> usize {
        self.prefix.map_or(0, |prefix| prefix.len)
    }
}

/// A rank-R delta `y += scaling · (dropout(x)·Aᵀ)·Bᵀ` with A `[R, D]` and B `[O, R]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraShape {
    /// R.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scaling: f32,
    /// On the input, in training only.
    pub dropout: Option<Dropout>,
}

/// Which way rotary embedding turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// As in the forward pass.
    Forward,
    /// The transpose, for gradients.
    Backward,
}

/// One `AdamW` step's settings (Loshchilov & Hutter 2019), torch's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size of this update.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, after the bias correction.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Updates including this one, from 1.
    pub step: u64,
    /// Multiplies the gradient first (the clipping coefficient).
    pub grad_scale: f32,
}

/// What cross-entropy is to do with its logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossMode {
    /// Only losses; the logits are left in an unspecified state.
    Loss,
    /// Losses, and the logits are replaced by their gradient.
    LossAndGradient,
}
