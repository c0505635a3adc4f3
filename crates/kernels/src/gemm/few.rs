//! A few rows of activations: the matrix is read once, in the order in which memory has it, as fast
//! as memory gives it. Nothing of it is packed, since each weight meets few rows.

use super::driver::{Plan, Rows};
use super::kernel::{Few, PackX, slot};
use super::{FEW_ROWS, Product, arena};
use crate::Context;

/// Bytes of the matrix in a task: some ten pages, so that threads finish together.
const TASK_BYTES: usize = 128 << 10;

/// Whether a plan is for this module.
pub(crate) fn takes(plan: &Plan<'_>) -> bool {
    let rows_of = matches!(plan.job.x, Rows::Of(_));
    rows_of && plan.job.product == Product::Nt && plan.m <= FEW_ROWS && plan.k > 0
}

pub(crate) fn run(ctx: &Context, plan: &Plan<'_>) {
    let stride = stride(plan);
    // A multiple of every kernel's columns at a time.
    let columns = (TASK_BYTES / plan.job.w.row_bytes.max(1))
        .next_multiple_of(8)
        .max(8);
    arena::with(plan.m * stride, |packed| {
        for (row, out) in packed.chunks_mut(stride).enumerate() {
            pack_row(plan, row, &mut out[..plan.depth()]);
        }
        let packed = &*packed;
        ctx.threads.run(plan.n.div_ceil(columns), |task| {
            let first = task * columns;
            some_columns(plan, first, columns.min(plan.n - first), packed);
        });
    });
}

/// Dwords from one packed row to the next: a line more than they need, so that rows whose length
/// is a power of two do not share one set of the first cache.
fn stride(plan: &Plan<'_>) -> usize {
    plan.depth().next_multiple_of(16) + 16
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
    };
    assert_eq!(out.len(), plan.depth(), "room for a packed row");
    // SAFETY: a row of x, and room for it.
    unsafe { (plan.kernel.pack_x)(&pack) };
}

fn some_columns(plan: &Plan<'_>, first: usize, count: usize, packed: &[u32]) {
    let few = Few {
        bytes: plan.stored(first, 0),
        row_bytes: plan.job.w.row_bytes,
        n: count,
        k: plan.k,
        x: packed.as_ptr(),
        x_stride: stride(plan),
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
    };
    // SAFETY: these columns of the matrix and of y exist; no other task writes them.
    unsafe { (plan.kernel.few[slot(plan.job.w.dtype)])(&few) };
}
