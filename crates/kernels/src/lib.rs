//! CPU inner loops, each with a scalar twin that defines it.
//!
//! Knows numbers and rectangles, not transformers. With the mapped files, this is the only place
//! with `unsafe`: a kernel is an `unsafe fn` behind a door that checks lengths.

pub mod activation;
pub mod attention;
mod context;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod half;
mod isa;
pub mod loss;
mod memory;
pub mod norm;
pub mod optim;
mod pool;
pub mod rope;
mod share;
mod stored;
mod threads;
mod vector;

pub use context::Context;
pub use gemm::{
    Biased, Mat, MatMut, Peak, Precision, Product, gemm, gemm_group, gemm_tn, peak, sustained,
};
pub use isa::Isa;
pub use pool::{Block, Pool};
pub use stored::{Stored, StoredDtype};
pub use threads::Threads;
