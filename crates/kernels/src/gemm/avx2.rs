//! AVX2 with FMA: tiles of 6 × 16 in 12 accumulators. bf16 is emulated in f32.

use super::ahead::{Ahead, STEP};
use super::kernel::{Few, Kernel, PackW, PackWFn, PackX, Packing, Tile, TileFn};
use super::scalar::{self, Bf16Bits, Decode, F16Bits, F32Bits};
use std::arch::x86_64::*;

const ROWS: usize = 6;
const VECTORS: usize = 2;
const LANES: usize = 8;

pub(crate) static F32: Kernel = kernel::<false>(Packing::F32);
pub(crate) static WIDE: Kernel = kernel::<true>(Packing::Wide);

const fn kernel<const WIDE: bool>(packing: Packing) -> Kernel {
    Kernel {
        rows: ROWS,
        cols: VECTORS * LANES,
        lanes: LANES,
        packing,
        direct: false,
        pack_x: pack_x::<WIDE>,
        pack_columns: scalar::pack_columns,
        pack_nt: by_dtype::<WIDE, true>(),
        pack_nn: by_dtype::<WIDE, false>(),
        few: [
            few::<WIDE, F32Bits>,
            few::<WIDE, F16Bits>,
            few::<WIDE, Bf16Bits>,
        ],
        across: None,
        packs_ahead: false,
        tile,
    }
}

const fn by_dtype<const WIDE: bool, const NT: bool>() -> [PackWFn; 3] {
    [
        pack_w::<WIDE, NT, F32Bits>,
        pack_w::<WIDE, NT, F16Bits>,
        pack_w::<WIDE, NT, Bf16Bits>,
    ]
}

/// # Safety
/// As [`PackX`] says; the processor has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_x<const WIDE: bool>(pack: &PackX) {
    // SAFETY: the caller's promise.
    unsafe { scalar::pack_x::<WIDE>(pack) }
}

/// # Safety
/// As [`PackW`] says; the processor has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_w<const WIDE: bool, const NT: bool, D: Decode>(pack: &PackW) {
    // SAFETY: the caller's promise.
    unsafe { scalar::pack_w::<WIDE, NT, D>(pack) }
}

/// # Safety
/// As [`Few`] says; the processor has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn few<const WIDE: bool, D: Decode>(few: &Few) {
    // SAFETY: the caller's promise.
    unsafe { scalar::few::<WIDE, D>(few) }
}

/// # Safety
/// As [`Tile`] says, with at most 6 rows and 16 columns; the processor has AVX2 and FMA.
unsafe fn tile(tile: &Tile, ahead: &mut Ahead) {
    static TABLE: [[TileFn; VECTORS]; ROWS] = [
        [tile_of::<1, 1>, tile_of::<1, 2>],
        [tile_of::<2, 1>, tile_of::<2, 2>],
        [tile_of::<3, 1>, tile_of::<3, 2>],
        [tile_of::<4, 1>, tile_of::<4, 2>],
        [tile_of::<5, 1>, tile_of::<5, 2>],
        [tile_of::<6, 1>, tile_of::<6, 2>],
    ];
    // SAFETY: the caller's promise.
    unsafe { TABLE[tile.rows - 1][tile.width / LANES - 1](tile, ahead) }
}

/// # Safety
/// As [`Tile`] says, with exactly these rows and vectors.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of<const R: usize, const V: usize>(tile: &Tile, ahead: &mut Ahead) {
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    let (mut a, mut b) = (tile.a.cast::<f32>(), tile.b.cast::<f32>());
    // SAFETY: a packed tile is `depth × R`, a panel `depth × V` vectors, and y as checked.
    unsafe {
        for p in 0..tile.depth {
            if p % STEP == 0 {
                ahead.fetch();
            }
            let mut panel = [_mm256_setzero_ps(); V];
            for (v, panel) in panel.iter_mut().enumerate() {
                *panel = _mm256_loadu_ps(b.add(v * LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*a.add(row));
                for (sum, panel) in sums.iter_mut().zip(&panel) {
                    *sum = _mm256_fmadd_ps(x, *panel, *sum);
                }
            }
            a = a.add(R);
            b = b.add(V * LANES);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                store(tile, row, v, *sum);
            }
        }
    }
}

/// Adds one vector of sums to y.
///
/// # Safety
/// As [`Tile`] says.
#[target_feature(enable = "avx2,fma")]
unsafe fn store(tile: &Tile, row: usize, v: usize, sum: __m256) {
    let mask = lane_mask(tile.cols.saturating_sub(v * LANES));
    // SAFETY: only lanes inside the tile are touched.
    unsafe {
        let y = tile.y.wrapping_add(row * tile.stride + v * LANES);
        let mut start = _mm256_setzero_ps();
        if tile.load {
            start = _mm256_maskload_ps(y, mask);
        }
        if !tile.bias.is_null() {
            let bias = _mm256_maskload_ps(tile.bias.wrapping_add(v * LANES), mask);
            start = _mm256_add_ps(start, bias);
        }
        let total = _mm256_fmadd_ps(sum, _mm256_set1_ps(tile.scale), start);
        _mm256_maskstore_ps(y, mask, total);
    }
}

#[target_feature(enable = "avx2")]
fn lane_mask(cols: usize) -> __m256i {
    let count = _mm256_set1_epi32(cols.min(LANES) as i32);
    _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}
