//! Packing between the steps of a tile, in the registers that its sums leave: of 32 they take 24.

use super::pack::{Bf16Source, Source, ZIPS, four_columns, store_pairs};
use super::{Ahead, LANES};
use crate::gemm::Product;
use crate::gemm::ahead::{Block, Blocks};
use std::arch::x86_64::*;

// A block along k is what `four_columns` makes.
const _: () = assert!(Blocks::LANES == LANES && Blocks::DEPTH == 4);

/// What a tile of pairs does at a step.
///
/// # Safety
/// Lines or blocks are those of a unit that exists; the processor has AVX-512 bf16.
#[inline(always)]
pub(super) unsafe fn step(ahead: &mut Ahead) {
    match ahead {
        Ahead::Nothing => {}
        Ahead::Lines(lines) => lines.fetch(),
        Ahead::Blocks(blocks) => {
            for _ in 0..blocks.due() {
                if let Some(block) = blocks.next() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        match blocks.product {
                            Product::Nn => two_rows(blocks, &block),
                            Product::Nt => four_pairs(blocks, &block),
                        }
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn two_rows(blocks: &Blocks, block: &Block) {
    // Loaded here: kept through the tile it would be one register too many for `four_pairs`.
    let zip = std::hint::black_box(ZIPS[0].as_ptr());
    // SAFETY: an index is 64 bytes.
    let zip = unsafe { _mm512_loadu_si512(zip.cast()) };
    let mut at = block.at;
    for panel in &blocks.panels {
        let out = panel.out.wrapping_add(block.index * panel.width);
        for column in (0..panel.width).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let odd = Bf16Source::half_pairs(at.wrapping_add(blocks.row_bytes));
                let even = Bf16Source::half_pairs(at);
                store_pairs(&[zip], even, odd, out.wrapping_add(column));
            }
            at = at.wrapping_add(LANES * 2);
        }
    }
}

/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn four_pairs(blocks: &Blocks, block: &Block) {
    let [first, second] = &blocks.panels;
    let mut column = block.run * LANES;
    let mut panel = first;
    if column >= first.width {
        (column, panel) = (column - first.width, second);
    }
    let depth = block.index * Blocks::DEPTH;
    let out = panel.out.wrapping_add(depth * panel.width + column);
    // SAFETY: the caller's promise.
    unsafe {
        let columns = four_columns(block.at, blocks.row_bytes);
        for (p, column) in columns.iter().enumerate() {
            _mm512_storeu_si512(out.wrapping_add(p * panel.width).cast(), *column);
        }
    }
}
