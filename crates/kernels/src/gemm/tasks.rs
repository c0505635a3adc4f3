//! What threads take of a product: some rows over some panels each.
//!
//! Neither the cut nor who takes what changes a number: an element of y is summed by its own row and column alone,
//! and its runs of k follow each other, see [`Progress`](super::progress::Progress).

use super::driver::Plan;
use super::kernel::Kernel;
use super::panels::Unit;
use super::{K_BLOCK, Product};
use std::ops::Range;

/// Tasks that a large product is cut into at least, so that threads finish together.
const TASKS_AT_LEAST: usize = 16;
/// Fewer rows than this would pack a panel for too little work.
const ROWS_AT_LEAST: usize = 32;
/// Bundles of one panel at the end of a thread's part, so that threads finish together.
const SMALL_BUNDLES: usize = 5;

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

    /// Parts, of which each thread has one where there are columns enough.
    pub(super) fn parts(&self) -> usize {
        self.parts
    }

    fn panels(&self) -> usize {
        self.parts * self.panels_in_part
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
}

/// A part's panels in bundles of `size`, but for those of one panel at either end: what a tile of rows meets one panel after
/// the other while the first cache has the rows.
#[derive(Clone, Copy)]
struct Bundles {
    panels: usize,
    size: usize,
    small_first: usize,
    small_last: usize,
}

impl Bundles {
    fn new(panels: usize, size: usize, small_first: usize, small_last: usize) -> Self {
        let small_first = small_first.min(panels);
        Self {
            panels,
            size,
            small_first,
            small_last: small_last.min(panels - small_first),
        }
    }

    fn large(self) -> usize {
        (self.panels - self.small_first - self.small_last).div_ceil(self.size)
    }

    fn count(self) -> usize {
        self.small_first + self.large() + self.small_last
    }

    fn panels(self, bundle: usize) -> Range<usize> {
        let last = self.panels - self.small_last;
        let Some(large) = bundle.checked_sub(self.small_first) else {
            return bundle..bundle + 1;
        };
        if let Some(small) = large.checked_sub(self.large()) {
            return last + small..last + small + 1;
        }
        let first = self.small_first + large * self.size;
        first..last.min(first + self.size)
    }
}

/// All tasks: those of each part one after the other, in each all of a pass before the next.
pub(super) struct Tasks<'a> {
    cut: &'a Cut,
    /// Panels of a bundle.
    bundle_size: usize,
    row_chunk: usize,
    rows: usize,
    k: usize,
    /// Of k, in a pass.
    depth: usize,
    place: Place,
}

/// Where a product stands among those that are done in one go.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) is_first: bool,
    pub(super) is_last: bool,
    /// Columns of all.
    pub(super) columns: usize,
}

impl Place {
    /// Bundles of one panel at either end: the first panel of all is packed while nothing is multiplied, so it is alone.
    fn small_bundles(self) -> (usize, usize) {
        let small_last = if self.is_last { SMALL_BUNDLES } else { 0 };
        (usize::from(self.is_first), small_last)
    }
}

impl<'a> Tasks<'a> {
    /// Tasks for threads that take them from so many parts.
    pub(super) fn new(plan: &'a Plan<'_>, parts: usize, place: Place) -> Self {
        let cut = &plan.cut;
        // All rows, unless the bundles are too few to share out.
        let bundle_size = plan.kernel.panels(plan.job.product);
        assert!(bundle_size <= Unit::PANELS, "a unit holds a bundle");
        let (small_first, small_last) = place.small_bundles();
        let bundles = Bundles::new(cut.panels_in_part, bundle_size, small_first, small_last);
        let bundles = cut.parts * bundles.count();
        // As many of all tasks as it has of all columns.
        let at_least = TASKS_AT_LEAST * plan.n / place.columns;
        let chunks = at_least.div_ceil(bundles).max(1);
        let row_chunk = plan.m.div_ceil(chunks).max(ROWS_AT_LEAST);
        let in_passes = match plan.job.product {
            // Stored rows lie in a page each: one block of them at a time is as many pages as the processor remembers.
            Product::Nn => true,
            Product::Nt => plan.m * plan.depth() > plan.kernel.rows_cached,
        };
        // A part that several threads begin in has one pass: they would wait for each other.
        let depth = if in_passes && cut.parts == parts {
            K_BLOCK
        } else {
            plan.k.max(1)
        };
        Self {
            cut,
            bundle_size,
            row_chunk: row_chunk.next_multiple_of(plan.kernel.rows),
            rows: plan.m,
            k: plan.k,
            depth,
            place,
        }
    }

    fn passes(&self) -> usize {
        self.k.div_ceil(self.depth)
    }

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.row_chunk)
    }

    fn bundles(&self, pass: usize) -> Bundles {
        let (small_first, small_last) = self.place.small_bundles();
        let first = if pass == 0 { small_first } else { 0 };
        let last = if pass + 1 == self.passes() {
            small_last
        } else {
            0
        };
        Bundles::new(self.cut.panels_in_part, self.bundle_size, first, last)
    }

    fn in_pass(&self, pass: usize) -> usize {
        self.chunks() * self.bundles(pass).count()
    }

    /// Tasks of a part.
    pub(super) fn in_part(&self) -> usize {
        (0..self.passes()).map(|pass| self.in_pass(pass)).sum()
    }

    /// Panels, each for all chunks of rows.
    pub(super) fn panels(&self) -> usize {
        self.cut.panels() * self.chunks()
    }

    /// What a task of a part multiplies, one unit after the other.
    pub(super) fn units(&self, part: usize, mut task: usize) -> impl Iterator<Item = Unit> + use<> {
        let mut pass = 0;
        while task >= self.in_pass(pass) {
            task -= self.in_pass(pass);
            pass += 1;
        }
        let bundles = self.bundles(pass);
        let (chunk, bundle) = (
            task / bundles.count(),
            bundles.panels(task % bundles.count()),
        );
        let first_panel = part * self.cut.panels_in_part + bundle.start;
        let end = self.cut.columns(first_panel + bundle.len() - 1).end;
        let panels = std::array::from_fn(|index| {
            if index < bundle.len() {
                self.cut.columns(first_panel + index)
            } else {
                end..end
            }
        });
        let first = chunk * self.row_chunk;
        let rows = first..self.rows.min(first + self.row_chunk);
        let k = pass * self.depth..self.k.min((pass + 1) * self.depth);
        let first_panel = chunk * self.cut.panels() + first_panel;
        blocks(k).map(move |k| Unit {
            rows: rows.clone(),
            panels: panels.clone(),
            k,
            first_panel,
            pass,
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
    fn panels_cover_every_column_once_and_parts_are_alike() {
        for isa in Isa::available() {
            let kernel = kernel(isa, Precision::F32);
            for (threads, columns) in
                (1..=9).flat_map(|threads| (1..900).map(move |n| (threads, n)))
            {
                let cut = Cut::new(columns, kernel, threads);
                let mut next = 0;
                for panel in (0..cut.panels()).map(|panel| cut.columns(panel)) {
                    assert!(!panel.is_empty());
                    assert_eq!(panel.start, next, "{columns} columns, {threads} threads");
                    assert!(panel.len() <= kernel.cols, "{panel:?}");
                    next = panel.end;
                }
                assert_eq!(next, columns, "{threads} threads");
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

    #[test]
    fn bundles_have_every_panel_once_and_are_small_at_the_ends() {
        let ends = [(0, 0), (1, 0), (0, 5), (1, 5)];
        let sizes =
            (1..=Unit::PANELS).flat_map(|size| ends.map(|(first, last)| (size, first, last)));
        for (panels, (size, first, last)) in
            (1..40).flat_map(|panels| sizes.clone().map(move |rest| (panels, rest)))
        {
            let bundles = Bundles::new(panels, size, first, last);
            let all: Vec<_> = (0..bundles.count())
                .map(|bundle| bundles.panels(bundle))
                .collect();
            let flat: Vec<usize> = all.iter().cloned().flatten().collect();
            assert_eq!(flat, (0..panels).collect::<Vec<_>>());
            let small = |ends: &[Range<usize>]| ends.iter().all(|bundle| bundle.len() == 1);
            assert!(small(&all[..first]) && small(&all[all.len() - last.min(panels - first)..]));
            assert!(all.iter().all(|bundle| (1..=size).contains(&bundle.len())));
        }
    }
}
