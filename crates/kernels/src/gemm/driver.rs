//! Cuts a product into tasks: all rows over one panel of the matrix each.

use super::kernel::{Ahead, Kernel, PackW, PackX, STEP, Tile, kernel};
use super::{K_BLOCK, Mat, MatMut, Precision, Product};
use super::{arena, few};
use crate::{Context, Stored, StoredDtype};
use std::ops::Range;

/// Tasks that a large product is cut into at least, so that threads finish together.
const TASKS_AT_LEAST: usize = 16;
/// Fewer rows than this would pack a panel for too little work.
const ROWS_AT_LEAST: usize = 32;
/// The next panels are fetched while the last so many rows are multiplied: what came earlier would be pushed out of the
/// second cache again by the rows that stream through it.
const FETCH_ROWS: usize = 128;
/// Up to so many rows, a matrix of f32 rows along n is read in place.
const DIRECT_ROWS: usize = 16;
/// Elements that are packed before another thread would have woken up.
const PACK_ALONE: usize = 16 * 1024;

/// A pointer that tasks share; each writes its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) *mut T);
// SAFETY: tasks of one run touch disjoint elements, and the run ends before the borrow does.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

/// The activations of a product.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// `[M, K]`
    Of(Mat<'a>),
    /// `[K, M]`
    OfTransposed(Mat<'a>),
}

/// The other operand: stored rows, possibly with gaps.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    bytes: &'a [u8],
    pub(crate) dtype: StoredDtype,
    rows: usize,
    cols: usize,
    pub(crate) row_bytes: usize,
}

impl<'a> Matrix<'a> {
    /// Trained or computed values.
    pub(crate) fn of_f32(mat: Mat<'a>) -> Self {
        Self {
            bytes: bytemuck::cast_slice(mat.data),
            dtype: StoredDtype::F32,
            rows: mat.rows,
            cols: mat.cols,
            row_bytes: mat.stride * StoredDtype::F32.size(),
        }
    }
}

impl<'a> From<Stored<'a>> for Matrix<'a> {
    fn from(stored: Stored<'a>) -> Self {
        Self {
            bytes: stored.bytes,
            dtype: stored.dtype,
            rows: stored.rows,
            cols: stored.cols,
            row_bytes: stored.cols * stored.dtype.size(),
        }
    }
}

/// A product as its doors describe it: `y = [y +] [bias +] scale · x·W`.
pub(crate) struct Job<'a> {
    pub(crate) x: Rows<'a>,
    pub(crate) w: Matrix<'a>,
    pub(crate) product: Product,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) add: bool,
    pub(crate) scale: f32,
    pub(crate) precision: Precision,
}

/// A job, its sizes, and the kernel that does it.
pub(crate) struct Plan<'a> {
    pub(crate) kernel: &'static Kernel,
    pub(crate) job: Job<'a>,
    pub(crate) y: Shared<f32>,
    pub(crate) y_stride: usize,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

/// Runs a job whose shapes were checked.
pub(crate) fn run(ctx: &Context, job: Job<'_>, y: MatMut<'_>) {
    let (k, n) = job.product.sizes(job.w.rows, job.w.cols);
    let plan = Plan {
        kernel: kernel(ctx.isa, job.precision),
        job,
        y_stride: y.stride,
        y: Shared(y.data.as_mut_ptr()),
        m: y.rows,
        k,
        n,
    };
    if plan.m == 0 || n == 0 {
        return;
    }
    if few::takes(&plan) {
        return few::run(ctx, &plan);
    }
    arena::with(plan.m * plan.depth(), |packed| {
        plan.pack_rows(ctx, packed);
        let groups = Groups(n.div_ceil(plan.kernel.cols));
        let count = groups.count();
        let chunk = plan.row_chunk(count);
        for k in plan.passes() {
            ctx.threads.run(count * plan.m.div_ceil(chunk), |task| {
                let first = task / count * chunk;
                let rows = first..plan.m.min(first + chunk);
                let group = groups.nth(task % count);
                // With threads in step, this one takes that group next; a wrong guess costs little.
                let next = groups.nth(task % count + ctx.threads.count());
                plan.group(group, next, k.clone(), rows, packed);
            });
        }
    });
}

/// What is fetched at a time: a run of k of some panels.
struct Unit {
    panels: Range<usize>,
    k: Range<usize>,
}

/// One block of k of one panel.
struct Block {
    panel: usize,
    k: usize,
    /// The packed panel, or the matrix itself.
    b: *const u32,
    b_stride: usize,
}

/// So many panels in groups, which get smaller towards the end, so that threads finish together.
/// A function of the shape alone.
#[derive(Clone, Copy)]
struct Groups(usize);

impl Groups {
    /// Packed panels of a group fit the second cache together.
    const LARGEST: usize = 2;

    fn iter(self) -> impl Iterator<Item = Range<usize>> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let left = self.0 - first;
            let group = first..first + (left / 6).clamp(1, Self::LARGEST);
            first = group.end;
            (left > 0).then_some(group)
        })
    }

    fn count(self) -> usize {
        self.iter().count()
    }

    fn nth(self, index: usize) -> Range<usize> {
        self.iter().nth(index).unwrap_or_default()
    }
}

impl Plan<'_> {
    /// Dwords of a packed row.
    pub(crate) fn depth(&self) -> usize {
        self.kernel.packing.depth(self.k)
    }

    /// Rows of a task: all of them, unless the groups are too few to share out. A function of the
    /// shape alone.
    fn row_chunk(&self, groups: usize) -> usize {
        let chunks = TASKS_AT_LEAST.div_ceil(groups).max(1);
        let rows = self.m.div_ceil(chunks).max(ROWS_AT_LEAST);
        rows.next_multiple_of(self.kernel.rows)
    }

    /// Packs x tile by tile, each `[depth][rows of the tile]`.
    fn pack_rows(&self, ctx: &Context, packed: &mut [u32]) {
        let tiles = self.m.div_ceil(self.kernel.rows);
        let depth = self.depth();
        let out = Shared(packed.as_mut_ptr());
        let pack_tile = |tile: usize| {
            let first = tile * self.kernel.rows;
            let (x, start, pack_x) = match self.job.x {
                Rows::Of(x) => (x, first * x.stride, self.kernel.pack_x),
                Rows::OfTransposed(x) => (x, first, self.kernel.pack_columns),
            };
            let pack = PackX {
                x: x.data[start.min(x.data.len())..].as_ptr(),
                stride: x.stride,
                rows: self.kernel.rows.min(self.m - first),
                k: self.k,
                // SAFETY: `packed` holds all rows at this depth.
                out: unsafe { out.get().add(first * depth) },
            };
            // SAFETY: the rectangle was checked, and each tile has its own output.
            unsafe { pack_x(&pack) };
        };
        if self.m * self.k < PACK_ALONE {
            (0..tiles).for_each(pack_tile);
        } else {
            ctx.threads.run(tiles, pack_tile);
        }
    }

    /// Runs of k that all tasks finish before the next. Stored rows along n lie in a page each: one
    /// block of them at a time is as many pages as the processor remembers.
    fn passes(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (k, len) = match self.job.product {
            Product::Nt => (self.k, self.k.max(1)),
            Product::Nn => (self.k, K_BLOCK),
        };
        (0..k.max(1))
            .step_by(len)
            .map(move |first| first..k.min(first + len))
    }

    /// Some rows over some panels.
    fn group(
        &self,
        panels: Range<usize>,
        next: Range<usize>,
        k: Range<usize>,
        rows: Range<usize>,
        packed: &[u32],
    ) {
        if self.k == 0 {
            return self.empty_sum(panels, rows);
        }
        let blocks = k.len().div_ceil(K_BLOCK);
        let unit = |panels: &Range<usize>, i: usize| {
            let first = k.start + i * K_BLOCK;
            Unit {
                panels: panels.clone(),
                k: first..k.end.min(first + K_BLOCK),
            }
        };
        arena::with(self.panel_len() * panels.len(), |buffer| {
            for i in 0..blocks {
                let mut ahead = match i + 1 < blocks {
                    true => self.ahead(&unit(&panels, i + 1)),
                    false if next.is_empty() => Ahead::NOTHING,
                    false => self.ahead(&unit(&next, 0)),
                };
                self.unit(&unit(&panels, i), rows.clone(), packed, buffer, &mut ahead);
            }
        });
    }

    /// Dwords of one block of a panel.
    fn panel_len(&self) -> usize {
        self.kernel.packing.depth(K_BLOCK) * self.kernel.cols
    }

    /// The memory that a unit will read.
    fn ahead(&self, unit: &Unit) -> Ahead {
        let columns = self.columns(unit.panels.start).start..self.columns(unit.panels.end - 1).end;
        let size = self.job.w.dtype.size();
        let (len, rows) = match self.job.product {
            Product::Nt => (unit.k.len() * size, columns.len()),
            Product::Nn => (columns.len() * size, unit.k.len()),
        };
        let first = self.stored(columns.start, unit.k.start);
        Ahead::new(first, len, self.job.w.row_bytes, rows)
    }

    /// Packs the panels of a unit, then lets each tile of rows meet all of them while the first cache
    /// has it.
    fn unit(
        &self,
        unit: &Unit,
        rows: Range<usize>,
        packed: &[u32],
        buffer: &mut [u32],
        ahead: &mut Ahead,
    ) {
        let near = rows.len().min(FETCH_ROWS);
        let (pack_burst, tile_burst) = self.bursts(unit, near, ahead.left());
        ahead.burst = if near < rows.len() { 0 } else { pack_burst };
        let k = unit.k.start;
        let mut blocks = [const { None }; Groups::LARGEST];
        let outs = buffer.chunks_mut(self.panel_len());
        for ((panel, out), block) in unit.panels.clone().zip(outs).zip(&mut blocks) {
            *block = Some(match self.direct() {
                true => self.unpacked(panel, k),
                false => self.pack_panel(panel, k, out, ahead),
            });
        }
        for first in rows.clone().step_by(self.kernel.rows) {
            if first + near >= rows.end {
                ahead.burst = tile_burst;
            }
            let tile_rows = first..rows.end.min(first + self.kernel.rows);
            for block in blocks.iter().flatten() {
                let tile = self.tile(block, tile_rows.clone(), packed);
                // SAFETY: as each of the parts says; no other task writes this part of y.
                unsafe { (self.kernel.tile)(&tile, ahead) };
            }
        }
    }

    /// Whether rows are too few to pack a panel for, and the matrix is as a panel would be.
    fn direct(&self) -> bool {
        self.kernel.direct
            && self.m <= DIRECT_ROWS
            && self.job.product == Product::Nn
            && self.job.w.dtype == StoredDtype::F32
    }

    fn unpacked(&self, panel: usize, k: usize) -> Block {
        Block {
            panel,
            k,
            b: self.stored(self.columns(panel).start, k).cast(),
            b_stride: self.job.w.row_bytes / StoredDtype::F32.size(),
        }
    }

    /// Lines to fetch at each row that is packed and each step of a tile, so that the fetches of
    /// a unit are spread over its time. The weights are cycles of a Zen 4 core.
    fn bursts(&self, unit: &Unit, rows: usize, lines: usize) -> (usize, usize) {
        const PACK_CYCLES: usize = 100;
        const ROW_STEP_CYCLES: usize = 96;
        let depth = self.kernel.packing.depth(unit.k.len());
        let pack_steps = match self.job.product {
            Product::Nt => unit.panels.len() * self.kernel.cols,
            Product::Nn => unit.panels.len() * depth,
        };
        let tile_steps = unit.panels.len() * depth.div_ceil(STEP);
        let packing = if self.direct() {
            0
        } else {
            pack_steps * PACK_CYCLES
        };
        let total = packing + tile_steps * rows * ROW_STEP_CYCLES;
        let share = |cycles: usize| (lines * cycles).div_ceil(total);
        let tile_rows = self.kernel.rows.min(rows);
        (share(PACK_CYCLES), share(tile_rows * ROW_STEP_CYCLES))
    }

    /// Columns of y that a panel has.
    fn columns(&self, panel: usize) -> Range<usize> {
        let first = panel * self.kernel.cols;
        first..self.n.min(first + self.kernel.cols)
    }

    /// Where the element of column n and row k of the product's matrix is stored.
    pub(crate) fn stored(&self, n: usize, k: usize) -> *const u8 {
        let (row, col) = match self.job.product {
            Product::Nt => (n, k),
            Product::Nn => (k, n),
        };
        let w = &self.job.w;
        w.bytes[row * w.row_bytes + col * w.dtype.size()..].as_ptr()
    }

    fn pack_panel(&self, panel: usize, k: usize, out: &mut [u32], ahead: &mut Ahead) -> Block {
        let columns = self.columns(panel);
        let pack = PackW {
            bytes: self.stored(columns.start, k),
            row_bytes: self.job.w.row_bytes,
            n: columns.len(),
            k: K_BLOCK.min(self.k - k),
            width: columns.len().next_multiple_of(self.kernel.lanes),
            out: out.as_mut_ptr(),
        };
        let depth = self.kernel.packing.depth(pack.k);
        assert!(out.len() >= depth * pack.width, "room for a panel");
        // SAFETY: the panel lies inside the matrix, and the buffer holds a block of it.
        unsafe { (self.kernel.pack_w(self.job.product, self.job.w.dtype))(&pack, ahead) };
        Block {
            panel,
            k,
            b: out.as_ptr(),
            b_stride: pack.width,
        }
    }

    fn tile(&self, block: &Block, rows: Range<usize>, packed: &[u32]) -> Tile {
        let packing = self.kernel.packing;
        let columns = self.columns(block.panel);
        let bias = match self.job.bias {
            Some(bias) if block.k == 0 => bias[columns.start..].as_ptr(),
            _ => std::ptr::null(),
        };
        Tile {
            a: packed[rows.start * self.depth() + packing.depth(block.k) * rows.len()..].as_ptr(),
            b: block.b,
            b_stride: block.b_stride,
            depth: packing.depth(K_BLOCK.min(self.k - block.k)),
            rows: rows.len(),
            cols: columns.len(),
            width: columns.len().next_multiple_of(self.kernel.lanes),
            // SAFETY: the row and the column are inside y, which was checked.
            y: unsafe { self.y.get().add(rows.start * self.y_stride + columns.start) },
            stride: self.y_stride,
            load: self.job.add || block.k > 0,
            scale: self.job.scale,
            bias,
        }
    }

    /// A sum over no k.
    fn empty_sum(&self, panels: Range<usize>, rows: Range<usize>) {
        for row in rows {
            for col in panels.clone().flat_map(|panel| self.columns(panel)) {
                // SAFETY: inside y; no other task writes this part of it.
                let y = unsafe { &mut *self.y.get().add(row * self.y_stride + col) };
                let start = if self.job.add { *y } else { 0.0 };
                *y = start + self.job.bias.map_or(0.0, |bias| bias[col]);
            }
        }
    }
}
