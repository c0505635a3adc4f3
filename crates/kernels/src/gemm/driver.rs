//! Cuts a product into tasks: all rows over one panel of the matrix each.

use super::arena;
use super::kernel::{Kernel, PackW, PackX, Tile, kernel};
use super::{K_BLOCK, Mat, MatMut, Precision, Product};
use crate::{Context, Stored, StoredDtype};
use std::ops::Range;

/// Tasks that a large product is cut into at least, so that threads finish together.
const TASKS_AT_LEAST: usize = 16;
/// Fewer rows than this would pack a panel for too little work.
const ROWS_AT_LEAST: usize = 32;
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
    dtype: StoredDtype,
    rows: usize,
    cols: usize,
    row_bytes: usize,
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

struct Plan<'a> {
    kernel: &'static Kernel,
    job: Job<'a>,
    y: Shared<f32>,
    y_stride: usize,
    m: usize,
    k: usize,
    n: usize,
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
    arena::with(plan.m * plan.depth(), |packed| {
        plan.pack_rows(ctx, packed);
        let panels = n.div_ceil(plan.kernel.cols);
        let chunk = plan.row_chunk(panels);
        ctx.threads.run(panels * plan.m.div_ceil(chunk), |task| {
            let first = task / panels * chunk;
            let rows = first..plan.m.min(first + chunk);
            plan.panel(task % panels, rows, packed);
        });
    });
}

/// One block of k of one packed panel.
struct Block<'a> {
    n: usize,
    cols: usize,
    k: usize,
    width: usize,
    panel: &'a [u32],
}

impl Plan<'_> {
    /// Dwords of a packed row.
    fn depth(&self) -> usize {
        self.kernel.packing.depth(self.k)
    }

    /// Rows of a task: all of them, unless the panels are too few to share out. A function of the
    /// shape alone.
    fn row_chunk(&self, panels: usize) -> usize {
        let chunks = TASKS_AT_LEAST.div_ceil(panels).max(1);
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

    /// Some rows over one panel.
    fn panel(&self, panel: usize, rows: Range<usize>, packed: &[u32]) {
        let first = panel * self.kernel.cols;
        let cols = self.kernel.cols.min(self.n - first);
        let width = cols.next_multiple_of(self.kernel.lanes);
        if self.k == 0 {
            return self.empty_sum(first, cols, rows);
        }
        arena::with(self.kernel.packing.depth(K_BLOCK) * width, |buffer| {
            for k in (0..self.k).step_by(K_BLOCK) {
                self.pack_block(first, cols, k, width, buffer);
                let block = Block {
                    n: first,
                    cols,
                    k,
                    width,
                    panel: buffer,
                };
                self.block(&block, rows.clone(), packed);
            }
        });
    }

    fn pack_block(&self, n: usize, cols: usize, k: usize, width: usize, buffer: &mut [u32]) {
        let row_bytes = self.job.w.row_bytes;
        let (row, col) = match self.job.product {
            Product::Nt => (n, k),
            Product::Nn => (k, n),
        };
        let pack = PackW {
            bytes: self.job.w.bytes[row * row_bytes + col * self.job.w.dtype.size()..].as_ptr(),
            row_bytes,
            n: cols,
            k: K_BLOCK.min(self.k - k),
            width,
            out: buffer.as_mut_ptr(),
        };
        // SAFETY: the panel lies inside the matrix, and the buffer holds a block of it.
        unsafe { (self.kernel.pack_w(self.job.product, self.job.w.dtype))(&pack) };
    }

    /// Some rows over one block of a panel.
    fn block(&self, block: &Block<'_>, rows: Range<usize>, packed: &[u32]) {
        let packing = self.kernel.packing;
        let depth = packing.depth(K_BLOCK.min(self.k - block.k));
        let before = packing.depth(block.k);
        let bias = match self.job.bias {
            Some(bias) if block.k == 0 => bias[block.n..].as_ptr(),
            _ => std::ptr::null(),
        };
        for first in rows.clone().step_by(self.kernel.rows) {
            let rows = self.kernel.rows.min(rows.end - first);
            let tile = Tile {
                a: packed[first * self.depth() + before * rows..].as_ptr(),
                b: block.panel.as_ptr(),
                depth,
                rows,
                cols: block.cols,
                width: block.width,
                // SAFETY: row `first` and column `n` are inside y, which was checked.
                y: unsafe { self.y.get().add(first * self.y_stride + block.n) },
                stride: self.y_stride,
                load: self.job.add || block.k > 0,
                scale: self.job.scale,
                bias,
            };
            // SAFETY: as each of the parts says; no other task writes this part of y.
            unsafe { (self.kernel.tile)(&tile) };
        }
    }

    /// A sum over no k.
    fn empty_sum(&self, n: usize, cols: usize, rows: Range<usize>) {
        for row in rows {
            for col in n..n + cols {
                // SAFETY: inside y; no other task writes this part of it.
                let y = unsafe { &mut *self.y.get().add(row * self.y_stride + col) };
                let start = if self.job.add { *y } else { 0.0 };
                *y = start + self.job.bias.map_or(0.0, |bias| bias[col]);
            }
        }
    }
}
