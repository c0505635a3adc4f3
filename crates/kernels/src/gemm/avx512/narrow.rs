//! A few rows of activations: each weight is used so seldom that packing a panel would cost more
//! than the product. Transposed columns go from registers straight into the sums.

use super::pack::{Source, along_k, columns, first16, first32, stage_row};
use super::{LANES, VECTORS, finish};
use crate::gemm::kernel::{Ahead, PackW, Tile};
use std::arch::x86_64::*;

/// Most rows of a tile: with 16 columns in registers, 12 sums are left.
pub(super) const ROWS: usize = 4;
/// Dwords of a row that are staged at a time.
const RUN: usize = 128;
/// As in `pack`, a line more than the rows need.
const STRIDE: usize = RUN + LANES;

/// The rows of a panel.
#[repr(align(64))]
struct Stage {
    _rows: [u32; VECTORS * LANES * STRIDE],
}

macro_rules! narrow {
    ($dispatch:ident, $narrow:ident, $features:literal, [$($wide:ident)?], $step:literal,
     $depth:expr, $load:expr, $multiply_add:expr) => {
        /// # Safety
        /// As [`PackW`] and [`Tile`] say, with at most 4 rows, and `pack.out` not used.
        pub(super) unsafe fn $dispatch<$(const $wide: bool,)? S: Source>(
            pack: &PackW,
            tile: &Tile,
            ahead: &mut Ahead,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                match tile.rows {
                    1 => $narrow::<$($wide,)? S, 1>(pack, tile, ahead),
                    2 => $narrow::<$($wide,)? S, 2>(pack, tile, ahead),
                    3 => $narrow::<$($wide,)? S, 3>(pack, tile, ahead),
                    _ => $narrow::<$($wide,)? S, 4>(pack, tile, ahead),
                }
            }
        }

        /// # Safety
        /// As above, with exactly these rows.
        #[target_feature(enable = $features)]
        unsafe fn $narrow<$(const $wide: bool,)? S: Source, const R: usize>(
            pack: &PackW,
            tile: &Tile,
            ahead: &mut Ahead,
        ) {
            const K_RUN: usize = RUN * $step / LANES;
            debug_assert!(tile.rows == R && pack.width <= VECTORS * LANES);
            let mut stage = std::mem::MaybeUninit::<Stage>::uninit();
            let stage: *mut u32 = stage.as_mut_ptr().cast();
            let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
            for first in (0..pack.k).step_by(K_RUN) {
                let run = K_RUN.min(pack.k - first);
                for column in 0..pack.width {
                    let inside = if column < pack.n { run } else { 0 };
                    // SAFETY: inside the panel, by the masks; the stage holds a run.
                    unsafe {
                        let at = column * pack.row_bytes + first * S::SIZE;
                        let at = pack.bytes.wrapping_add(at);
                        stage_row!(at, inside, run, stage.add(column * STRIDE), $step, S::SIZE, $load);
                    }
                    if column % 2 == 0 {
                        ahead.fetch();
                    }
                }
                let depth: usize = $depth(run);
                let before = first * LANES / $step;
                for slot in (0..depth).step_by(LANES) {
                    for v in 0..pack.width / LANES {
                        ahead.fetch();
                        // SAFETY: staged above; packed rows are `depth × R`.
                        unsafe {
                            let vectors = columns(stage.add(v * LANES * STRIDE + slot), STRIDE);
                            let a = tile.a.add((before + slot) * R);
                            let sums_of = |sums: &mut [[__m512; VECTORS]; R], p: usize| {
                                for row in 0..R {
                                    let x = _mm512_set1_epi32((*a.add(p * R + row)).cast_signed());
                                    sums[row][v] = $multiply_add(sums[row][v], x, vectors[p]);
                                }
                            };
                            if depth - slot >= LANES {
                                for p in 0..LANES {
                                    sums_of(&mut sums, p);
                                }
                            } else {
                                for p in 0..depth - slot {
                                    sums_of(&mut sums, p);
                                }
                            }
                        }
                    }
                }
            }
            // SAFETY: as the tile says.
            unsafe { finish(tile, &sums) };
        }
    };
}

narrow!(
    pairs,
    pairs_of,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16",
    [],
    32,
    |k: usize| k.div_ceil(2),
    |at, left| S::pairs(at, first32(left)),
    |sum, x: __m512i, panel: __m512i| {
        _mm512_dpbf16_ps(
            sum,
            std::mem::transmute::<__m512i, __m512bh>(x),
            std::mem::transmute::<__m512i, __m512bh>(panel),
        )
    }
);

narrow!(
    float,
    float_of,
    "avx512f,avx512bw,avx512dq,avx512vl",
    [WIDE],
    16,
    |k: usize| if WIDE { k.next_multiple_of(2) } else { k },
    |at, left| along_k::<WIDE>(S::values(at, first16(left))),
    |sum, x, panel| _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(panel), sum)
);
