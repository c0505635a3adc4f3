//! Rectangles of f32.

/// A rectangle that is read: row `r` is `data[r * stride..][..cols]`.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a> {
    /// From the first element of the first row on.
    pub data: &'a [f32],
    /// Distance between the starts of two rows.
    pub stride: usize,
    /// Rows.
    pub rows: usize,
    /// Columns, at most `stride`.
    pub cols: usize,
}

/// A rectangle that is written.
#[derive(Debug)]
pub struct MatMut<'a> {
    /// From the first element of the first row on.
    pub data: &'a mut [f32],
    /// Distance between the starts of two rows.
    pub stride: usize,
    /// Rows.
    pub rows: usize,
    /// Columns, at most `stride`.
    pub cols: usize,
}

impl<'a> Mat<'a> {
    /// A rectangle without gaps.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self {
            data,
            stride: cols,
            rows,
            cols,
        }
    }

    /// One row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..self.cols]
    }

    pub(crate) fn check(&self) {
        check(self.data.len(), self.stride, self.rows, self.cols);
    }
}

impl<'a> MatMut<'a> {
    /// A rectangle without gaps.
    pub fn dense(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self {
            data,
            stride: cols,
            rows,
            cols,
        }
    }

    /// One row.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.stride..][..self.cols]
    }

    /// The same rectangle, to be read.
    pub fn as_mat(&self) -> Mat<'_> {
        Mat {
            data: self.data,
            stride: self.stride,
            rows: self.rows,
            cols: self.cols,
        }
    }

    /// The same rectangle, lent on.
    pub fn reborrow(&mut self) -> MatMut<'_> {
        MatMut {
            data: self.data,
            stride: self.stride,
            rows: self.rows,
            cols: self.cols,
        }
    }

    pub(crate) fn check(&self) {
        check(self.data.len(), self.stride, self.rows, self.cols);
    }
}

fn check(len: usize, stride: usize, rows: usize, cols: usize) {
    assert!(
        cols <= stride || rows <= 1,
        "{cols} columns at stride {stride}"
    );
    let end = match rows {
        0 => Some(0),
        _ => (rows - 1)
            .checked_mul(stride)
            .and_then(|n| n.checked_add(cols)),
    };
    assert!(
        end.is_some_and(|end| end <= len),
        "{rows} rows of {cols} at stride {stride} in {len} elements"
    );
}
