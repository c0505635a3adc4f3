//! What threads take of a product: some rows over some panels each.
//!
//! Neither the cut nor who takes what changes a number: an element of y is summed by its own row and column alone.

use super::K_BLOCK;
use super::driver::Plan;
use super::panels::Unit;
use std::ops::Range;

/// Tasks that a large product is cut into at least, so that threads finish together.
const TASKS_AT_LEAST: usize = 16;
/// Fewer rows than this would pack a panel for too little work.
const ROWS_AT_LEAST: usize = 32;
/// Groups of one panel at the end of a thread's part.
const SMALL_GROUPS: usize = 5;

/// All tasks over a run of k.
pub(super) struct Tasks {
    groups: Groups,
    row_chunk: usize,
    rows: usize,
    k: Range<usize>,
}

impl Tasks {
    pub(super) fn new(plan: &Plan<'_>, k: Range<usize>, threads: usize) -> Self {
        let groups = Groups::new(plan.n.div_ceil(plan.kernel.cols), threads);
        // All rows, unless the groups are too few to share out.
        let chunks = TASKS_AT_LEAST.div_ceil(groups.count()).max(1);
        let row_chunk = plan.m.div_ceil(chunks).max(ROWS_AT_LEAST);
        Self {
            groups,
            row_chunk: row_chunk.next_multiple_of(plan.kernel.rows),
            rows: plan.m,
            k,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.groups.count() * self.rows.div_ceil(self.row_chunk)
    }

    /// What a task multiplies, one unit after the other.
    pub(super) fn units(&self, task: usize) -> impl Iterator<Item = Unit> {
        let groups = self.groups.count();
        let first = task / groups * self.row_chunk;
        let rows = first..self.rows.min(first + self.row_chunk);
        let panels = self.groups.nth(task % groups);
        blocks(self.k.clone()).map(move |k| Unit {
            rows: rows.clone(),
            panels: panels.clone(),
            k,
        })
    }
}

/// Panels in groups, as many groups in each thread's part; the last of a part are smaller, so that threads finish
/// together.
#[derive(Clone, Copy)]
struct Groups {
    panels: usize,
    parts: usize,
    in_part: usize,
}

impl Groups {
    fn new(panels: usize, threads: usize) -> Self {
        let parts = threads.min(panels);
        let (least, most) = (panels / parts, panels.div_ceil(parts));
        let in_part = (most + SMALL_GROUPS).div_ceil(Unit::PANELS).min(least);
        Self {
            panels,
            parts,
            in_part,
        }
    }

    fn count(self) -> usize {
        self.parts * self.in_part
    }

    fn nth(self, index: usize) -> Range<usize> {
        let (part, group) = (index / self.in_part, index % self.in_part);
        let start = |part| self.panels * part / self.parts;
        // Groups of two panels; those of one come after them.
        let large = start(part + 1) - start(part) - self.in_part;
        let first = start(part) + group + group.min(large);
        first..first + if group < large { Unit::PANELS } else { 1 }
    }
}

/// The runs of k, each summed on its own.
fn blocks(k: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = k.end;
    k.step_by(K_BLOCK)
        .map(move |first| first..end.min(first + K_BLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_every_panel_once_and_end_small() {
        for threads in 1..=9 {
            for panels in 1..200 {
                let groups = Groups::new(panels, threads);
                let mut next = 0;
                for group in (0..groups.count()).map(|index| groups.nth(index)) {
                    assert!(group.start == next && group.end > next, "{group:?}");
                    next = group.end;
                }
                assert_eq!(next, panels, "{threads} threads");
                let last = groups.nth(groups.count() - 1).len();
                assert!(
                    last == 1 || panels < 16 * threads,
                    "{last} panels at the end"
                );
            }
        }
    }
}
