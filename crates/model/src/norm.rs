//! A norm with its slots.

use engine::backend::Backend;
use engine::shapes::{Norm, View, ViewMut, Write};

use crate::parameter::{Parameter, Trained, VectorSlot};
use crate::projection::Grads;

pub(crate) struct NormSlot<B: Backend> {
    /// Full module path.
    pub(crate) path: String,
    pub(crate) norm: Norm,
    pub(crate) weight: VectorSlot<B>,
    pub(crate) bias: Option<VectorSlot<B>>,
}

impl<B: Backend> NormSlot<B> {
    pub(crate) fn trained(&self) -> impl Iterator<Item = Trained> {
        self.weight
            .trained()
            .into_iter()
            .chain(self.bias.as_ref().and_then(VectorSlot::trained))
    }

    /// Returns (output, what the backward pass needs), both dense.
    pub(crate) fn forward(
        &self,
        backend: &B,
        trained: &[Parameter<B>],
        x: View<'_, B::Buf>,
    ) -> (B::Buf, B::Buf) {
        let (rows, cols) = (x.span.rows, x.span.cols);
        let (mut y, mut stats) = (backend.alloc(rows * cols), backend.alloc(rows * 2));
        let bias = self.bias.as_ref().map(|bias| bias.values(trained));
        let weight = self.weight.values(trained);
        backend.norm(
            self.norm,
            x,
            weight,
            bias,
            ViewMut::dense(&mut y, rows, cols),
            &mut stats,
        );
        (y, stats)
    }

    /// Adds the gradients of the norm's own parameters; `dx += …` where it is wanted.
    pub(crate) fn backward(
        &self,
        backend: &B,
        into: &mut Grads<'_, B>,
        x: View<'_, B::Buf>,
        stats: &B::Buf,
        dy: View<'_, B::Buf>,
        dx: Option<(ViewMut<'_, B::Buf>, Write)>,
    ) {
        self.backward_parameters(backend, into, x, stats, dy);
        if let Some((dx, write)) = dx {
            let weight = self.weight.values(into.values);
            backend.norm_backward(self.norm, x, stats, weight, dy, dx, write);
        }
    }

    fn backward_parameters(
        &self,
        backend: &B,
        into: &mut Grads<'_, B>,
        x: View<'_, B::Buf>,
        stats: &B::Buf,
        dy: View<'_, B::Buf>,
    ) {
        let weight = self.weight.trained();
        let bias = self.bias.as_ref().and_then(VectorSlot::trained);
        match (weight, bias) {
            (None, None) => {}
            (Some(weight), Some(bias)) => {
                let [dweight, dbias] = into
                    .grads
                    .get_disjoint_mut([weight, bias])
                    .expect("weight and bias are two parameters");
                backend.norm_backward_parameters(
                    self.norm,
                    x,
                    stats,
                    dy,
                    Some(dweight),
                    Some(dbias),
                );
            }
            (Some(weight), None) => {
                backend.norm_backward_parameters(
                    self.norm,
                    x,
                    stats,
                    dy,
                    Some(&mut into.grads[weight]),
                    None,
                );
            }
            (None, Some(bias)) => {
                backend.norm_backward_parameters(
                    self.norm,
                    x,
                    stats,
                    dy,
                    None,
                    Some(&mut into.grads[bias]),
                );
            }
        }
    }
}
