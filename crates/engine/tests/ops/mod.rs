//! Random cases of every operation, each run through the door of any backend.

mod attention;
mod elements;
mod lora;
mod losses;
mod projection;

use lowrank_engine::backend::Backend;
use lowrank_engine::cpu::Cpu;
use lowrank_engine::reference::Reference;
use lowrank_engine::shapes::{Span, View, ViewMut, uniform};

pub(crate) use attention::Attention;
pub(crate) use elements::Elements;
pub(crate) use lora::Lora;
pub(crate) use losses::Losses;
pub(crate) use projection::Projection;

/// What an operation wrote, whole buffers with all that lies between rows.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) name: &'static str,
    pub(crate) values: Vec<f32>,
    /// For each value the sum of the sizes of the terms that it sums.
    pub(crate) sizes: Option<Vec<f32>>,
}

/// A case that any backend can run.
pub(crate) trait Op {
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
