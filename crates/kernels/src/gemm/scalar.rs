//! The products' definition, and the kernels of plain loops.

use super::ahead::Ahead;
use super::kernel::{Few, FewFn, Kernel, PackW, PackX, Packing, Tile};
use super::{FEW_ROWS, K_BLOCK, Mat, MatMut, Precision, Product};
use crate::half::rounded;
use crate::{Stored, StoredDtype};
use half::{bf16, f16};
use std::ops::Range;

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
    super::check_shapes(&x, &[(w, bias)], product, &y);
    let (k, n) = product.sizes(w.rows, w.cols);
    let mut decoded = vec![0.0; w.rows * w.cols];
    for (row, out) in decoded.chunks_mut(w.cols.max(1)).enumerate() {
        w.decode_row(row, out);
    }
    let few = product == Product::Nt && x.rows <= FEW_ROWS;
    let weight = |k, n| match product {
        Product::Nt => decoded[n * w.cols + k],
        Product::Nn => decoded[k * w.cols + n],
    };
    for row in 0..x.rows {
        for col in 0..n {
            let term = |k| (x.row(row)[k], weight(k, col));
            let sum = &mut y.row(row)[col];
            let start = if add { *sum } else { 0.0 };
            *sum = bias.map_or(start, |bias| start + bias[col]);
            for first in (0..k).step_by(K_BLOCK) {
                let block = first..k.min(first + K_BLOCK);
                *sum += block_sum(block, term, precision, few);
            }
        }
    }
}

fn block_sum(
    block: Range<usize>,
    term: impl Fn(usize) -> (f32, f32),
    precision: Precision,
    few: bool,
) -> f32 {
    let mut sums = [0.0; LANES];
    let lanes = if few { LANES } else { 1 };
    let (start, end) = (block.start, block.end);
    if precision == Precision::F32 {
        for k in block {
            let (a, b) = term(k);
            let sum = &mut sums[(k - start) % lanes];
            *sum = a.mul_add(b, *sum);
        }
    } else {
        for pair in block.step_by(2) {
            let sum = &mut sums[(pair - start) / 2 % lanes];
            for k in [pair + 1, pair] {
                let (a, b) = if k < end { term(k) } else { (0.0, 0.0) };
                *sum = to_bf16(a).mul_add(to_bf16(b), *sum);
            }
        }
    }
    if few { tree(sums) } else { sums[0] }
}

/// The sum of lanes: l and l + 8 first, then l and l + 4, and so on.
#[inline(always)]
pub(crate) fn tree(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            sums[l] += sums[l + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Rounds to the nearest bf16, ties to even; subnormals become zero, NaN stays NaN.
#[inline(always)]
pub fn to_bf16(value: f32) -> f32 {
    let normal = if value.abs() < f32::MIN_POSITIVE {
        0.0f32.copysign(value)
    } else {
        value
    };
    f32::from_bits(u32::from(rounded(normal)) << 16)
}

/// Sums of one element of y when rows are few.
pub(crate) const LANES: usize = 16;
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
        panels_nt: 2,
        panels_nn: 2,
        rows_cached: usize::MAX,
        packing,
        direct: false,
        pack_x: if wide {
            pack_x::<true>
        } else {
            pack_x::<false>
        },
        pack_columns,
        pack_nt: if wide { nt::<true>() } else { nt::<false>() },
        pack_nn: if wide { nn::<true>() } else { nn::<false>() },
        few: if wide {
            few_rows::<true>()
        } else {
            few_rows::<false>()
        },
        across: None,
        packs_ahead: false,
        tile,
    }
}

const fn nt<const WIDE: bool>() -> [super::kernel::PackWFn; 3] {
    [
        pack_w::<WIDE, true, F32Bits>,
        pack_w::<WIDE, true, F16Bits>,
        pack_w::<WIDE, true, Bf16Bits>,
    ]
}

const fn few_rows<const WIDE: bool>() -> [FewFn; 3] {
    [
        few::<WIDE, F32Bits>,
        few::<WIDE, F16Bits>,
        few::<WIDE, Bf16Bits>,
    ]
}

const fn nn<const WIDE: bool>() -> [super::kernel::PackWFn; 3] {
    [
        pack_w::<WIDE, false, F32Bits>,
        pack_w::<WIDE, false, F16Bits>,
        pack_w::<WIDE, false, Bf16Bits>,
    ]
}

/// An element's bytes, and what they say.
trait Decode {
    /// As in [`StoredDtype::size`].
    const SIZE: usize;
    /// The value at `bytes`, of any alignment.
    ///
    /// # Safety
    /// `SIZE` bytes are readable.
    unsafe fn decode(bytes: *const u8) -> f32;
}

struct F32Bits;
struct F16Bits;
struct Bf16Bits;

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
unsafe fn pack_x<const WIDE: bool>(pack: &PackX) {
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
unsafe fn pack_w<const WIDE: bool, const NT: bool, D: Decode>(pack: &PackW) {
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
                *pack.out.add(slot * pack.stride + n) = bits;
            }
        }
    }
}

/// One stored row at a time: a block of it is decoded once for all rows of x.
///
/// # Safety
/// As [`Few`] says.
unsafe fn few<const WIDE: bool, D: Decode>(few: &Few) {
    for column in 0..few.n {
        for first in (0..few.k).step_by(K_BLOCK) {
            let run = K_BLOCK.min(few.k - first);
            let mut weights = [0u32; K_BLOCK];
            for k in 0..run {
                let at = column * few.row_bytes + (first + k) * D::SIZE;
                // SAFETY: inside the matrix.
                let (slot, bits) = place::<WIDE>(k, unsafe { D::decode(few.bytes.add(at)) });
                weights[slot] = bits;
            }
            let depth = if WIDE { run.next_multiple_of(2) } else { run };
            for row in 0..few.rows {
                // SAFETY: packed rows are `few.x_stride` long, and y has this element.
                unsafe {
                    let x = few.x.add(row * few.x_stride + first);
                    let x = std::slice::from_raw_parts(x, depth);
                    let sum = lanes_sum::<WIDE>(x, &weights[..depth]);
                    let y = few.y.add(row * few.stride + column);
                    let mut start = if few.add || first > 0 { *y } else { 0.0 };
                    if first == 0 && !few.bias.is_null() {
                        start += *few.bias.add(column);
                    }
                    *y = sum.mul_add(few.scale, start);
                }
            }
        }
    }
}

/// The products of a block in sixteen lanes, each of single k or of pairs, in the order packed.
fn lanes_sum<const WIDE: bool>(x: &[u32], w: &[u32]) -> f32 {
    let each = if WIDE { 2 } else { 1 };
    let mut sums = [0.0f32; LANES];
    for (x, w) in x.chunks(LANES * each).zip(w.chunks(LANES * each)) {
        for (l, (x, w)) in x.chunks(each).zip(w.chunks(each)).enumerate() {
            for (x, w) in x.iter().zip(w) {
                sums[l] = f32::from_bits(*x).mul_add(f32::from_bits(*w), sums[l]);
            }
        }
    }
    tree(sums)
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
                let mut start = if tile.load { *y } else { 0.0 };
                if !tile.bias.is_null() {
                    start += *tile.bias.add(col);
                }
                *y = sum.mul_add(tile.scale, start);
            }
        }
    }
}
