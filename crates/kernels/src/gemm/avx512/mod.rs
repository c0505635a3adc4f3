//! AVX-512: tiles of 8 × 48 in 24 accumulators, for f32 and for pairs of bf16.
//!
//! Per packed dword of depth a full tile does 24 multiply-adds with 3 panel loads and 8
//! broadcasts, so the multiply pipes are the bound, not the load pipes; 24 + 3 + 1 registers
//! leave four spare.

mod across;
mod ahead;
mod few;
mod pack;
mod rows;

use super::ahead::{Ahead, STEP};
use super::kernel::{FewFn, Kernel, PackWFn, Packing, Tile, TileFn};
use super::{avx2, scalar};
use pack::{Bf16Source, F16Source, F32Source};
use std::arch::x86_64::*;

const ROWS: usize = 8;
const VECTORS: usize = 3;
const LANES: usize = 16;
/// Depth by which packed rows are fetched ahead: they outgrow the second cache, and what another thread packed
/// may lie on another die. The processor guesses the next lines, but not past a page.
const X_AHEAD: usize = 256;

pub(crate) static PAIRS: Kernel = Kernel {
    pack_x: rows::x_pairs,
    pack_nt: [
        pack::nt_pairs::<F32Source>,
        pack::nt_pairs::<F16Source>,
        pack::nt_pairs::<Bf16Source>,
    ],
    pack_nn: [
        pack::nn_pairs::<F32Source>,
        pack::nn_pairs::<F16Source>,
        pack::nn_pairs::<Bf16Source>,
    ],
    few: [
        few::pairs::<F32Source>,
        few::pairs::<F16Source>,
        few::pairs::<Bf16Source>,
    ],
    across: Some([
        across::pairs::<F32Source>,
        across::pairs::<F16Source>,
        across::pairs::<Bf16Source>,
    ]),
    packs_ahead: true,
    tile: tile_pairs,
    ..kernel::<false>(Packing::Pairs)
};

pub(crate) static F32: Kernel = kernel::<false>(Packing::F32);
pub(crate) static WIDE: Kernel = kernel::<true>(Packing::Wide);

const fn kernel<const WIDE: bool>(packing: Packing) -> Kernel {
    Kernel {
        rows: ROWS,
        cols: VECTORS * LANES,
        lanes: LANES,
        panels_nt: 2,
        panels_nn: 2,
        // No passes along k: what they bring here was not measured.
        rows_cached: usize::MAX,
        packing,
        direct: matches!(packing, Packing::F32),
        pack_x: rows::x_f32::<WIDE>,
        pack_columns: scalar::pack_columns,
        pack_nt: nt::<WIDE>(),
        pack_nn: nn::<WIDE>(),
        few: few_f32::<WIDE>(),
        across: None,
        packs_ahead: false,
        tile: tile_f32,
    }
}

/// In emulated bf16 they take AVX2's: a processor without the instruction computes in f32 unless told otherwise.
const fn few_f32<const WIDE: bool>() -> [FewFn; 3] {
    if WIDE {
        avx2::few_rows::<true>()
    } else {
        [
            few::float::<F32Source>,
            few::float::<F16Source>,
            few::float::<Bf16Source>,
        ]
    }
}

const fn nt<const WIDE: bool>() -> [PackWFn; 3] {
    [
        pack::nt_f32::<WIDE, F32Source>,
        pack::nt_f32::<WIDE, F16Source>,
        pack::nt_f32::<WIDE, Bf16Source>,
    ]
}

const fn nn<const WIDE: bool>() -> [PackWFn; 3] {
    [
        pack::nn_f32::<WIDE, F32Source>,
        pack::nn_f32::<WIDE, F16Source>,
        pack::nn_f32::<WIDE, Bf16Source>,
    ]
}

/// The columns that a panel's vector `index` has, as a mask.
#[inline(always)]
fn lane_mask(cols: usize, index: usize) -> u16 {
    let left = cols.saturating_sub(index * LANES).min(LANES);
    ((1u32 << left) - 1) as u16
}

/// Adds a vector of sums to y: what it held with `load`, then the bias unless it is null, then `scale`
/// times the sum.
///
/// # Safety
/// y and the bias exist where `mask` is; the processor has AVX-512.
#[inline(always)]
unsafe fn add_to(y: *mut f32, mask: u16, load: bool, bias: *const f32, scale: __m512, sum: __m512) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut start = _mm512_setzero_ps();
        if load {
            start = _mm512_maskz_loadu_ps(mask, y);
        }
        if !bias.is_null() {
            start = _mm512_add_ps(start, _mm512_maskz_loadu_ps(mask, bias));
        }
        _mm512_mask_storeu_ps(y, mask, _mm512_fmadd_ps(sum, scale, start));
    }
}

/// The columns that vector `index` of a tile has: all, but for the last of a `MASKED` tile. A mask that is known when this
/// is compiled leaves a plain load, which needs no register of masks and no blending.
#[inline(always)]
fn tile_mask<const V: usize, const MASKED: bool>(tile: &Tile, index: usize) -> u16 {
    if MASKED && index + 1 == V {
        lane_mask(tile.cols, index)
    } else {
        0xffff
    }
}

/// Adds the sums of a tile to y.
///
/// # Safety
/// As [`Tile`] says, with `R` rows and `V` vectors, the last of which is `MASKED` where it is not whole; the processor has
/// AVX-512.
#[inline(always)]
unsafe fn finish<const R: usize, const V: usize, const MASKED: bool>(
    tile: &Tile,
    sums: &[[__m512; V]; R],
) {
    // SAFETY: the caller's promise; masks keep to the tile's columns.
    unsafe {
        let scale = _mm512_set1_ps(tile.scale);
        for (row, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let mask = tile_mask::<V, MASKED>(tile, v);
                let y = tile.y.wrapping_add(row * tile.stride + v * LANES);
                let mut bias = tile.bias;
                if !bias.is_null() {
                    bias = bias.wrapping_add(v * LANES);
                }
                add_to(y, mask, tile.load, bias, scale, *sum);
            }
        }
    }
}

/// Asks for one of the lines of y that a tile adds to. A long tile asks for one at each step: all at once keep the
/// loads of its first multiplications waiting, which costs 2 % where y does not fit into the caches.
#[inline(always)]
fn fetch_y<const V: usize>(tile: &Tile, line: usize) {
    let y = tile
        .y
        .wrapping_add(line / V * tile.stride + line % V * LANES);
    // SAFETY: a prefetch of any address does nothing that a program could see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(y.cast()) };
}

macro_rules! tiles {
    ($dispatch:ident, $tile:ident, $features:literal, $step:expr, $multiply_add:expr) => {
        /// # Safety
        /// As [`Tile`] says, with at most 8 rows and 48 columns; the processor has the features.
        unsafe fn $dispatch(tile: &Tile, ahead: &mut Ahead) {
            macro_rules! row {
                ($rows:literal) => {
                    [
                        [$tile::<$rows, 1, false>, $tile::<$rows, 1, true>],
                        [$tile::<$rows, 2, false>, $tile::<$rows, 2, true>],
                        [$tile::<$rows, 3, false>, $tile::<$rows, 3, true>],
                    ]
                };
            }
            static TABLE: [[[TileFn; 2]; VECTORS]; ROWS] = [
                row!(1),
                row!(2),
                row!(3),
                row!(4),
                row!(5),
                row!(6),
                row!(7),
                row!(8),
            ];
            debug_assert!(tile.rows <= ROWS && tile.cols <= tile.width);
            let [whole, masked] = TABLE[tile.rows - 1][tile.width / LANES - 1];
            let tile_of = if tile.cols == tile.width {
                whole
            } else {
                masked
            };
            // SAFETY: the caller's promise.
            unsafe { tile_of(tile, ahead) }
        }

        /// # Safety
        /// As [`Tile`] says, with exactly these rows and vectors, the last of which is `MASKED` where it is not whole.
        #[target_feature(enable = $features)]
        unsafe fn $tile<const R: usize, const V: usize, const MASKED: bool>(
            tile: &Tile,
            ahead: &mut Ahead,
        ) {
            let mut sums = [[_mm512_setzero_ps(); V]; R];
            // SAFETY: a packed tile is `depth × R`, a panel `depth × V` vectors, and y as checked.
            unsafe {
                if tile.depth < STEP * R * V {
                    (0..R * V).for_each(|line| fetch_y::<V>(tile, line));
                }
                let (mut a, mut b) = (tile.a, tile.b);
                for p in 0..tile.depth {
                    if p % STEP == 0 {
                        for line in 0..STEP * R / LANES {
                            let x = a.wrapping_add(X_AHEAD * R + line * LANES);
                            _mm_prefetch::<_MM_HINT_T1>(x.cast());
                        }
                        if p / STEP < R * V {
                            fetch_y::<V>(tile, p / STEP);
                        }
                        $step(ahead);
                    }
                    let mut panel = [_mm512_setzero_si512(); V];
                    for (v, panel) in panel.iter_mut().enumerate() {
                        // A matrix that is read directly may end with its last column.
                        let mask = tile_mask::<V, MASKED>(tile, v);
                        *panel = _mm512_maskz_loadu_epi32(mask, b.add(v * LANES).cast());
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_epi32((*a.add(row)).cast_signed());
                        for (sum, panel) in sums.iter_mut().zip(&panel) {
                            *sum = $multiply_add(*sum, x, *panel);
                        }
                    }
                    a = a.add(R);
                    b = b.wrapping_add(tile.b_stride);
                }
                finish::<R, V, MASKED>(tile, &sums);
            }
        }
    };
}

tiles!(
    tile_f32,
    tile_f32_of,
    "avx512f,avx512bw,avx512dq,avx512vl",
    Ahead::fetch,
    |sum, x, panel| { _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(panel), sum) }
);

tiles!(
    tile_pairs,
    tile_pairs_of,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16",
    ahead::step,
    |sum, x: __m512i, panel: __m512i| {
        _mm512_dpbf16_ps(
            sum,
            std::mem::transmute::<__m512i, __m512bh>(x),
            std::mem::transmute::<__m512i, __m512bh>(panel),
        )
    }
);
