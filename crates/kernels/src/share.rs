//! Handing parts of one output to several tasks.

use crate::{Context, MatMut};
use std::marker::PhantomData;
use std::ops::Range;

/// Elements below which a task is not worth handing out (some microseconds of work). This crate's tests cut their inputs,
/// which are smaller than that, into tasks too: with one task no count of threads would show a thing.
const TASK_ELEMENTS: usize = if cfg!(test) { 16 } else { 16 * 1024 };

/// A slice of which each task writes its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a> {
    data: *mut f32,
    len: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: the parts handed out do not overlap, see `part`.
unsafe impl Send for SharedSlice<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedSlice<'_> {}

impl<'a> SharedSlice<'a> {
    pub(crate) fn new(data: &'a mut [f32]) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            life: PhantomData,
        }
    }

    /// # Safety
    /// While the result lives, no other part that overlaps `range` is alive.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        // SAFETY: inside the slice by the assertion, alone by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// A rectangle of which each task writes its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedMat<'a> {
    data: SharedSlice<'a>,
    stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl<'a> SharedMat<'a> {
    /// # Panics
    /// When rows would overlap: tasks on two of them would write the same elements.
    pub(crate) fn new(mat: MatMut<'a>) -> Self {
        mat.check();
        Self {
            stride: mat.stride,
            rows: mat.rows,
            cols: mat.cols,
            data: SharedSlice::new(mat.data),
        }
    }

    /// # Safety
    /// While the result lives, no other part that overlaps it is alive.
    pub(crate) unsafe fn row(&self, row: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.part(row, 0..self.cols) }
    }

    /// # Safety
    /// While the result lives, no other part that overlaps it is alive.
    pub(crate) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        assert!(
            row < self.rows && columns.end <= self.cols,
            "row {row} columns {columns:?} of {}×{}",
            self.rows,
            self.cols
        );
        let start = row * self.stride;
        // SAFETY: the caller's promise.
        unsafe { self.data.part(start + columns.start..start + columns.end) }
    }
}

/// Runs `task` on ranges that cover `0..count`, each of about [`TASK_ELEMENTS`] elements, where one of
/// the `count` is `elements` long. Ranges start at multiples of `align`.
pub(crate) fn in_ranges(
    context: &Context,
    count: usize,
    elements: usize,
    align: usize,
    task: impl Fn(Range<usize>) + Sync,
) {
    let size = (TASK_ELEMENTS / elements.max(1))
        .next_multiple_of(align)
        .max(align);
    context.threads.run(count.div_ceil(size), |i| {
        task(i * size..((i + 1) * size).min(count));
    });
}
