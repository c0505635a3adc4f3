//! What an instruction set brings to a product: packing and one register tile.

use super::ahead::Ahead;
use super::{Precision, Product};
use crate::{Isa, StoredDtype};

/// What one packed dword holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// An f32, k upwards.
    F32,
    /// The bf16 of k and k + 1, k in the low half; k is even.
    Pairs,
    /// An f32 with the value of a bf16; the k of each pair are swapped, see [`super`].
    Wide,
}

impl Packing {
    /// Dwords that a run of k takes; runs of pairs are padded with a zero.
    pub(crate) fn depth(self, k: usize) -> usize {
        match self {
            Self::F32 => k,
            Self::Pairs => k.div_ceil(2),
            Self::Wide => k.next_multiple_of(2),
        }
    }
}

/// Activations to pack: `rows × k` from `x`, row-major at `stride`. Packed as `[depth][rows]`.
pub(crate) struct PackX {
    pub(crate) x: *const f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) out: *mut u32,
    /// Whether `out` goes past the caches, where the kernel can do so.
    pub(crate) streamed: bool,
}

/// Columns of a panel to pack: `n` columns of y, `k` long. `bytes` is the first element, and
/// `row_bytes` the distance of stored rows. Packed as `[depth][width]`, columns padded with zeros, rows `stride` apart.
pub(crate) struct PackW {
    pub(crate) bytes: *const u8,
    pub(crate) row_bytes: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
    pub(crate) out: *mut u32,
}

/// A tile of y: `rows × cols` at `y`, from packed rows `a` and a packed panel `b`.
pub(crate) struct Tile {
    pub(crate) a: *const u32,
    pub(crate) b: *const u32,
    /// Dwords from one row of the panel to the next: its width, or more where the matrix itself is
    /// read (only by kernels that are `direct`).
    pub(crate) b_stride: usize,
    pub(crate) depth: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Of the panel.
    pub(crate) width: usize,
    pub(crate) y: *mut f32,
    pub(crate) stride: usize,
    /// Whether y holds something to add to.
    pub(crate) load: bool,
    /// Multiplies the sum.
    pub(crate) scale: f32,
    /// Null, or `cols` values to add.
    pub(crate) bias: *const f32,
}

pub(crate) type PackWFn = unsafe fn(&PackW);
pub(crate) type TileFn = unsafe fn(&Tile, &mut Ahead);

/// Columns of y for few rows: all of k, straight from the stored rows. For stored rows along k, x is
/// packed row by row, `x_stride` dwords apart; for those along n in runs of a few dwords of all rows,
/// `x_stride` dwords from run to run, see [`super::few`].
pub(crate) struct Few {
    pub(crate) bytes: *const u8,
    pub(crate) row_bytes: usize,
    /// Columns of y.
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) x: *const u32,
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    pub(crate) y: *mut f32,
    pub(crate) stride: usize,
    /// Whether y holds something to add to.
    pub(crate) add: bool,
    /// Multiplies the sum.
    pub(crate) scale: f32,
    /// Null, or `n` values to add.
    pub(crate) bias: *const f32,
}

pub(crate) type FewFn = unsafe fn(&Few);

/// The functions of one instruction set and packing.
pub(crate) struct Kernel {
    /// Rows of the largest tile.
    pub(crate) rows: usize,
    /// Columns of a panel.
    pub(crate) cols: usize,
    /// Columns are padded to a multiple of this.
    pub(crate) lanes: usize,
    /// Panels of a unit where stored rows lie along k, at most [`Unit::PANELS`](super::panels::Unit::PANELS); two units fit
    /// the second cache, 512 KB where AVX2 is the widest.
    pub(crate) panels_nt: usize,
    /// Panels of a unit where stored rows lie along n; otherwise as above.
    pub(crate) panels_nn: usize,
    /// More packed dwords of rows than this do not stay in the third cache from unit to unit, so with stored rows along k
    /// a pass takes one block of k of them. Fewer stay, and passes would only read y more often.
    pub(crate) rows_cached: usize,
    pub(crate) packing: Packing,
    /// Whether tiles can read rows of f32 that are wider than the panel, and end with it.
    pub(crate) direct: bool,
    pub(crate) pack_x: unsafe fn(&PackX),
    /// For x that lies column by column; f32 only.
    pub(crate) pack_columns: unsafe fn(&PackX),
    /// F32, F16, Bf16.
    pub(crate) pack_nt: [PackWFn; 3],
    /// F32, F16, Bf16.
    pub(crate) pack_nn: [PackWFn; 3],
    /// For few rows and stored rows along k: F32, F16, Bf16.
    pub(crate) few: [FewFn; 3],
    /// For few rows and stored rows along n, where that is better than packing: F32, F16, Bf16.
    pub(crate) across: Option<[FewFn; 3]>,
    /// Whether tiles pack what is stored as bf16 for the next unit, see [`Ahead::Blocks`].
    pub(crate) packs_ahead: bool,
    pub(crate) tile: TileFn,
}

impl Kernel {
    /// Panels of a unit.
    pub(crate) fn panels(&self, product: Product) -> usize {
        match product {
            Product::Nt => self.panels_nt,
            Product::Nn => self.panels_nn,
        }
    }

    pub(crate) fn pack_w(&self, product: Product, dtype: StoredDtype) -> PackWFn {
        let by_dtype = match product {
            Product::Nt => &self.pack_nt,
            Product::Nn => &self.pack_nn,
        };
        by_dtype[slot(dtype)]
    }
}

/// The place of a format in the tables.
pub(crate) fn slot(dtype: StoredDtype) -> usize {
    match dtype {
        StoredDtype::F32 => 0,
        StoredDtype::F16 => 1,
        StoredDtype::Bf16 => 2,
    }
}

/// The kernel for an instruction set, which the processor must have.
pub(crate) fn kernel(isa: Isa, precision: Precision) -> &'static Kernel {
    match (isa, precision) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Precision::Bf16) => &super::avx512::PAIRS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16 | Isa::Avx512, Precision::F32) => &super::avx512::F32,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Bf16) => &super::avx512::WIDE,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::F32) => &super::avx2::F32,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::Bf16) => &super::avx2::WIDE,
        (_, Precision::F32) => &super::scalar::F32,
        (_, Precision::Bf16) => &super::scalar::WIDE,
    }
}
