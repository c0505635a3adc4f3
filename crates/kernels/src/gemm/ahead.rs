//! What a tile does for the next unit beside its own sums: a little every [`STEP`] of its depth.
//!
//! Multiplying leaves load, store and shuffle ports half idle, and a line that memory owes is worth hundreds of
//! multiplications. So where a kernel can, it packs the next unit's blocks between its own steps, and asks for the lines of
//! some blocks before their turn; where it can not, it asks for the lines of what is packed after the tile.

use super::Product;

/// Depth of a tile between two calls: what is done at one must not fill the queue in which multiplications wait.
pub(crate) const STEP: usize = 8;
/// Blocks whose lines are on their way: rows a page apart push each other out of the caches when
/// more of them are asked for.
const BLOCKS_AHEAD: usize = 8;
const LINE: usize = 64;

/// What is done at a tile's steps.
pub(crate) enum Ahead {
    Nothing,
    /// Lines are fetched that will be packed after the tile.
    Lines(Lines),
    /// Blocks are packed, by kernels that [pack ahead](super::kernel::Kernel::packs_ahead).
    Blocks(Blocks),
}

impl Ahead {
    /// What a tile does that can not pack ahead.
    #[inline(always)]
    pub(crate) fn fetch(&mut self) {
        if let Self::Lines(lines) = self {
            lines.fetch();
        }
    }
}

/// Lines of memory, fetched a few at a time.
pub(crate) struct Lines {
    row: *const u8,
    row_bytes: usize,
    /// Of a row.
    lines: usize,
    line: usize,
    rows_left: usize,
    /// Lines at each call.
    burst: usize,
}

impl Lines {
    /// `rows` pieces of `len` bytes, the first at `row`, in `calls` calls.
    pub(crate) fn new(
        row: *const u8,
        len: usize,
        row_bytes: usize,
        rows: usize,
        calls: usize,
    ) -> Self {
        let lines = lines_of(row, len);
        Self {
            row,
            row_bytes,
            lines,
            line: 0,
            rows_left: rows,
            burst: (rows * lines).div_ceil(calls.max(1)),
        }
    }

    /// Asks for the next lines.
    #[inline(always)]
    pub(crate) fn fetch(&mut self) {
        let mut left = self.burst;
        while left > 0 && self.rows_left > 0 {
            let count = left.min(self.lines - self.line);
            let first = self.row.wrapping_add(self.line * LINE);
            (0..count).for_each(|line| fetch_line(first.wrapping_add(line * LINE)));
            left -= count;
            self.line += count;
            if self.line == self.lines {
                self.line = 0;
                self.rows_left -= 1;
                self.row = self.row.wrapping_add(self.row_bytes);
            }
        }
    }
}

/// Where the blocks of one panel go.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    pub(crate) out: *mut u32,
    /// Dwords.
    pub(crate) width: usize,
}

/// A unit of stored bf16, packed block by block into pairs. Its panels are whole vectors of [`Self::LANES`]
/// columns wide. A block of rows along n is two rows, all columns of them; one of rows along k is
/// [`Self::DEPTH`] pairs of a vector's columns.
pub(crate) struct Blocks {
    pub(crate) product: Product,
    pub(crate) row_bytes: usize,
    pub(crate) panels: [Panel; Self::PANELS],
    walk: Walk,
    blocks: usize,
    pack: Block,
    fetch: Block,
    /// Calls of [`Self::next`].
    turns: usize,
    /// Blocks a call, and blocks due, in 2⁻¹⁶.
    rate: usize,
    due: usize,
}

/// A block of a unit.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// Its first element.
    pub(crate) at: *const u8,
    /// In its run.
    pub(crate) index: usize,
    /// A vector's columns along k; along n there is one run.
    pub(crate) run: usize,
}

/// The way from block to block.
struct Walk {
    /// Bytes from one block to the next, and from a run's last to the next run's first.
    step: usize,
    turn: usize,
    /// Blocks of a run.
    run: usize,
}

impl Block {
    #[inline(always)]
    fn advance(&mut self, walk: &Walk) {
        self.index += 1;
        let mut step = walk.step;
        if self.index == walk.run {
            (self.index, self.run, step) = (0, self.run + 1, walk.turn);
        }
        self.at = self.at.wrapping_add(step);
    }
}

impl Blocks {
    pub(crate) const LANES: usize = 16;
    pub(crate) const DEPTH: usize = 4;
    /// Of a unit that is packed so, at most.
    pub(crate) const PANELS: usize = 2;
    /// Bytes of a row in a block along k.
    const ALONG: usize = Self::DEPTH * 4;

    /// A unit of `k` rows or columns from `at` on, packed in `calls` calls.
    pub(crate) fn new(
        product: Product,
        (at, row_bytes): (*const u8, usize),
        k: usize,
        panels: [Panel; Self::PANELS],
        calls: usize,
    ) -> Self {
        let (step, run, runs) = match product {
            Product::Nn => (2 * row_bytes, k / 2, 1),
            Product::Nt => {
                let columns: usize = panels.iter().map(|panel| panel.width).sum();
                (Self::ALONG, k / (2 * Self::DEPTH), columns / Self::LANES)
            }
        };
        let walk = Walk {
            step,
            turn: (Self::LANES * row_bytes + step).wrapping_sub(run * step),
            run,
        };
        let first = Block {
            at,
            index: 0,
            run: 0,
        };
        let blocks = run * runs;
        Self {
            product,
            row_bytes,
            panels,
            walk,
            blocks,
            pack: first,
            fetch: first,
            turns: 0,
            rate: ((blocks + BLOCKS_AHEAD) << 16).div_ceil(calls.max(1)),
            due: 0,
        }
    }

    /// Whether all are packed.
    pub(crate) fn done(&self) -> bool {
        self.turns >= self.blocks + BLOCKS_AHEAD
    }

    /// How many times [`Self::next`] is due in one more call.
    #[inline(always)]
    pub(crate) fn due(&mut self) -> usize {
        self.due += self.rate;
        let due = self.due >> 16;
        self.due -= due << 16;
        due
    }

    /// Asks for a block's lines; the block to be packed meanwhile.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<Block> {
        if self.turns < self.blocks {
            self.fetch_block();
            self.fetch.advance(&self.walk);
        }
        let begun = self.turns >= BLOCKS_AHEAD && !self.done();
        self.turns += 1;
        if !begun {
            return None;
        }
        let block = self.pack;
        self.pack.advance(&self.walk);
        Some(block)
    }

    #[inline(always)]
    fn fetch_block(&self) {
        let Block { at, index, .. } = self.fetch;
        match self.product {
            Product::Nn => {
                let columns: usize = self.panels.iter().map(|panel| panel.width).sum();
                for row in [at, at.wrapping_add(self.row_bytes)] {
                    let lines = lines_of(row, columns * 2);
                    (0..lines).for_each(|line| fetch_line(row.wrapping_add(line * LINE)));
                }
            }
            // A line is several blocks long.
            Product::Nt if index.is_multiple_of(LINE / Self::ALONG) => {
                let row = |row: usize| at.wrapping_add(row * self.row_bytes);
                (0..Self::LANES).for_each(|index| fetch_line(row(index)));
            }
            Product::Nt => {}
        }
    }
}

/// Lines that `len` bytes from `at` on touch.
#[inline(always)]
fn lines_of(at: *const u8, len: usize) -> usize {
    (at.addr() % LINE + len).div_ceil(LINE)
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch_line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch of any address does nothing that a program could see.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn fetch_line(_at: *const u8) {}
