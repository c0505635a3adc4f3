//! What threads take of a product: some rows over some panels each.
//!
//! Neither the cut nor who takes what changes a number: an element of y is summed by its own row and column alone.

use super::K_BLOCK;
use super::driver::Plan;
use super::kernel::Kernel;
use super::panels::Unit;
use std::ops::Range;

/// Tasks that a large product is cut into at least, so that threads finish together.
const TASKS_AT_LEAST: usize = 16;
/// Fewer rows than this would pack a panel for too little work.
const ROWS_AT_LEAST: usize = 32;
/// Groups of one panel at the end of a thread's part.
const SMALL_GROUPS: usize = 5;

/// The columns of y in panels: as many panels in each thread's part, nearly as wide as each other.
pub(crate) struct Cut {
    columns: usize,
    /// The least width, of which others are multiples.
    lane: usize,
    parts: usize,
    panels_in_part: usize,
}

impl Cut {
    /// For a product with at least one column.
    pub(super) fn new(columns: usize, kernel: &Kernel, threads: usize) -> Self {
        let lanes = columns.div_ceil(kernel.lanes);
        let widest = kernel.cols / kernel.lanes;
        // Parts differ by a lane at most, so they have as many panels where panels may differ too.
        let parts = if widest > 1 { threads.min(lanes) } else { 1 };
        Self {
            columns,
            lane: kernel.lanes,
            parts,
            panels_in_part: lanes.div_ceil(parts).div_ceil(widest),
        }
    }

    /// Columns of a panel, fewer than its width where they end.
    fn columns(&self, panel: usize) -> Range<usize> {
        let lanes = self.columns.div_ceil(self.lane);
        let part = |part: usize| lanes * part / self.parts;
        let (index, panels) = (panel % self.panels_in_part, self.panels_in_part);
        let first = part(panel / panels);
        let len = part(panel / panels + 1) - first;
        // Wider ones first.
        let start = |index: usize| first + len / panels * index + index.min(len % panels);
        start(index) * self.lane..self.columns.min(start(index + 1) * self.lane)
    }

    /// Groups of one or two panels: as many in each part, the last of a part smaller, so that threads
    /// finish together.
    fn groups_in_part(&self) -> usize {
        let groups = (self.panels_in_part + SMALL_GROUPS).div_ceil(Unit::PANELS);
        groups.min(self.panels_in_part)
    }

    fn groups(&self) -> usize {
        self.parts * self.groups_in_part()
    }

    /// The columns of each panel of a group; the second is empty where there is one panel.
    fn group(&self, index: usize) -> [Range<usize>; Unit::PANELS] {
        let groups = self.groups_in_part();
        let (part, group) = (index / groups, index % groups);
        let large = self.panels_in_part - groups;
        let first = self.columns(part * self.panels_in_part + group + group.min(large));
        let second = if group < large {
            self.columns(part * self.panels_in_part + 2 * group + 1)
        } else {
            first.end..first.end
        };
        [first, second]
    }
}

/// All tasks over a run of k.
pub(super) struct Tasks<'a> {
    cut: &'a Cut,
    row_chunk: usize,
    rows: usize,
    k: Range<usize>,
}

impl<'a> Tasks<'a> {
    pub(super) fn new(plan: &'a Plan<'_>, k: Range<usize>) -> Self {
        // All rows, unless the groups are too few to share out.
        let chunks = TASKS_AT_LEAST.div_ceil(plan.cut.groups()).max(1);
        let row_chunk = plan.m.div_ceil(chunks).max(ROWS_AT_LEAST);
        Self {
            cut: &plan.cut,
            row_chunk: row_chunk.next_multiple_of(plan.kernel.rows),
            rows: plan.m,
            k,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.cut.groups() * self.rows.div_ceil(self.row_chunk)
    }

    /// What a task multiplies, one unit after the other.
    pub(super) fn units(&self, task: usize) -> impl Iterator<Item = Unit> + use<> {
        let groups = self.cut.groups();
        let first = task / groups * self.row_chunk;
        let rows = first..self.rows.min(first + self.row_chunk);
        let panels = self.cut.group(task % groups);
        blocks(self.k.clone()).map(move |k| Unit {
            rows: rows.clone(),
            panels: panels.clone(),
            k,
        })
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
    use super::super::{Precision, kernel::kernel};
    use super::*;
    use crate::Isa;

    #[test]
    fn panels_cover_every_column_once_and_parts_end_with_small_groups() {
        for isa in Isa::available() {
            let kernel = kernel(isa, Precision::F32);
            for (threads, columns) in
                (1..=9).flat_map(|threads| (1..900).map(move |n| (threads, n)))
            {
                let cut = Cut::new(columns, kernel, threads);
                let mut next = 0;
                for group in (0..cut.groups()).map(|index| cut.group(index)) {
                    assert!(!group[0].is_empty());
                    for panel in group {
                        assert_eq!(panel.start, next, "{columns} columns, {threads} threads");
                        assert!(panel.len() <= kernel.cols, "{panel:?}");
                        next = panel.end;
                    }
                }
                assert_eq!(next, columns, "{threads} threads");
                let [_, last] = cut.group(cut.groups() - 1);
                assert!(last.is_empty(), "{columns} columns, {threads} threads");
                let part = |part: usize| {
                    let panels = part * cut.panels_in_part..(part + 1) * cut.panels_in_part;
                    panels.map(|panel| cut.columns(panel).len()).sum::<usize>()
                };
                let parts = (0..cut.parts).map(part);
                let (least, most) = (parts.clone().min().unwrap(), parts.max().unwrap());
                assert!(
                    most - least < 2 * kernel.lanes,
                    "{least} and {most} columns"
                );
            }
        }
    }
}
