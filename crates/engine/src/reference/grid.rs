//! A dense f64 matrix: what the oracle computes on between reading f32 and rounding back.

use crate::shapes::{Orient, Span, Write};

/// `rows × cols` values, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grid {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) values: Vec<f64>,
}

impl Grid {
    pub(crate) fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            values: vec![0.0; rows * cols],
        }
    }

    /// The rectangle `span` of an f32 buffer.
    pub(crate) fn load(buf: &[f32], span: Span) -> Self {
        let mut grid = Self::zeros(span.rows, span.cols);
        for r in 0..span.rows {
            let from = &buf[span.offset + r * span.stride..][..span.cols];
            for (to, x) in grid.row_mut(r).iter_mut().zip(from) {
                *to = f64::from(*x);
            }
        }
        grid
    }

    /// A whole buffer as `rows × cols`; its size must be that.
    pub(crate) fn whole(buf: &[f32], rows: usize, cols: usize) -> Self {
        assert_eq!(buf.len(), rows * cols, "a buffer as {rows}×{cols}");
        Self::load(buf, Span::dense(rows, cols))
    }

    /// Rounds into the rectangle `span`; with [`Write::Add`] the sum is rounded, not its terms.
    pub(crate) fn store(&self, buf: &mut [f32], span: Span, write: Write) {
        assert_eq!((self.rows, self.cols), (span.rows, span.cols), "an output");
        for r in 0..span.rows {
            let to = &mut buf[span.offset + r * span.stride..][..span.cols];
            for (to, x) in to.iter_mut().zip(self.row(r)) {
                *to = match write {
                    Write::Set => *x as f32,
                    Write::Add => (f64::from(*to) + x) as f32,
                };
            }
        }
    }

    /// Adds to a whole buffer.
    pub(crate) fn add_to(&self, buf: &mut [f32]) {
        assert_eq!(buf.len(), self.values.len(), "a gradient's buffer");
        self.store(buf, Span::dense(self.rows, self.cols), Write::Add);
    }

    pub(crate) fn row(&self, r: usize) -> &[f64] {
        &self.values[r * self.cols..][..self.cols]
    }

    pub(crate) fn row_mut(&mut self, r: usize) -> &mut [f64] {
        &mut self.values[r * self.cols..][..self.cols]
    }

    pub(crate) fn transposed(&self) -> Self {
        let mut turned = Self::zeros(self.cols, self.rows);
        for r in 0..self.rows {
            for c in 0..self.cols {
                turned.values[c * self.rows + r] = self.values[r * self.cols + c];
            }
        }
        turned
    }

    /// The matrix as `[O, D]`, however it is stored; the same call turns it back.
    pub(crate) fn oriented(self, orient: Orient) -> Self {
        match orient {
            Orient::OutIn => self,
            Orient::InOut => self.transposed(),
        }
    }

    /// `self · otherᵀ`.
    pub(crate) fn times_transposed(&self, other: &Self) -> Self {
        assert_eq!(self.cols, other.cols, "inner sizes of a product");
        let mut product = Self::zeros(self.rows, other.rows);
        for r in 0..self.rows {
            for c in 0..other.rows {
                product.values[r * other.rows + c] = dot(self.row(r), other.row(c));
            }
        }
        product
    }

    /// `self · other`.
    pub(crate) fn times(&self, other: &Self) -> Self {
        self.times_transposed(&other.transposed())
    }

    pub(crate) fn scaled(mut self, factor: f64) -> Self {
        self.values.iter_mut().for_each(|x| *x *= factor);
        self
    }

    /// One row: the sums of the columns.
    pub(crate) fn column_sums(&self) -> Self {
        let mut sums = Self::zeros(1, self.cols);
        for r in 0..self.rows {
            for (sum, x) in sums.values.iter_mut().zip(self.row(r)) {
                *sum += x;
            }
        }
        sums
    }

    pub(crate) fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        self.values.iter_mut().for_each(|x| *x = f(*x));
        self
    }

    /// `f(self, other)` element by element.
    pub(crate) fn zip(mut self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "shapes");
        for (x, y) in self.values.iter_mut().zip(&other.values) {
            *x = f(*x, *y);
        }
        self
    }

    /// `count` columns from `first` on.
    pub(crate) fn columns(&self, first: usize, count: usize) -> Self {
        let mut part = Self::zeros(self.rows, count);
        for r in 0..self.rows {
            part.row_mut(r)
                .copy_from_slice(&self.row(r)[first..first + count]);
        }
        part
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
