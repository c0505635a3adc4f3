//! Panels of a matrix, packed a piece at a time while those before them are multiplied.
//!
//! A weight that is needed at once waits for memory: rows of a matrix are too short and too far apart for the processor
//! to guess them, and rows a page apart push each other out of the caches when many are fetched early. So a thread
//! packs its next unit while it multiplies the present one: tiles do it between their own steps where they can (`ahead.rs`),
//! or they fetch the lines of a piece of a few rows, which is packed after them.

use super::Product;
use super::ahead::{Ahead, Blocks, Lines, Panel, STEP};
use super::driver::Plan;
use super::kernel::PackW;
use crate::StoredDtype;
use std::ops::Range;

/// Stored rows of a piece where they lie along n; even, for pairs of bf16.
const PIECE_ROWS: usize = 32;
/// The next unit is packed while the last so many rows are multiplied: what came earlier would be pushed out of the
/// second cache again by the rows that stream through it.
const LAST_ROWS: usize = 128;

/// A block of k of some panels, for some rows of x.
pub(super) struct Unit {
    pub(super) rows: Range<usize>,
    /// The columns of each panel, one after the other; those behind the first may be empty.
    pub(super) panels: [Range<usize>; Self::PANELS],
    pub(super) k: Range<usize>,
    /// Its place, and how many passes over k come before, see [`super::progress`].
    pub(super) first_panel: usize,
    pub(super) pass: usize,
}

impl Unit {
    /// Panels of the largest unit of any kernel.
    pub(super) const PANELS: usize = 3;

    /// The panels that there are.
    pub(super) fn panels(&self) -> &[Range<usize>] {
        let empty = self.panels.iter().position(Range::is_empty);
        &self.panels[..empty.unwrap_or(Self::PANELS)]
    }

    fn columns(&self) -> Range<usize> {
        let [first, .., last] = &self.panels;
        first.start..last.end
    }
}

/// A unit on its way into a thread's buffer, where it is `[panel][depth][width]`.
pub(super) struct Packer<'a> {
    plan: &'a Plan<'a>,
    unit: Unit,
    out: &'a mut [u32],
    /// Pieces.
    packed: usize,
}

impl<'a> Packer<'a> {
    pub(super) fn new(plan: &'a Plan<'a>, unit: Unit, out: &'a mut [u32]) -> Self {
        Self {
            plan,
            unit,
            out,
            packed: 0,
        }
    }

    /// What is not packed yet, at once.
    pub(super) fn finish(mut self) -> (&'a Plan<'a>, Unit, &'a mut [u32]) {
        self.pack_to(self.pieces());
        (self.plan, self.unit, self.out)
    }

    fn pieces(&self) -> usize {
        if self.plan.direct() {
            return 0;
        }
        match self.plan.job.product {
            Product::Nt => self.unit.columns().len().div_ceil(self.plan.kernel.lanes),
            Product::Nn => self.unit.k.len().div_ceil(PIECE_ROWS),
        }
    }

    /// Columns and run of k of some pieces.
    fn rectangle(&self, pieces: Range<usize>) -> (Range<usize>, Range<usize>) {
        let part = |of: Range<usize>, len: usize| {
            of.start + pieces.start * len..of.end.min(of.start + pieces.end * len)
        };
        let (columns, k) = (self.unit.columns(), self.unit.k.clone());
        match self.plan.job.product {
            Product::Nt => (part(columns, self.plan.kernel.lanes), k),
            Product::Nn => (columns, part(k, PIECE_ROWS)),
        }
    }

    /// The lines that are read next, up to piece `end`, for a tile that asks for them in `calls` calls.
    fn lines(&self, end: usize, calls: usize) -> Lines {
        let (columns, k) = self.rectangle(self.packed..end);
        let w = &self.plan.job.w;
        let (len, rows) = match self.plan.job.product {
            Product::Nt => (k.len(), columns.len()),
            Product::Nn => (columns.len(), k.len()),
        };
        let first = self.plan.stored(columns.start, k.start);
        Lines::new(first, len * w.dtype.size(), w.row_bytes, rows, calls)
    }

    /// The unit in blocks, for tiles that pack them in `calls` calls; nothing where that can not be.
    fn blocks(&mut self, calls: usize) -> Option<Blocks> {
        let (plan, unit) = (self.plan, &self.unit);
        let whole = match plan.job.product {
            Product::Nn => 2,
            Product::Nt => 2 * Blocks::DEPTH,
        };
        if !plan.kernel.packs_ahead
            || plan.job.w.dtype != StoredDtype::Bf16
            || unit.panels().len() > Blocks::PANELS
            || unit.columns().len() % Blocks::LANES != 0
            || unit.k.len() % whole != 0
        {
            return None;
        }
        let first = plan.stored(unit.columns().start, unit.k.start);
        let (one, two) = self.out.split_at_mut(plan.panel_len());
        let [width, second, ..] = unit.panels.each_ref().map(Range::len);
        let dwords = plan.kernel.packing.depth(unit.k.len());
        assert!(
            one.len() >= dwords * width && two.len() >= dwords * second,
            "room for a unit"
        );
        let panels = [(one, width), (two, second)].map(|(out, width)| Panel {
            out: out.as_mut_ptr(),
            width,
        });
        let from = (first, plan.job.w.row_bytes);
        Some(Blocks::new(
            plan.job.product,
            from,
            unit.k.len(),
            panels,
            calls,
        ))
    }

    fn pack_to(&mut self, end: usize) {
        while self.packed < end {
            let (columns, k) = self.rectangle(self.packed..self.packed + 1);
            for index in 0..self.unit.panels().len() {
                let panel = &self.unit.panels[index];
                let part = columns.start.max(panel.start)..columns.end.min(panel.end);
                if !part.is_empty() {
                    self.pack(index, part, k.clone());
                }
            }
            self.packed += 1;
        }
    }

    /// Packs columns of one panel.
    fn pack(&mut self, index: usize, columns: Range<usize>, k: Range<usize>) {
        let (plan, kernel) = (self.plan, self.plan.kernel);
        let panel = &self.unit.panels[index];
        let stride = plan.width(panel);
        let depth = kernel.packing.depth(k.start - self.unit.k.start);
        let to = index * plan.panel_len() + depth * stride + columns.start - panel.start;
        let out = &mut self.out[to..];
        let pack = PackW {
            bytes: plan.stored(columns.start, k.start),
            row_bytes: plan.job.w.row_bytes,
            n: columns.len(),
            k: k.len(),
            width: columns.len().next_multiple_of(kernel.lanes),
            stride,
            out: out.as_mut_ptr(),
        };
        let rows = kernel.packing.depth(pack.k);
        assert!(
            rows == 0 || out.len() >= (rows - 1) * stride + pack.width,
            "room for a piece"
        );
        // SAFETY: the piece lies inside the matrix, and the buffer holds it.
        unsafe { (kernel.pack_w(plan.job.product, plan.job.w.dtype))(&pack) };
    }
}

/// Spreads the packing of the next unit over the last tiles of the present one.
pub(super) struct Pace<'a> {
    packer: Option<Packer<'a>>,
    pieces: usize,
    /// Tiles before packing begins.
    wait: usize,
    /// Tiles that packing is spread over.
    tiles: usize,
    /// Of these, those that are done.
    done: usize,
    /// Steps of a tile.
    steps: usize,
    /// For the next tile.
    pub(super) ahead: Ahead,
}

impl<'a> Pace<'a> {
    /// While `unit` is multiplied, the next one in `packer`.
    pub(super) fn new(plan: &Plan<'_>, unit: &Unit, packer: Option<Packer<'a>>) -> Self {
        let tiles = |rows: usize| rows.div_ceil(plan.kernel.rows) * unit.panels().len();
        let spread = tiles(unit.rows.len().min(LAST_ROWS));
        let mut pace = Self {
            pieces: packer.as_ref().map_or(0, Packer::pieces),
            packer,
            wait: tiles(unit.rows.len()) - spread,
            tiles: spread,
            done: 0,
            steps: plan.kernel.packing.depth(unit.k.len()).div_ceil(STEP),
            ahead: Ahead::Nothing,
        };
        if pace.wait == 0 {
            pace.begin();
        }
        pace
    }

    fn begin(&mut self) {
        let calls = self.tiles * self.steps;
        match self.packer.as_mut().and_then(|packer| packer.blocks(calls)) {
            Some(blocks) => self.ahead = Ahead::Blocks(blocks),
            None => self.look_ahead(),
        }
    }

    /// Packs what is due after one more tile.
    pub(super) fn tile_done(&mut self) {
        if self.wait > 0 {
            self.wait -= 1;
            if self.wait == 0 {
                self.begin();
            }
            return;
        }
        if let Ahead::Blocks(_) = self.ahead {
            return;
        }
        self.done += 1;
        let due = self.pieces * self.done / self.tiles;
        if let Some(packer) = &mut self.packer
            && packer.packed < due
        {
            packer.pack_to(due);
            self.look_ahead();
        }
    }

    /// Has the lines of the next pieces fetched until their turn.
    fn look_ahead(&mut self) {
        let Some(packer) = &self.packer else { return };
        if packer.packed == self.pieces {
            return;
        }
        let turn = ((packer.packed + 1) * self.tiles).div_ceil(self.pieces);
        let calls = (turn - self.done) * self.steps;
        self.ahead = Ahead::Lines(packer.lines(self.pieces * turn / self.tiles, calls));
    }

    /// The next unit, as far as it is packed.
    pub(super) fn packer(mut self) -> Option<Packer<'a>> {
        if let (Ahead::Blocks(blocks), Some(packer)) = (&self.ahead, &mut self.packer) {
            assert!(blocks.done(), "tiles have made all their steps");
            packer.packed = self.pieces;
        }
        self.packer
    }
}

/// Dwords of a thread's buffer for one unit.
pub(super) fn unit_len(plan: &Plan<'_>) -> usize {
    plan.panel_len() * plan.kernel.panels(plan.job.product)
}
