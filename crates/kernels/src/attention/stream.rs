//! What attention reads: f32, or the bf16 that a forward pass laid by, which needs no copy in f32 first.

use crate::half::{Half, narrow_len};
use crate::vector::{LANES, Vector};
use crate::{Mat, half};
use std::ops::Range;

/// Queries, keys and values of tokens.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a>(Source<'a>);

#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Whole(Mat<'a>),
    Halves {
        halves: &'a [Half],
        rows: usize,
        cols: usize,
    },
}

/// Some columns of a row.
#[derive(Clone, Copy)]
pub(super) enum Row<'a> {
    Whole(&'a [f32]),
    Halves(&'a [Half]),
}

impl<'a> From<Mat<'a>> for Stream<'a> {
    fn from(mat: Mat<'a>) -> Self {
        Self(Source::Whole(mat))
    }
}

impl<'a> Stream<'a> {
    /// What [`half::narrow`] made of `rows` rows on end.
    ///
    /// # Panics
    /// When that has not the size of so many rows.
    pub fn narrowed(halves: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(halves.len(), narrow_len(rows * cols), "halves");
        let halves = bytemuck::cast_slice(halves);
        Self(Source::Halves { halves, rows, cols })
    }

    /// Rows and columns.
    pub(super) fn size(self) -> (usize, usize) {
        match self.0 {
            Source::Whole(mat) => (mat.rows, mat.cols),
            Source::Halves { rows, cols, .. } => (rows, cols),
        }
    }

    #[inline(always)]
    pub(super) fn row(self, row: usize, columns: Range<usize>) -> Row<'a> {
        match self.0 {
            Source::Whole(mat) => Row::Whole(&mat.row(row)[columns]),
            Source::Halves { halves, cols, .. } => {
                Row::Halves(&halves[row * cols..][..cols][columns])
            }
        }
    }
}

impl Row<'_> {
    /// Elements from `at` on, at most sixteen; zeros behind them.
    #[inline(always)]
    pub(super) fn lanes<V: Vector>(self, v: V, at: usize) -> V::F {
        match self {
            Row::Whole(row) => v.load_part(some(row, at), 0.0),
            Row::Halves(row) => widened(v, some(row, at)),
        }
    }

    /// All of them, to a slice of equal length.
    #[inline(always)]
    pub(super) fn write(self, to: &mut [f32]) {
        match self {
            Row::Whole(row) => to.copy_from_slice(row),
            Row::Halves(row) => half::widen_row(row, to),
        }
    }
}

#[inline(always)]
fn some<T>(row: &[T], at: usize) -> &[T] {
    let rest = &row[at.min(row.len())..];
    &rest[..rest.len().min(LANES)]
}

#[inline(always)]
fn widened<V: Vector>(v: V, halves: &[Half]) -> V::F {
    let mut lanes = [0.0; LANES];
    // Of a length that the compiler sees.
    match <&[Half; LANES]>::try_from(halves) {
        Ok(whole) => half::widen_row(whole, &mut lanes),
        Err(_) => half::widen_row(halves, &mut lanes),
    }
    v.load(&lanes)
}
