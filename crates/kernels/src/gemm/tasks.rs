//! What threads take of a product: some rows over some panels each.
//!
//! The cut is a function of the shape alone; who takes what changes no number.

use super::K_BLOCK;
use super::driver::Plan;
use super::panels::Unit;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tasks that a large product is cut into at least, so that threads finish together.
const TASKS_AT_LEAST: usize = 16;
/// Fewer rows than this would pack a panel for too little work.
const ROWS_AT_LEAST: usize = 32;

/// All tasks over a run of k, and the next to be taken.
pub(super) struct Tasks {
    groups: Groups,
    row_chunk: usize,
    rows: usize,
    k: Range<usize>,
    count: usize,
    next: AtomicUsize,
}

impl Tasks {
    pub(super) fn new(plan: &Plan<'_>, k: Range<usize>) -> Self {
        let groups = Groups(plan.n.div_ceil(plan.kernel.cols));
        // All rows, unless the groups are too few to share out.
        let chunks = TASKS_AT_LEAST.div_ceil(groups.count()).max(1);
        let row_chunk = plan.m.div_ceil(chunks).max(ROWS_AT_LEAST);
        let row_chunk = row_chunk.next_multiple_of(plan.kernel.rows);
        Self {
            groups,
            row_chunk,
            rows: plan.m,
            k,
            count: groups.count() * plan.m.div_ceil(row_chunk),
            next: AtomicUsize::new(0),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The units of the tasks that one thread takes, each task as its first unit is asked for.
    pub(super) fn units(&self) -> impl Iterator<Item = Unit> {
        std::iter::from_fn(|| {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            (task < self.count).then_some(task)
        })
        .flat_map(|task| {
            let groups = self.groups.count();
            let first = task / groups * self.row_chunk;
            let rows = first..self.rows.min(first + self.row_chunk);
            let panels = self.groups.nth(task % groups);
            blocks(self.k.clone()).map(move |k| Unit {
                rows: rows.clone(),
                panels: panels.clone(),
                k,
            })
        })
    }
}

/// So many panels in groups, which get smaller towards the end, so that threads finish together.
/// A function of the shape alone.
#[derive(Clone, Copy)]
struct Groups(usize);

impl Groups {
    fn iter(self) -> impl Iterator<Item = Range<usize>> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let left = self.0 - first;
            let group = first..first + (left / 6).clamp(1, Unit::PANELS);
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

/// The runs of k, each summed on its own.
fn blocks(k: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = k.end;
    k.step_by(K_BLOCK)
        .map(move |first| first..end.min(first + K_BLOCK))
}
