//! AVX2 with FMA: tiles of 6 × 16 in 12 accumulators. bf16 is emulated in f32.
//!
//! Per packed dword of depth a full tile does 12 multiply-adds with 2 panel loads and 6 broadcasts; 12 + 2 + 1 of
//! the sixteen registers are taken.

mod across;
mod few;
mod pack;
mod row;

use super::ahead::{Ahead, STEP};
use super::kernel::{FewFn, Kernel, PackWFn, Packing, Tile, TileFn};
use super::scalar;
use pack::{Bf16Source, F16Source, F32Source, lane_mask};
use std::arch::x86_64::*;

const ROWS: usize = 6;
const VECTORS: usize = 2;
const LANES: usize = 8;
/// 12 MB (docs/TUNING.md, passes).
const ROWS_CACHED: usize = 3 << 20;

pub(crate) static F32: Kernel = kernel::<false>(Packing::F32);
pub(crate) static WIDE: Kernel = kernel::<true>(Packing::Wide);

const fn kernel<const WIDE: bool>(packing: Packing) -> Kernel {
    Kernel {
        rows: ROWS,
        cols: VECTORS * LANES,
        lanes: LANES,
        // The better of two and three for each (docs/TUNING.md, panels).
        panels_nt: 2,
        panels_nn: 3,
        rows_cached: ROWS_CACHED,
        packing,
        direct: matches!(packing, Packing::F32),
        pack_x: pack::x::<WIDE>,
        pack_columns: scalar::pack_columns,
        pack_nt: nt::<WIDE>(),
        pack_nn: nn::<WIDE>(),
        few: few_rows::<WIDE>(),
        across: if WIDE { None } else { Some(across()) },
        packs_ahead: false,
        tile,
    }
}

const fn nt<const WIDE: bool>() -> [PackWFn; 3] {
    [
        pack::nt::<WIDE, F32Source>,
        pack::nt::<WIDE, F16Source>,
        pack::nt::<WIDE, Bf16Source>,
    ]
}

const fn nn<const WIDE: bool>() -> [PackWFn; 3] {
    [
        pack::nn::<WIDE, F32Source>,
        pack::nn::<WIDE, F16Source>,
        pack::nn::<WIDE, Bf16Source>,
    ]
}

pub(super) const fn few_rows<const WIDE: bool>() -> [FewFn; 3] {
    [
        few::few::<WIDE, F32Source>,
        few::few::<WIDE, F16Source>,
        few::few::<WIDE, Bf16Source>,
    ]
}

const fn across() -> [FewFn; 3] {
    [
        across::float::<F32Source>,
        across::float::<F16Source>,
        across::float::<Bf16Source>,
    ]
}

/// # Safety
/// As [`Tile`] says, with at most 6 rows and 16 columns, in no more vectors than they need; the processor has AVX2 and FMA.
unsafe fn tile(tile: &Tile, ahead: &mut Ahead) {
    macro_rules! row {
        ($rows:literal) => {
            [
                [tile_of::<$rows, 1, false>, tile_of::<$rows, 1, true>],
                [tile_of::<$rows, 2, false>, tile_of::<$rows, 2, true>],
            ]
        };
    }
    static TABLE: [[[TileFn; 2]; VECTORS]; ROWS] =
        [row!(1), row!(2), row!(3), row!(4), row!(5), row!(6)];
    debug_assert!(tile.rows <= ROWS && tile.width == tile.cols.next_multiple_of(LANES));
    let masked = usize::from(tile.cols < tile.width);
    // SAFETY: the caller's promise.
    unsafe { TABLE[tile.rows - 1][tile.width / LANES - 1][masked](tile, ahead) }
}

/// # Safety
/// As [`Tile`] says, with exactly these rows and vectors, the last of which is `MASKED` where it is not whole.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of<const R: usize, const V: usize, const MASKED: bool>(
    tile: &Tile,
    ahead: &mut Ahead,
) {
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    // SAFETY: a packed tile is `depth × R`, a panel `depth × V` vectors, and y as checked.
    unsafe {
        if tile.depth < STEP * R * V {
            (0..R * V).for_each(|line| fetch_y::<V>(tile, line));
        }
        let last = lane_mask(tile.cols - (V - 1) * LANES);
        let (mut a, mut b) = (tile.a.cast::<f32>(), tile.b.cast::<f32>());
        for step in 0..tile.depth / STEP {
            if step < R * V {
                fetch_y::<V>(tile, step);
            }
            ahead.fetch();
            for _ in 0..STEP {
                multiply::<R, V, MASKED>(&mut sums, a, b, last);
                a = a.add(R);
                b = b.wrapping_add(tile.b_stride);
            }
        }
        if !tile.depth.is_multiple_of(STEP) {
            ahead.fetch();
        }
        for _ in 0..tile.depth % STEP {
            multiply::<R, V, MASKED>(&mut sums, a, b, last);
            a = a.add(R);
            b = b.wrapping_add(tile.b_stride);
        }
        finish::<R, V, MASKED>(tile, &sums);
    }
}

/// Adds the products of one dword of depth.
///
/// # Safety
/// `R` values at `a` and a row of the panel at `b` are readable; the processor has AVX2 and FMA.
#[inline(always)]
unsafe fn multiply<const R: usize, const V: usize, const MASKED: bool>(
    sums: &mut [[__m256; V]; R],
    a: *const f32,
    b: *const f32,
    last: __m256i,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut panel = [_mm256_setzero_ps(); V];
        for (v, panel) in panel.iter_mut().enumerate() {
            let at = b.wrapping_add(v * LANES);
            *panel = if v + 1 == V {
                load::<MASKED>(at, last)
            } else {
                load::<false>(at, last)
            };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = _mm256_broadcast_ss(&*a.add(row));
            for (sum, panel) in sums.iter_mut().zip(&panel) {
                *sum = _mm256_fmadd_ps(x, *panel, *sum);
            }
        }
    }
}

/// Adds the sums of a tile to y.
///
/// # Safety
/// As [`tile_of`].
#[inline(always)]
unsafe fn finish<const R: usize, const V: usize, const MASKED: bool>(
    tile: &Tile,
    sums: &[[__m256; V]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = _mm256_set1_ps(tile.scale);
        for (row, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let y = tile.y.wrapping_add(row * tile.stride + v * LANES);
                let mut bias = tile.bias;
                if !bias.is_null() {
                    bias = bias.wrapping_add(v * LANES);
                }
                let columns = tile.cols - v * LANES;
                if v + 1 == V {
                    add_to::<MASKED>(y, columns, tile.load, bias, scale, *sum);
                } else {
                    add_to::<false>(y, columns, tile.load, bias, scale, *sum);
                }
            }
        }
    }
}

/// Asks for the line of one of the vectors of y that a tile adds to: one at each step, so that they keep no other load
/// waiting.
#[inline(always)]
fn fetch_y<const V: usize>(tile: &Tile, line: usize) {
    let at = line / V * tile.stride + line % V * LANES;
    // SAFETY: a prefetch of any address does nothing that a program could see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(tile.y.wrapping_add(at).cast()) };
}

/// The vector at `at`, of a `MASKED` one what the mask says. Masked loads and stores are slow here; a matrix that is
/// read in place may end with its last column.
///
/// # Safety
/// What is loaded is readable; the processor has AVX2.
#[inline(always)]
unsafe fn load<const MASKED: bool>(at: *const f32, mask: __m256i) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        if MASKED {
            _mm256_maskload_ps(at, mask)
        } else {
            _mm256_loadu_ps(at)
        }
    }
}

/// Adds a vector of sums to y, of a `MASKED` one the first `columns`: what y held with `keep`, then the bias unless it is
/// null, then `scale` times the sum.
///
/// # Safety
/// y and the bias have these columns; the processor has AVX2 and FMA.
#[inline(always)]
unsafe fn add_to<const MASKED: bool>(
    y: *mut f32,
    columns: usize,
    keep: bool,
    bias: *const f32,
    scale: __m256,
    sum: __m256,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = lane_mask(columns);
        let mut start = _mm256_setzero_ps();
        if keep {
            start = load::<MASKED>(y, mask);
        }
        if !bias.is_null() {
            start = _mm256_add_ps(start, load::<MASKED>(bias, mask));
        }
        let total = _mm256_fmadd_ps(sum, scale, start);
        if MASKED {
            _mm256_maskstore_ps(y, mask, total);
        } else {
            _mm256_storeu_ps(y, total);
        }
    }
}
