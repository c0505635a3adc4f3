//! The products' definition, and the kernels of plain loops.

use super::kernel::{Ahead, Kernel, PackW, PackX, Packing, Tile};
use super::{K_BLOCK, Mat, MatMut, Precision, Product};
use crate::{Stored, StoredDtype};
use half::{bf16, f16};

/// What [`super::gemm`] computes, element by element.
pub fn gemm(
    x: Mat<'_>,
    w: Stored<'_>,
    product: Product,
    bias: Option<&[f32]>,
    mut y: MatMut<'_>,
    add: bool,
    precision: Precision,
) {
    super::check_shapes(&x, &w, product, bias, &y);
    let (k, n) = product.sizes(w.rows, w.cols);
    let mut decoded = vec![0.0; w.rows * w.cols];
    for (row, out) in decoded.chunks_mut(w.cols.max(1)).enumerate() {
        w.decode_row(row, out);
    }
    let weight = |k, n| match product {
        Product::Nt => decoded[n * w.cols + k],
        Product::Nn => decoded[k * w.cols + n],
    };
    for row in 0..x.rows {
        for col in 0..n {
            let term = |k| (x.row(row)[k], weight(k, col));
            let sum = &mut y.row(row)[col];
            *sum = if add { *sum } else { 0.0 } + bias.map_or(0.0, |bias| bias[col]);
            for first in (0..k).step_by(K_BLOCK) {
                let block = first..k.min(first + K_BLOCK);
                *sum += block_sum(block, term, precision);
            }
        }
    }
}

fn block_sum(
    block: std::ops::Range<usize>,
    term: impl Fn(usize) -> (f32, f32),
    precision: Precision,
) -> f32 {
    if precision == Precision::F32 {
        return block.map(term).fold(0.0, |sum, (a, b)| a.mul_add(b, sum));
    }
    let end = block.end;
    block.step_by(2).fold(0.0, |sum, k| {
        [k + 1, k].into_iter().fold(sum, |sum, k| {
            let (a, b) = if k < end { term(k) } else { (0.0, 0.0) };
            to_bf16(a).mul_add(to_bf16(b), sum)
        })
    })
}

/// Rounds to the nearest bf16, ties to even; subnormals become zero, NaN stays NaN.
pub fn to_bf16(value: f32) -> f32 {
    let rounded = bf16::from_f32(value).to_f32();
    if value.is_subnormal() || rounded.is_subnormal() {
        0.0f32.copysign(value)
    } else {
        rounded
    }
}

const ROWS: usize = 4;
const COLS: usize = 16;

pub(crate) static F32: Kernel = kernel(Packing::F32);
pub(crate) static WIDE: Kernel = kernel(Packing::Wide);

const fn kernel(packing: Packing) -> Kernel {
    let wide = matches!(packing, Packing::Wide);
    Kernel {
        rows: ROWS,
        cols: COLS,
        lanes: COLS,
        packing,
        pack_x: if wide {
            pack_x::<true>
        } else {
            pack_x::<false>
        },
        pack_columns,
        pack_nt: if wide { nt::<true>() } else { nt::<false>() },
        pack_nn: if wide { nn::<true>() } else { nn::<false>() },
        narrow: None,
        tile,
    }
}

pub(crate) const fn nt<const WIDE: bool>() -> [super::kernel::PackWFn; 3] {
    [
        pack_w::<WIDE, true, F32Bits>,
        pack_w::<WIDE, true, F16Bits>,
        pack_w::<WIDE, true, Bf16Bits>,
    ]
}

pub(crate) const fn nn<const WIDE: bool>() -> [super::kernel::PackWFn; 3] {
    [
        pack_w::<WIDE, false, F32Bits>,
        pack_w::<WIDE, false, F16Bits>,
        pack_w::<WIDE, false, Bf16Bits>,
    ]
}

/// An element's bytes, and what they say.
pub(crate) trait Decode {
    /// As in [`StoredDtype::size`].
    const SIZE: usize;
    /// The value at `bytes`, of any alignment.
    ///
    /// # Safety
    /// `SIZE` bytes are readable.
    unsafe fn decode(bytes: *const u8) -> f32;
}

pub(crate) struct F32Bits;
pub(crate) struct F16Bits;
pub(crate) struct Bf16Bits;

impl Decode for F32Bits {
    const SIZE: usize = StoredDtype::F32.size();
    unsafe fn decode(bytes: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        f32::from_le_bytes(unsafe { bytes.cast::<[u8; 4]>().read() })
    }
}

impl Decode for F16Bits {
    const SIZE: usize = StoredDtype::F16.size();
    unsafe fn decode(bytes: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        f16::from_le_bytes(unsafe { bytes.cast::<[u8; 2]>().read() }).to_f32()
    }
}

impl Decode for Bf16Bits {
    const SIZE: usize = StoredDtype::Bf16.size();
    unsafe fn decode(bytes: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        bf16::from_le_bytes(unsafe { bytes.cast::<[u8; 2]>().read() }).to_f32()
    }
}

/// Where the k-th value of a run goes, and the rounding on its way.
fn place<const WIDE: bool>(k: usize, value: f32) -> (usize, u32) {
    if WIDE {
        (k ^ 1, to_bf16(value).to_bits())
    } else {
        (k, value.to_bits())
    }
}

/// # Safety
/// As [`PackX`] says.
#[inline(always)]
pub(crate) unsafe fn pack_x<const WIDE: bool>(pack: &PackX) {
    for row in 0..pack.rows {
        let padded = pack.k.next_multiple_of(if WIDE { 2 } else { 1 });
        for k in 0..padded {
            // SAFETY: inside the rectangle; the output holds `rows × depth`.
            unsafe {
                let inside = k < pack.k;
                let value = if inside {
                    *pack.x.add(row * pack.stride + k)
                } else {
                    0.0
                };
                let (slot, bits) = place::<WIDE>(k, value);
                *pack.out.add(slot * pack.rows + row) = bits;
            }
        }
    }
}

/// Packs activations that lie column by column: element (row, k) is at `x[k * stride + row]`.
///
/// # Safety
/// As [`PackX`] says, for that layout.
#[inline(always)]
pub(crate) unsafe fn pack_columns(pack: &PackX) {
    for k in 0..pack.k {
        for row in 0..pack.rows {
            // SAFETY: inside the rectangle; the output holds `rows × depth`.
            unsafe {
                let value = *pack.x.add(k * pack.stride + row);
                *pack.out.add(k * pack.rows + row) = value.to_bits();
            }
        }
    }
}

/// # Safety
/// As [`PackW`] says.
#[inline(always)]
pub(crate) unsafe fn pack_w<const WIDE: bool, const NT: bool, D: Decode>(
    pack: &PackW,
    _ahead: &mut Ahead,
) {
    let padded = pack.k.next_multiple_of(if WIDE { 2 } else { 1 });
    for k in 0..padded {
        for n in 0..pack.width {
            let at = if NT {
                n * pack.row_bytes + k * D::SIZE
            } else {
                k * pack.row_bytes + n * D::SIZE
            };
            // SAFETY: inside the panel; the output holds `depth × width`.
            unsafe {
                let inside = k < pack.k && n < pack.n;
                let value = if inside {
                    D::decode(pack.bytes.add(at))
                } else {
                    0.0
                };
                let (slot, bits) = place::<WIDE>(k, value);
                *pack.out.add(slot * pack.width + n) = bits;
            }
        }
    }
}

/// # Safety
/// As [`Tile`] says; at most `ROWS` rows of a panel `COLS` wide.
unsafe fn tile(tile: &Tile, _ahead: &mut Ahead) {
    debug_assert!(tile.rows <= ROWS && tile.width == COLS);
    let mut sums = [[0.0f32; COLS]; ROWS];
    for p in 0..tile.depth {
        // SAFETY: a panel is `depth × COLS`.
        let b: &[f32; COLS] = unsafe { &*tile.b.add(p * COLS).cast() };
        for (row, sums) in sums[..tile.rows].iter_mut().enumerate() {
            // SAFETY: packed rows are `depth × rows`.
            let a = f32::from_bits(unsafe { *tile.a.add(p * tile.rows + row) });
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    for (row, sums) in sums[..tile.rows].iter().enumerate() {
        for (col, sum) in sums[..tile.cols].iter().enumerate() {
            // SAFETY: inside the tile of y, and of the bias.
            unsafe {
                let y = tile.y.add(row * tile.stride + col);
                let start = if tile.load { *y } else { 0.0 };
                let bias = if tile.bias.is_null() {
                    0.0
                } else {
                    *tile.bias.add(col)
                };
                *y = sum.mul_add(tile.scale, start + bias);
            }
        }
    }
}
