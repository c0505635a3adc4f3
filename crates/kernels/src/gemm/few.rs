//! A few rows of activations: the matrix is read once, as fast as memory gives it. Nothing of it is
//! packed, since each weight meets few rows.

use super::driver::{Plan, Rows};
use super::kernel::{Few, FewFn, PackX, slot};
use super::{FEW_ROWS, Product, arena};
use crate::Context;

/// Bytes of stored rows along k in a task: some ten pages, so that threads finish together.
const TASK_BYTES: usize = 128 << 10;
/// Up to so many rows, stored rows along n are not packed where a kernel can do without.
pub(crate) const ROWS_ACROSS: usize = 16;
/// Packed dwords of depth in a run of x: such a kernel takes as many at a time, or a part of them.
pub(crate) const DEPTH_ACROSS: usize = 8;
/// Columns of a task over stored rows along n, at least and at most. Memory gives long pieces of a row
/// faster.
const COLUMNS_ACROSS: [usize; 2] = [256, 2048];

/// Dwords between packed rows along k: seventeen lines, so that rows whose length is a power of two do not share one
/// set of the first cache, nor do the next lines of one row those of another.
const ROW_SKEW: usize = 272;

/// Whether a plan is for this module.
pub(crate) fn takes(plan: &Plan<'_>) -> bool {
    kernel(plan).is_some()
}

/// Runs a plan that is for this module.
pub(crate) fn run(ctx: &Context, plan: &Plan<'_>) {
    let kernel = kernel(plan).expect("a plan for this module");
    let columns = columns(ctx, plan);
    let stride = x_stride(plan);
    let len = match plan.job.product {
        Product::Nt => plan.m * stride,
        Product::Nn => plan.depth().div_ceil(DEPTH_ACROSS) * stride,
    };
    arena::with(len, |packed| {
        match plan.job.product {
            Product::Nt => pack_rows(plan, packed),
            Product::Nn => pack_runs(plan, packed),
        }
        let packed = &*packed;
        ctx.threads.run(plan.n.div_ceil(columns), |task| {
            let first = task * columns;
            let few = some_columns(plan, first, columns.min(plan.n - first), packed);
            // SAFETY: these columns of the matrix and of y exist; no other task writes them.
            unsafe { kernel(&few) };
        });
    });
}

fn kernel(plan: &Plan<'_>) -> Option<FewFn> {
    let rows_of = matches!(plan.job.x, Rows::Of(_));
    let by_dtype = match plan.job.product {
        _ if !rows_of || plan.k == 0 => None,
        Product::Nt => (plan.m <= FEW_ROWS).then_some(plan.kernel.few),
        Product::Nn => plan.kernel.across.filter(|_| plan.m <= ROWS_ACROSS),
    };
    by_dtype.map(|kernels| kernels[slot(plan.job.w.dtype)])
}

/// Columns of a task: a multiple of every kernel's columns at a time.
fn columns(ctx: &Context, plan: &Plan<'_>) -> usize {
    match plan.job.product {
        Product::Nt => (TASK_BYTES / plan.job.w.row_bytes.max(1))
            .next_multiple_of(8)
            .max(8),
        Product::Nn => {
            let [least, most] = COLUMNS_ACROSS;
            let share = plan.n.div_ceil(ctx.threads.count());
            share.next_multiple_of(32).clamp(least, most)
        }
    }
}

/// Dwords from one packed row to the next, or from one run of all rows to the next.
fn x_stride(plan: &Plan<'_>) -> usize {
    match plan.job.product {
        Product::Nt => plan.depth().next_multiple_of(16) + ROW_SKEW,
        Product::Nn => plan.m * DEPTH_ACROSS,
    }
}

fn pack_rows(plan: &Plan<'_>, packed: &mut [u32]) {
    for (row, out) in packed.chunks_mut(x_stride(plan)).enumerate() {
        pack_row(plan, row, &mut out[..plan.depth()]);
    }
}

/// `[run][row][dword]`, for kernels that want a run of all rows at a time.
fn pack_runs(plan: &Plan<'_>, packed: &mut [u32]) {
    arena::with(plan.depth(), |whole| {
        for row in 0..plan.m {
            pack_row(plan, row, whole);
            let runs = packed.chunks_mut(x_stride(plan));
            for (run, out) in whole.chunks(DEPTH_ACROSS).zip(runs) {
                out[row * DEPTH_ACROSS..][..run.len()].copy_from_slice(run);
            }
        }
    });
}

fn pack_row(plan: &Plan<'_>, row: usize, out: &mut [u32]) {
    let Rows::Of(x) = plan.job.x else {
        return;
    };
    let pack = PackX {
        x: x.row(row).as_ptr(),
        stride: x.stride,
        rows: 1,
        k: plan.k,
        out: out.as_mut_ptr(),
        streamed: false,
    };
    assert_eq!(out.len(), plan.depth(), "room for a packed row");
    // SAFETY: a row of x, and room for it.
    unsafe { (plan.kernel.pack_x)(&pack) };
}

fn some_columns(plan: &Plan<'_>, first: usize, count: usize, packed: &[u32]) -> Few {
    Few {
        bytes: plan.stored(first, 0),
        row_bytes: plan.job.w.row_bytes,
        n: count,
        k: plan.k,
        x: packed.as_ptr(),
        x_stride: x_stride(plan),
        rows: plan.m,
        // SAFETY: column `first` is inside y, which was checked.
        y: unsafe { plan.y.get().add(first) },
        stride: plan.y_stride,
        add: plan.job.add,
        scale: plan.job.scale,
        bias: plan
            .job
            .bias
            .map_or(std::ptr::null(), |bias| bias[first..].as_ptr()),
    }
}
