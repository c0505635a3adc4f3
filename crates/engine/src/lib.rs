//! The numeric engine: opaque buffers and fused operations, each with its gradient.
//!
//! [`backend::Backend`] is the only door. Above it nobody touches a number; below it nobody knows a layer
//! name or a file. Implementations: [`mod@reference`] (plain scalar loops, f64 sums: the oracle) and
//! [`cpu`] (over the `kernels` crate). A device backend must fit without a change above this line:
//! buffers are opaque, operations only enqueue, and just the functions that return `Result`
//! wait for a value.
//!
//! Shapes are the caller's duty: the model checks every size when it loads a file, so an operation
//! that receives wrong sizes has met a bug of ours and panics with the two sizes.

pub mod backend;
pub mod cpu;
pub mod reference;
pub mod shapes;
