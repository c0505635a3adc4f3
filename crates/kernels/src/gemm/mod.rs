//! Products of activations with matrices that are read from their file's bytes.
//!
//! **Order of sums.** Every element of a product is computed by one task in one order, whatever
//! the number of threads and the instruction set: k runs upwards in blocks of [`K_BLOCK`]; inside a
//! block one f32 accumulator starts at zero and takes one fused multiply-add per k; the blocks'
//! sums are added to the element one after the other. An element starts at zero, at its bias, at
//! its old value, or at old value plus bias. Up to [`FEW_ROWS`] rows against stored rows along k,
//! a block has sixteen accumulators, which take every sixteenth k (or pair of k) and are added
//! as a tree: this is how memory can be read at its own pace. So the bits of a row depend on the
//! other rows in one way only: whether there are more than [`FEW_ROWS`] of them.
//!
//! **bf16.** Both operands are rounded to nearest-even bf16 (NaN stays NaN) and multiplied
//! exactly; the two k of a pair are taken in the order odd, even, which is how `vdpbf16ps` does
//! it (found by experiment on Zen 4, and as Intel's manual says). That instruction takes
//! subnormal inputs and accumulators as zero, and so do the roundings here; kernels that emulate
//! it do not flush accumulators, which can move an element by at most `k · 2⁻¹²⁶`.
//!
//! **How.** Activations are packed once a call into tiles of a few rows, once for all matrices that read the same ones
//! (`group.rs`). A thread decodes and packs some panels of a matrix (up to 48 columns of y each, one block of k) into its
//! buffer and runs all rows over them while it packs the next ones, where AVX-512 multiplies bf16 inside the loop that
//! multiplies; the matrix is read once, and no buffer is allocated after the first calls. For few rows nothing of the matrix
//! is packed (`few.rs`): up to [`FEW_ROWS`] along k, fewer along n and only where AVX-512 multiplies bf16 or AVX2 f32.

mod ahead;
pub(crate) mod arena;
mod driver;
mod few;
mod group;
mod kernel;
mod mat;
pub mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

mod lowrank;
mod outer;
mod panels;
mod peak;
mod progress;
mod tasks;
#[cfg(test)]
mod tests;

pub use lowrank::{LoraFactors, LoraGradients, lora_backward, lora_forward};
pub use mat::{Mat, MatMut};
pub use outer::gemm_tn;
pub use peak::{Peak, peak, sustained};

use crate::{Context, Stored};

/// Length of the runs of k that are summed on their own. Even, for pairs of bf16. Shorter runs pay for
/// more passes over y: 512 costs some 5 % of the rate at 1,024 rows.
pub const K_BLOCK: usize = 1024;

/// Up to so many rows, [`Product::Nt`] sums in lanes, as the module's text says.
pub const FEW_ROWS: usize = 48;

/// The arithmetic of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands in f32.
    F32,
    /// Operands rounded to bf16, sums in f32.
    Bf16,
}

/// Which side of the matrix is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// `y[M,N] = x[M,K]·W[N,K]ᵀ`
    Nt,
    /// `y[M,N] = x[M,K]·W[K,N]`
    Nn,
}

impl Product {
    /// (K, N) of a matrix that is stored `rows × cols`.
    pub fn sizes(self, rows: usize, cols: usize) -> (usize, usize) {
        match self {
            Self::Nt => (cols, rows),
            Self::Nn => (rows, cols),
        }
    }
}

/// `y = x·W + bias`, or `y += x·W + bias` with `add`; see [`Product`] for the shapes.
///
/// # Panics
/// When shapes do not fit: the caller has checked them.
#[expect(clippy::too_many_arguments, reason = "the one door of all products")]
pub fn gemm(
    ctx: &Context,
    x: Mat<'_>,
    w: Stored<'_>,
    product: Product,
    bias: Option<&[f32]>,
    y: MatMut<'_>,
    add: bool,
    precision: Precision,
) {
    gemm_group(ctx, x, &[(w, bias)], product, y, add, precision);
}

/// A matrix and, if there is one, the bias of its columns of y.
pub type Biased<'a> = (Stored<'a>, Option<&'a [f32]>);

/// [`gemm`] of matrices that read the same x; their columns of y follow each other. x is packed once, but for few rows.
/// The same bits as one product after the other.
///
/// # Panics
/// When shapes do not fit: the caller has checked them.
pub fn gemm_group(
    ctx: &Context,
    x: Mat<'_>,
    group: &[Biased<'_>],
    product: Product,
    y: MatMut<'_>,
    add: bool,
    precision: Precision,
) {
    check_shapes(&x, group, product, &y);
    let jobs = group.iter().map(|&(w, bias)| driver::Job {
        x: driver::Rows::Of(x),
        w: w.into(),
        product,
        bias,
        add,
        scale: 1.0,
        precision,
    });
    driver::run_group(ctx, jobs, y);
}

fn check_shapes(x: &Mat<'_>, group: &[Biased<'_>], product: Product, y: &MatMut<'_>) {
    x.check();
    y.check();
    let mut columns = group.iter().map(|one| check_matrix(x, one, product));
    let n = columns.try_fold(0usize, usize::checked_add);
    assert!(
        n == Some(y.cols) && x.rows == y.rows,
        "{} rows and {n:?} columns into {}×{}",
        x.rows,
        y.rows,
        y.cols
    );
}

/// Columns of y.
fn check_matrix(x: &Mat<'_>, (w, bias): &Biased<'_>, product: Product) -> usize {
    w.check();
    let (k, n) = product.sizes(w.rows, w.cols);
    assert!(
        x.cols == k,
        "{}×{} times a {product:?} matrix {}×{}",
        x.rows,
        x.cols,
        w.rows,
        w.cols
    );
    assert!(
        bias.is_none_or(|bias| bias.len() == n),
        "bias of {n} columns"
    );
    n
}
