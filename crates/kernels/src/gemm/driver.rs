//! Runs products that read the same rows: packs those, then lets threads take tasks, multiply and pack.

use super::group::Group;
use super::kernel::{Kernel, PackX, Tile, kernel};
use super::panels::{Pace, Packer, Unit};
use super::progress::Progress;
use super::tasks::Cut;
use super::{K_BLOCK, Mat, MatMut, Precision, Product};
use super::{arena, few};
use crate::{Context, Stored, StoredDtype};
use std::ops::Range;

/// Up to so many rows, a matrix of f32 rows along n is read in place.
const DIRECT_ROWS: usize = 16;
/// Elements that are packed before another thread would have woken up.
const PACK_ALONE: usize = 16 * 1024;

/// More packed dwords than this are streamed past the caches: half of the second one, whose other half is panels. The lines are
/// still in the caches of both threads, from the last product, and to take them back costs more than memory does where
/// the threads are on two dies (docs/TUNING.md, packed rows).
const STREAMED: usize = 128 * 1024;

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
    pub(super) cut: Cut,
    pub(crate) y: Shared<f32>,
    pub(crate) y_stride: usize,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

/// Runs a job whose shapes were checked.
pub(crate) fn run(ctx: &Context, job: Job<'_>, y: MatMut<'_>) {
    run_group(ctx, std::iter::once(job), y);
}

/// Runs jobs whose shapes were checked, which read the same rows and write neighbouring columns of y.
pub(crate) fn run_group<'a>(ctx: &Context, jobs: impl Iterator<Item = Job<'a>>, y: MatMut<'_>) {
    if y.rows == 0 {
        return;
    }
    let start = y.data.as_mut_ptr();
    let mut first = 0;
    let mut plans = Vec::with_capacity(jobs.size_hint().0);
    for job in jobs {
        let (_, n) = job.product.sizes(job.w.rows, job.w.cols);
        if n > 0 {
            // SAFETY: column `first` is inside y, which was checked.
            let start = unsafe { start.add(first) };
            plans.push(Plan::new(ctx, job, start, y.stride, y.rows));
        }
        first += n;
    }
    run_plans(ctx, &plans);
}

/// Plans that read the same rows.
fn run_plans(ctx: &Context, plans: &[Plan<'_>]) {
    let Some(first) = plans.first() else { return };
    if few::takes(first) {
        return plans.iter().for_each(|plan| few::run(ctx, plan));
    }
    if first.k == 0 {
        return plans.iter().for_each(Plan::empty_sum);
    }
    arena::with(first.m * first.depth(), |packed| {
        first.pack_rows(ctx, packed);
        // A thread has a part of its own in all products of a group, or passes would wait for each other.
        for plans in plans.chunk_by(|a, b| a.cut.parts() == b.cut.parts()) {
            run_packed(ctx, &Group::new(plans, ctx.threads.parts()), packed);
        }
    });
}

fn run_packed(ctx: &Context, group: &Group<'_>, packed: &[u32]) {
    arena::with(group.panels(), |passes| {
        let progress = Progress::new(passes);
        ctx.threads.share(group.count(), |turns| {
            let units = turns.flat_map(|task| group.units(task));
            work(units, group.unit_len(), packed, &progress);
        });
    });
}

/// What one thread does: it multiplies a unit while it packs the next.
fn work<'a>(
    mut units: impl Iterator<Item = (&'a Plan<'a>, Unit)>,
    unit_len: usize,
    packed: &[u32],
    progress: &Progress<'_>,
) {
    let _watch = progress.watch();
    arena::with(2 * unit_len, |buffers| {
        let (buffer, mut spare) = buffers.split_at_mut(unit_len);
        let next = units.next();
        let mut packer = next.map(|(plan, unit)| Packer::new(plan, unit, buffer));
        while let Some(ready) = packer {
            let (plan, unit, panels) = ready.finish();
            let next = units.next();
            let next = next.map(|(plan, unit)| Packer::new(plan, unit, std::mem::take(&mut spare)));
            progress.wait_for(&unit);
            packer = plan.multiply(&unit, panels, packed, next);
            progress.done(&unit);
            spare = panels;
        }
    });
}

impl<'a> Plan<'a> {
    /// For a product of `m` rows and at least one element, the first of which is at `start`.
    fn new(ctx: &Context, job: Job<'a>, start: *mut f32, y_stride: usize, m: usize) -> Self {
        let kernel = kernel(ctx.isa, job.precision);
        let (k, n) = job.product.sizes(job.w.rows, job.w.cols);
        Self {
            kernel,
            job,
            cut: Cut::new(n, kernel, ctx.threads.parts()),
            y_stride,
            y: Shared(start),
            m,
            k,
            n,
        }
    }
}

impl Plan<'_> {
    /// Dwords of a packed row.
    pub(crate) fn depth(&self) -> usize {
        self.kernel.packing.depth(self.k)
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
                streamed: packed.len() > STREAMED,
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

    /// Lets each tile of rows meet all panels of a unit while the first cache has it, and packs the next unit meanwhile.
    fn multiply<'a>(
        &self,
        unit: &Unit,
        panels: &[u32],
        packed: &[u32],
        next: Option<Packer<'a>>,
    ) -> Option<Packer<'a>> {
        let mut pace = Pace::new(self, unit, next);
        for first in unit.rows.clone().step_by(self.kernel.rows) {
            let rows = first..unit.rows.end.min(first + self.kernel.rows);
            for panel in 0..unit.panels().len() {
                let tile = self.tile(unit, panel, panels, rows.clone(), packed);
                // SAFETY: as each of the parts says; no other task writes this part of y.
                unsafe { (self.kernel.tile)(&tile, &mut pace.ahead) };
                pace.tile_done();
            }
        }
        pace.packer()
    }

    /// Whether rows are too few to pack a panel for, and the matrix is as a panel would be.
    pub(super) fn direct(&self) -> bool {
        self.kernel.direct
            && self.m <= DIRECT_ROWS
            && self.job.product == Product::Nn
            && self.job.w.dtype == StoredDtype::F32
    }

    /// Dwords of one block of a panel.
    pub(super) fn panel_len(&self) -> usize {
        self.kernel.packing.depth(K_BLOCK) * self.kernel.cols
    }

    /// Columns of a panel, padded.
    pub(super) fn width(&self, panel: &Range<usize>) -> usize {
        panel.len().next_multiple_of(self.kernel.lanes)
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

    /// Some rows over one panel of a unit, which is packed in `panels` unless it is read in place.
    fn tile(
        &self,
        unit: &Unit,
        panel: usize,
        panels: &[u32],
        rows: Range<usize>,
        packed: &[u32],
    ) -> Tile {
        let packing = self.kernel.packing;
        let (columns, k) = (&unit.panels[panel], &unit.k);
        let (b, b_stride) = if self.direct() {
            let stride = self.job.w.row_bytes / StoredDtype::F32.size();
            (self.stored(columns.start, k.start).cast(), stride)
        } else {
            let first = panel * self.panel_len();
            (panels[first..].as_ptr(), self.width(columns))
        };
        let bias = match self.job.bias {
            Some(bias) if k.start == 0 => bias[columns.start..].as_ptr(),
            _ => std::ptr::null(),
        };
        Tile {
            a: packed[rows.start * self.depth() + packing.depth(k.start) * rows.len()..].as_ptr(),
            b,
            b_stride,
            depth: packing.depth(k.len()),
            rows: rows.len(),
            cols: columns.len(),
            width: self.width(columns),
            // SAFETY: the row and the column are inside y, which was checked.
            y: unsafe { self.y.get().add(rows.start * self.y_stride + columns.start) },
            stride: self.y_stride,
            load: self.job.add || k.start > 0,
            scale: self.job.scale,
            bias,
        }
    }

    /// A sum over no k.
    fn empty_sum(&self) {
        for row in 0..self.m {
            for col in 0..self.n {
                // SAFETY: inside y.
                let y = unsafe { &mut *self.y.get().add(row * self.y_stride + col) };
                let start = if self.job.add { *y } else { 0.0 };
                *y = self.job.bias.map_or(start, |bias| start + bias[col]);
            }
        }
    }
}
