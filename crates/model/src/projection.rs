//! A projection with its slots, and the pass through a group of projections that read the same input.

use engine::backend::{Backend, Linear};
use engine::shapes::{LoraShape, Orient, View, ViewMut, Write};

use crate::batch::Masks;
use crate::parameter::{LoraSlot, MatrixSlot, Parameter, Trained, VectorSlot};

/// `y = x·Wᵀ + b (+ scaling·(x·Aᵀ)·Bᵀ)`.
pub(crate) struct Projection<B: Backend> {
    /// Full module path.
    pub(crate) path: String,
    pub(crate) weight: MatrixSlot<B>,
    pub(crate) bias: Option<VectorSlot<B>>,
    pub(crate) lora: Option<LoraSlot>,
    pub(crate) orient: Orient,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
}

/// The trained values, and, in a backward pass, where their gradients go.
pub(crate) struct Grads<'a, B: Backend> {
    pub(crate) values: &'a [Parameter<B>],
    pub(crate) grads: &'a mut [B::Buf],
}

/// `xa` of each projection of a group that has a delta.
pub(crate) type LowRankInputs<B> = Vec<Option<<B as Backend>::Buf>>;

impl<B: Backend> Projection<B> {
    /// Every trained parameter of this projection.
    pub(crate) fn trained(&self) -> impl Iterator<Item = Trained> {
        let bias = self.bias.as_ref().and_then(VectorSlot::trained);
        let lora = self.lora.map(|lora| [lora.a, lora.b]);
        self.weight
            .trained()
            .into_iter()
            .chain(bias)
            .chain(lora.into_iter().flatten())
    }

    pub(crate) fn has_dropout(&self) -> bool {
        self.lora.is_some_and(|lora| lora.dropout > 0.0)
    }

    /// The backward pass needs what this projection read.
    pub(crate) fn needs_input(&self) -> bool {
        self.lora.is_some() || self.weight.trained().is_some()
    }

    pub(crate) fn forward(
        &self,
        backend: &B,
        trained: &[Parameter<B>],
        x: View<'_, B::Buf>,
        y: ViewMut<'_, B::Buf>,
        write: Write,
        masks: Option<Masks>,
    ) -> Option<B::Buf> {
        let ViewMut { buf, span } = y;
        let Linear { weight, bias, .. } = self.linear(trained);
        backend.linear(x, weight, self.orient, bias, ViewMut { buf, span }, write);
        self.add_delta(backend, trained, x, ViewMut { buf, span }, masks)
    }

    fn linear<'a>(&'a self, trained: &'a [Parameter<B>]) -> Linear<'a, B> {
        Linear {
            weight: self.weight.operand(trained),
            bias: self.bias.as_ref().map(|bias| bias.values(trained)),
            out_features: self.out_features,
        }
    }

    /// Adds the low-rank product to y, where there is one; gives its `xa`.
    fn add_delta(
        &self,
        backend: &B,
        trained: &[Parameter<B>],
        x: View<'_, B::Buf>,
        y: ViewMut<'_, B::Buf>,
        masks: Option<Masks>,
    ) -> Option<B::Buf> {
        let lora = self.lora?;
        let mut xa = backend.alloc(x.span.rows * lora.rank);
        let (a, b) = (&trained[lora.a].value, &trained[lora.b].value);
        backend.lora(x, a, b, lora.shape(masks), &mut xa, y);
        Some(xa)
    }

    /// Adds the gradients of this projection's own parameters, and its share of `dx`.
    #[expect(
        clippy::too_many_arguments,
        reason = "the gradient of a projection with what its forward pass kept"
    )]
    pub(crate) fn backward(
        &self,
        backend: &B,
        into: &mut Grads<'_, B>,
        masks: Option<Masks>,
        x: Option<View<'_, B::Buf>>,
        xa: Option<&B::Buf>,
        dy: View<'_, B::Buf>,
        dx: Option<(ViewMut<'_, B::Buf>, Write)>,
    ) {
        if let Some(index) = self.bias.as_ref().and_then(VectorSlot::trained) {
            backend.bias_backward(dy, &mut into.grads[index]);
        }
        if let Some(index) = self.weight.trained() {
            let x = x.expect("a projection with a trained weight asked for its input");
            backend.linear_backward_weight(x, dy, self.orient, &mut into.grads[index]);
        }
        let mut dx = dx;
        if let Some((ViewMut { buf, span }, write)) = dx.as_mut() {
            let weight = self.weight.operand(into.values);
            let dx = ViewMut {
                buf: &mut **buf,
                span: *span,
            };
            backend.linear_backward_input(dy, weight, self.orient, dx, *write);
        }
        if let Some(lora) = self.lora {
            let x = x.expect("a projection with a delta asked for its input");
            let xa = xa.expect("the forward pass kept the low-rank input");
            let (a, b) = (&into.values[lora.a].value, &into.values[lora.b].value);
            let [da, db] = into
                .grads
                .get_disjoint_mut([lora.a, lora.b])
                .expect("A and B are two parameters");
            let dx = dx.map(|(dx, _)| dx);
            backend.lora_backward(x, xa, dy, a, b, lora.shape(masks), da, db, dx);
        }
    }
}

impl LoraSlot {
    /// Without masks nothing is dropped.
    fn shape(self, masks: Option<Masks>) -> LoraShape {
        let masks = masks.filter(|_| self.dropout > 0.0);
        let dropout = masks.map(|masks| masks.dropout(self.number, self.dropout));
        LoraShape {
            rank: self.rank,
            scaling: self.scaling,
            dropout,
        }
    }
}

/// Runs projections that read the same `x` and write neighbouring columns of `y`.
pub(crate) fn group_forward<B: Backend>(
    group: &[Projection<B>],
    backend: &B,
    trained: &[Parameter<B>],
    x: View<'_, B::Buf>,
    y: ViewMut<'_, B::Buf>,
    masks: Option<Masks>,
) -> LowRankInputs<B> {
    let ViewMut { buf, span } = y;
    let orient = group.first().map_or(Orient::OutIn, |first| first.orient);
    assert!(
        group.iter().all(|projection| projection.orient == orient),
        "a group is of one orientation"
    );
    let linears: Vec<_> = group.iter().map(|one| one.linear(trained)).collect();
    backend.linear_group(x, &linears, orient, ViewMut { buf, span }, Write::Set);
    let mut first = 0;
    let mut inputs = Vec::with_capacity(group.len());
    for projection in group {
        let span = span.columns(first, projection.out_features);
        inputs.push(projection.add_delta(backend, trained, x, ViewMut { buf, span }, masks));
        first += projection.out_features;
    }
    inputs
}

/// The backward pass of [`group_forward`]: `dx` is set, where it is wanted.
#[expect(
    clippy::too_many_arguments,
    reason = "the gradient of a group with what its forward pass kept"
)]
pub(crate) fn group_backward<B: Backend>(
    group: &[Projection<B>],
    backend: &B,
    into: &mut Grads<'_, B>,
    masks: Option<Masks>,
    x: Option<View<'_, B::Buf>>,
    inputs: &LowRankInputs<B>,
    dy: View<'_, B::Buf>,
    mut dx: Option<ViewMut<'_, B::Buf>>,
) {
    let mut first = 0;
    for (number, (projection, xa)) in group.iter().zip(inputs).enumerate() {
        let dy = View {
            buf: dy.buf,
            span: dy.span.columns(first, projection.out_features),
        };
        let write = if number == 0 { Write::Set } else { Write::Add };
        let dx = dx.as_mut().map(|dx| {
            (
                ViewMut {
                    buf: &mut *dx.buf,
                    span: dx.span,
                },
                write,
            )
        });
        projection.backward(backend, into, masks, x, xa.as_ref(), dy, dx);
        first += projection.out_features;
    }
}
