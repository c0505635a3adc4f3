//! Packs rows of x: sixteen dwords of eight rows at a time, transposed in registers.

use super::LANES;
use super::pack::{F32Source, Source, along_k, first16, first32};
use crate::gemm::kernel::PackX;
use crate::vector::transpose::{four_rows, lanes};
use std::arch::x86_64::*;

/// Bytes of a cache line.
const LINE: usize = 64;

macro_rules! pack_x {
    ($name:ident, $features:literal, [$($wide:ident)?], $step:literal, $depth:expr, $load:expr) => {
        /// # Safety
        /// As [`PackX`] says, for at most 8 rows.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<$(const $wide: bool)?>(pack: &PackX) {
            let depth: usize = $depth(pack.k);
            debug_assert!(pack.rows <= 8);
            if pack.rows == 1 {
                for k in (0..pack.k).step_by($step) {
                    let slot = k * LANES / $step;
                    // SAFETY: as below.
                    unsafe {
                        let row = $load(pack.x.wrapping_add(k).cast(), pack.k - k);
                        let out = pack.out.add(slot).cast();
                        _mm512_mask_storeu_epi32(out, first16(depth - slot), row);
                    }
                }
                return;
            }
            let streamed = pack.streamed && pack.out.addr().is_multiple_of(LINE);
            for k in (0..pack.k).step_by($step) {
                let slot = k * LANES / $step;
                // SAFETY: inside the rectangle, by the masks; the output holds `depth × rows`.
                unsafe {
                    let mut rows = [_mm512_setzero_si512(); 8];
                    let at = |row: usize| pack.x.wrapping_add(row * pack.stride + k).cast();
                    if pack.rows == 8 && k + $step <= pack.k {
                        // Without masks: rows come from afar, and a masked load that misses lets fewer others run beside it.
                        for (row, packed) in rows.iter_mut().enumerate() {
                            *packed = $load(at(row), $step);
                        }
                    } else {
                        for (row, packed) in rows.iter_mut().enumerate() {
                            let inside = if row < pack.rows { pack.k - k } else { 0 };
                            // A row there is: a load of nothing is slow where no memory is.
                            *packed = $load(at(row.min(pack.rows - 1)), inside);
                        }
                    }
                    let out = pack.out.add(slot * pack.rows);
                    let fours = fours(rows);
                    if pack.rows < 8 || depth - slot < LANES {
                        scatter(fours, out, pack.rows, depth - slot);
                    } else {
                        store_lines(fours, out, streamed);
                    }
                }
            }
            if streamed {
                // Orders what was streamed before anything that tells another thread of it.
                _mm_sfence();
            }
        }
    };
}

/// Sixteen columns of eight rows: vector c has column 4 l + c of rows 0..4 in lane l, vector 4 + c that of rows 4..8.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn fours(rows: [__m512i; 8]) -> [__m512i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    // SAFETY: the caller's promise.
    let ([a, b, c, d], [e, f, g, h]) =
        unsafe { (four_rows([a, b, c, d]), four_rows([e, f, g, h])) };
    [a, b, c, d, e, f, g, h]
}

/// Stores [`fours`] column by column, `count` rows of each, at most `depth` columns.
///
/// # Safety
/// `out` holds `count × min(depth, 16)`; the processor has AVX-512.
#[inline(always)]
unsafe fn scatter(fours: [__m512i; 8], out: *mut u32, count: usize, depth: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = ((1u32 << count) - 1) as u8;
        for column in 0..LANES.min(depth) {
            let (lane, c) = (column / 4, column % 4);
            let part = |from: __m512i| match lane {
                0 => _mm512_extracti32x4_epi32::<0>(from),
                1 => _mm512_extracti32x4_epi32::<1>(from),
                2 => _mm512_extracti32x4_epi32::<2>(from),
                _ => _mm512_extracti32x4_epi32::<3>(from),
            };
            let eight = _mm256_set_m128i(part(fours[4 + c]), part(fours[c]));
            _mm256_mask_storeu_epi32(out.add(column * count).cast(), mask, eight);
        }
    }
}

/// Stores [`fours`] column by column, all eight rows of all columns: two columns are a line.
///
/// # Safety
/// `out` holds 8 × 16, and begins a line if they are streamed; the processor has AVX-512.
#[inline(always)]
unsafe fn store_lines(fours: [__m512i; 8], out: *mut u32, streamed: bool) {
    let [a, b, c, d, e, f, g, h] = fours;
    // SAFETY: the caller's promise.
    unsafe {
        let (even, odd) = (lanes([a, e, b, f]), lanes([c, g, d, h]));
        for (index, (even, odd)) in even.iter().zip(&odd).enumerate() {
            let out: *mut __m512i = out.add(index * 2 * LANES).cast();
            if streamed {
                _mm512_stream_si512(out, *even);
                _mm512_stream_si512(out.add(1), *odd);
            } else {
                _mm512_storeu_si512(out, *even);
                _mm512_storeu_si512(out.add(1), *odd);
            }
        }
    }
}

pack_x!(
    x_pairs,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16",
    [],
    32,
    |k: usize| k.div_ceil(2),
    |at, left| F32Source::pairs(at, first32(left))
);
pack_x!(
    x_f32,
    "avx512f,avx512bw,avx512dq,avx512vl",
    [WIDE],
    16,
    |k: usize| if WIDE { k.next_multiple_of(2) } else { k },
    |at, left| along_k::<WIDE>(F32Source::values(at, first16(left)))
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Packs, in buffers that begin `shift` dwords behind a line.
    fn packed(x: &[f32], rows: usize, k: usize, shift: usize, streamed: bool) -> Vec<u32> {
        let mut out = vec![[0u32; LANES]; rows * k / LANES + 3];
        let lines = out.as_flattened_mut();
        let begin = lines.as_ptr().align_offset(LINE) + shift;
        let pack = PackX {
            x: x.as_ptr(),
            stride: k,
            rows,
            k,
            out: lines[begin..].as_mut_ptr(),
            streamed,
        };
        // SAFETY: the rectangle is x, and there is room for it; the test asked for AVX-512.
        unsafe { x_f32::<false>(&pack) };
        lines[begin..][..rows * k].to_vec()
    }

    #[test]
    fn streamed_or_not_rows_are_transposed() {
        if Isa::detect() < Isa::Avx512 {
            return;
        }
        for (rows, k) in [
            (8, 64),
            (8, 77),
            (8, 15),
            (8, 16),
            (7, 48),
            (2, 33),
            (1, 40),
        ] {
            let x: Vec<f32> = (0..rows * k).map(|i| i as f32).collect();
            let want: Vec<u32> = (0..rows * k)
                .map(|i| x[i % rows * k + i / rows].to_bits())
                .collect();
            for shift in [0, 3] {
                assert_eq!(packed(&x, rows, k, shift, false), want, "{rows} × {k}");
                assert_eq!(packed(&x, rows, k, shift, true), want, "{rows} × {k}");
            }
        }
    }
}
