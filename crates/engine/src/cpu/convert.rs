//! The door's shapes in the words of `kernels`.

use super::{Buf, Cpu, Weight};
use crate::backend::Matrix;
use crate::shapes::{
    Activation, AttentionShape, HeadLayout, LoraShape, Norm, Segment, Span, StoredDtype, View,
    ViewMut,
};
use kernels::gemm::{LoraFactors, Precision};
use kernels::{Mat, MatMut, Stored, activation, attention, norm};

pub(super) fn mat(view: View<'_, Buf>) -> Mat<'_> {
    let Span {
        offset,
        stride,
        rows,
        cols,
    } = view.span;
    Mat {
        data: &view.buf.as_slice()[offset..view.span.end()],
        stride,
        rows,
        cols,
    }
}

pub(super) fn mat_mut(view: ViewMut<'_, Buf>) -> MatMut<'_> {
    let Span {
        offset,
        stride,
        rows,
        cols,
    } = view.span;
    MatMut {
        data: &mut view.buf.as_mut_slice()[offset..view.span.end()],
        stride,
        rows,
        cols,
    }
}

pub(super) fn dropped_or<'a>(dropped: &'a Option<Buf>, x: View<'a, Buf>) -> Mat<'a> {
    match dropped {
        Some(dropped) => Mat::dense(dropped.as_slice(), x.span.rows, x.span.cols),
        None => mat(x),
    }
}

pub(super) fn factors<'a>(
    a: &'a Buf,
    b: &'a Buf,
    shape: LoraShape,
    inputs: usize,
    outputs: usize,
) -> LoraFactors<'a> {
    LoraFactors {
        a: Mat::dense(a.as_slice(), shape.rank, inputs),
        b: Mat::dense(b.as_slice(), outputs, shape.rank),
        scaling: shape.scaling,
    }
}

pub(super) fn stored(matrix: Matrix<'_, Cpu>) -> Stored<'_> {
    match matrix {
        Matrix::Frozen(Weight(stored)) => {
            let dtype = match stored.dtype {
                StoredDtype::F32 => kernels::StoredDtype::F32,
                StoredDtype::F16 => kernels::StoredDtype::F16,
                StoredDtype::Bf16 => kernels::StoredDtype::Bf16,
            };
            Stored::new((*stored.bytes).as_ref(), dtype, stored.rows, stored.cols)
        }
        Matrix::Dense { values, rows, cols } => Stored::from_f32(values.as_slice(), rows, cols),
    }
}

pub(super) fn norm_of(norm: Norm) -> norm::Norm {
    match norm {
        Norm::Layer { eps } => norm::Norm { centred: true, eps },
        Norm::Rms { eps } => norm::Norm {
            centred: false,
            eps,
        },
    }
}

pub(super) fn activation_of(f: Activation) -> activation::Activation {
    match f {
        Activation::GeluTanh => activation::Activation::GeluTanh,
        Activation::Gelu => activation::Activation::Gelu,
        Activation::Silu => activation::Activation::Silu,
        Activation::Relu => activation::Activation::Relu,
    }
}

pub(super) fn attention_of(shape: &AttentionShape, precision: Precision) -> attention::Shape<'_> {
    let layout = |layout: HeadLayout| attention::Layout {
        offset: layout.offset,
        stride: layout.stride,
    };
    attention::Shape {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        scale: shape.scale,
        query: layout(shape.query),
        key: layout(shape.key),
        value: layout(shape.value),
        alibi_slopes: shape.alibi_slopes.as_deref(),
        sliding_window: shape.sliding_window,
        precision,
    }
}

pub(super) fn segments_of(segments: &[Segment]) -> Vec<attention::Segment> {
    let one = |segment: &Segment| attention::Segment {
        start: segment.start,
        len: segment.len,
        prefix: segment.prefix.map(|prefix| (prefix.start, prefix.len)),
    };
    segments.iter().map(one).collect()
}
