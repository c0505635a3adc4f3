//! Values that can learn, and the slots of the decoder that hold either a file's bytes or such values.

use std::sync::Arc;

use engine::backend::{Backend, Matrix};
use engine::shapes::{StoredDtype, StoredMatrix};
use formats::Dtype;

/// One trained tensor.
pub struct Parameter<B: Backend> {
    /// Name in the plain model, as `transformer.ln_f.weight`, or `<module>.lora_A.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The values, f32.
    pub value: B::Buf,
    /// The gradient, f32, of the same size.
    pub grad: B::Buf,
    /// Takes part in weight decay, as the Trainer groups it: everything but biases and norms.
    pub decay: bool,
}

/// Index into the decoder's trained parameters.
pub(crate) type Trained = usize;

/// A matrix of the decoder.
pub(crate) enum MatrixSlot<B: Backend> {
    /// Looked at in its file.
    Frozen(Arc<FrozenMatrix<B>>),
    /// Learnt.
    Trained {
        index: Trained,
        rows: usize,
        cols: usize,
    },
}

/// A frozen matrix with its bytes kept at hand, for the day it is made trainable.
pub(crate) struct FrozenMatrix<B: Backend> {
    pub(crate) weight: B::Weight,
    pub(crate) stored: StoredMatrix,
}

impl<B: Backend> Clone for MatrixSlot<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Frozen(frozen) => Self::Frozen(Arc::clone(frozen)),
            Self::Trained { index, rows, cols } => Self::Trained {
                index: *index,
                rows: *rows,
                cols: *cols,
            },
        }
    }
}

impl<B: Backend> MatrixSlot<B> {
    pub(crate) fn operand<'a>(&'a self, trained: &'a [Parameter<B>]) -> Matrix<'a, B> {
        match self {
            Self::Frozen(frozen) => Matrix::Frozen(&frozen.weight),
            Self::Trained { index, rows, cols } => Matrix::Dense {
                values: &trained[*index].value,
                rows: *rows,
                cols: *cols,
            },
        }
    }

    pub(crate) fn trained(&self) -> Option<Trained> {
        match self {
            Self::Frozen(_) => None,
            Self::Trained { index, .. } => Some(*index),
        }
    }
}

/// A vector of the decoder: a bias or a norm's weight. Too small to stay in its file.
pub(crate) enum VectorSlot<B: Backend> {
    Frozen(B::Buf),
    Trained(Trained),
}

impl<B: Backend> VectorSlot<B> {
    pub(crate) fn values<'a>(&'a self, trained: &'a [Parameter<B>]) -> &'a B::Buf {
        match self {
            Self::Frozen(values) => values,
            Self::Trained(index) => &trained[*index].value,
        }
    }

    pub(crate) fn trained(&self) -> Option<Trained> {
        match self {
            Self::Frozen(_) => None,
            Self::Trained(index) => Some(*index),
        }
    }
}

/// A projection's low-rank delta.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoraSlot {
    pub(crate) a: Trained,
    pub(crate) b: Trained,
    pub(crate) rank: usize,
    pub(crate) scaling: f32,
    pub(crate) dropout: f32,
    /// Number of this delta in the model: names its dropout mask.
    pub(crate) number: u64,
}

/// What [`crate::Decoder::add_lora`] is given.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraInit {
    /// R.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scaling: f32,
    /// Share of input elements dropped in training.
    pub dropout: f32,
    /// `[R, D]`, row-major.
    pub a: Vec<f32>,
    /// `[O, R]`, row-major.
    pub b: Vec<f32>,
}

/// The f32 values of a stored matrix (exact: every stored format widens).
pub fn stored_values(stored: &StoredMatrix) -> Vec<f32> {
    let dtype = match stored.dtype {
        StoredDtype::F32 => Dtype::F32,
        StoredDtype::F16 => Dtype::F16,
        StoredDtype::Bf16 => Dtype::BF16,
    };
    let values = dtype.to_f32((*stored.bytes).as_ref());
    values.expect("each of the three is a float")
}
