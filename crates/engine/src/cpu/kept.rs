//! What a forward pass lays by for the backward pass: in bf16, or in bytes, where products read bf16.

use super::convert::{activation_of, mat_mut};
use super::{Buf, Cpu};
use crate::backend::Backend;
use crate::shapes::{Activation, ComputeDtype, View, ViewMut};
use kernels::activation::slope;
use kernels::attention::Stream;
use kernels::{Mat, MatMut, elementwise, half};

/// What a backward pass will read.
pub enum Kept {
    /// As it was.
    Whole(Buf),
    /// As bf16, two to an element.
    Halves {
        /// The bits.
        halves: Buf,
        /// Elements.
        len: usize,
    },
}

/// What gives the slopes of an activation.
pub enum Slopes {
    /// What the activation read.
    Before(Buf),
    /// The slopes as bytes, four to an element.
    Bytes(Buf),
}

impl Kept {
    /// As so many rows of queries, keys and values.
    pub(super) fn stream(&self, rows: usize) -> Stream<'_> {
        let cols = |len: usize| len / rows.max(1);
        match self {
            Self::Whole(buf) => {
                let values = buf.as_slice();
                Mat::dense(values, rows, cols(values.len())).into()
            }
            Self::Halves { halves, len } => Stream::narrowed(halves.as_slice(), rows, cols(*len)),
        }
    }
}

impl Cpu {
    pub(super) fn lay_by(&self, x: Buf) -> Kept {
        match self.compute {
            ComputeDtype::F32 => Kept::Whole(x),
            ComputeDtype::Bf16 => self.lay_by_copy(&x),
        }
    }

    pub(super) fn lay_by_copy(&self, x: &Buf) -> Kept {
        let len = x.as_slice().len();
        let size = match self.compute {
            ComputeDtype::F32 => len,
            ComputeDtype::Bf16 => half::narrow_len(len),
        };
        let mut copy = self.alloc(size);
        match self.compute {
            ComputeDtype::F32 => {
                let (x, y) = (x.as_slice(), copy.as_mut_slice());
                let (x, y) = (Mat::dense(x, 1, len), MatMut::dense(y, 1, len));
                elementwise::copy(&self.context, x, y, false);
                Kept::Whole(copy)
            }
            ComputeDtype::Bf16 => {
                half::narrow(&self.context, x.as_slice(), copy.as_mut_slice());
                Kept::Halves { halves: copy, len }
            }
        }
    }

    pub(super) fn take_up(&self, kept: Kept) -> Buf {
        match kept {
            Kept::Whole(buf) => buf,
            Kept::Halves { halves, len } => {
                let mut buf = self.alloc(len);
                half::widen(&self.context, halves.as_slice(), buf.as_mut_slice());
                buf
            }
        }
    }

    pub(super) fn activate_and_lay_by(
        &self,
        f: Activation,
        mut x: Buf,
        rows: usize,
    ) -> (Buf, Slopes) {
        let len = x.as_slice().len();
        let cols = len / rows.max(1);
        if self.compute == ComputeDtype::F32 {
            let mut y = self.alloc(len);
            let write = ViewMut::dense(&mut y, rows, cols);
            self.activation(f, View::dense(&x, rows, cols), write);
            return (y, Slopes::Before(x));
        }
        let size = slope::slope_cols(cols);
        let mut bytes = self.alloc(rows * size);
        slope::forward_in_place(
            &self.context,
            activation_of(f),
            MatMut::dense(x.as_mut_slice(), rows, cols),
            MatMut::dense(bytes.as_mut_slice(), rows, size),
        );
        (x, Slopes::Bytes(bytes))
    }

    pub(super) fn times_slopes(&self, f: Activation, slopes: Slopes, dy: ViewMut<'_, Buf>) {
        let (rows, cols) = (dy.span.rows, dy.span.cols);
        match slopes {
            Slopes::Before(x) => self.activation_backward(f, View::dense(&x, rows, cols), dy),
            Slopes::Bytes(bytes) => {
                let bytes = Mat::dense(bytes.as_slice(), rows, slope::slope_cols(cols));
                slope::multiply_in_place(&self.context, bytes, mat_mut(dy));
            }
        }
    }
}
