//! Rows of a table by id, and their gradient.

use crate::share::{SharedMat, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch, update};
use crate::{Context, Mat, MatMut, Stored};
use std::ops::Range;

/// `y[t] = table[ids[t]]`, or `y[t] += …` with `add`.
///
/// # Panics
/// When an id is not a row, or sizes do not fit.
pub fn embed(context: &Context, table: Stored<'_>, ids: &[u32], y: MatMut<'_>, add: bool) {
    assert_eq!(
        (ids.len(), table.cols),
        (y.rows, y.cols),
        "embedding's output"
    );
    let y = SharedMat::new(y);
    in_ranges(context, y.rows, y.cols, 1, |rows| {
        let mut decoded = vec![0.0; if add { y.cols } else { 0 }];
        for t in rows {
            // SAFETY: each task has its own rows.
            let row = unsafe { y.row(t) };
            if add {
                table.decode_row(ids[t] as usize, &mut decoded);
                row.iter_mut().zip(&decoded).for_each(|(y, x)| *y += x);
            } else {
                table.decode_row(ids[t] as usize, row);
            }
        }
    });
}

/// `to[rows[i]] += from[i]` in the order of i; a row may come more than once.
///
/// # Panics
/// When a row is not in `to`, or sizes do not fit.
pub fn scatter_add(context: &Context, from: Mat<'_>, rows: &[u32], to: MatMut<'_>) {
    assert_eq!(
        (rows.len(), from.cols),
        (from.rows, to.cols),
        "rows to scatter"
    );
    let to = SharedMat::new(to);
    // By columns, so that rows that meet are one task's, in order.
    in_ranges(context, to.cols, rows.len(), LANES, |columns| {
        dispatch(
            context.isa,
            Scatter {
                from,
                rows,
                to,
                columns,
            },
        );
    });
}

struct Scatter<'a> {
    from: Mat<'a>,
    rows: &'a [u32],
    to: SharedMat<'a>,
    columns: Range<usize>,
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for (i, row) in self.rows.iter().enumerate() {
            // SAFETY: each task has its own columns.
            let to = unsafe { self.to.part(*row as usize, self.columns.clone()) };
            let from = &self.from.row(i)[self.columns.clone()];
            update!(v, to, from, |to, x| v.add(to, x));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, StoredDtype};
    use proptest::prelude::*;

    #[test]
    fn rows_are_looked_up_and_their_gradients_summed_in_order() {
        let context = Context::new(Some(2), None);
        let table: Vec<u8> = (1..=5 * 19u16)
            .flat_map(|i| half::bf16::from_f32(f32::from(i)).to_le_bytes())
            .collect();
        let table = Stored::new(&table, StoredDtype::Bf16, 5, 19);
        let mut y = vec![1.0; 3 * 19];
        let ids = [4, 0, 4];
        embed(&context, table, &ids, MatMut::dense(&mut y, 3, 19), true);
        assert_eq!((y[0], y[19], y[38 + 3]), (78.0, 2.0, 81.0));
        let mut sums = vec![0.5; 5 * 19];
        scatter_add(
            &context,
            Mat::dense(&y, 3, 19),
            &ids,
            MatMut::dense(&mut sums, 5, 19),
        );
        assert_eq!(sums[4 * 19 + 3], 0.5 + 81.0 + 81.0);
        assert_eq!(sums[4 * 19 + 18], 0.5 + 96.0 + 96.0);
        assert_eq!((sums[0], sums[19]), (2.5, 0.5));
    }

    proptest! {
        #[test]
        fn rows_and_sums_are_those_of_plain_loops_in_the_same_bits_everywhere(
            rows in 1usize..9, cols in 1usize..70, ids in prop::collection::vec(0u32..9, 0..40), seed: u64,
        ) {
            let ids: Vec<u32> = ids.iter().map(|id| id % rows as u32).collect();
            let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -0.0];
            let value = |i: usize| {
                let bits = (crate::elementwise::uniform(seed, i as u64) * 1e6) as usize;
                if bits.is_multiple_of(29) { odd[bits / 29 % 5] } else { bits as f32 * 1e-6 }
            };
            let table: Vec<f32> = (0..rows * cols).map(value).collect();
            let stored = Stored::from_f32(&table, rows, cols);
            let sizes = (ids.len(), cols);
            let mut looked_up = vec![0.0; ids.len() * cols];
            for (i, y) in looked_up.iter_mut().enumerate() {
                *y = 0.5 + table[ids[i / cols] as usize * cols + i % cols];
            }
            let mut summed = vec![-0.0; rows * cols];
            for (i, x) in looked_up.iter().enumerate() {
                summed[ids[i / cols] as usize * cols + i % cols] += x;
            }
            for isa in Isa::available() {
                let context = Context::new(Some(2), Some(isa));
                let mut y = vec![0.5; ids.len() * cols];
                embed(&context, stored, &ids, MatMut::dense(&mut y, sizes.0, sizes.1), true);
                let mut sums = vec![-0.0; rows * cols];
                let to = MatMut::dense(&mut sums, rows, cols);
                scatter_add(&context, Mat::dense(&y, sizes.0, sizes.1), &ids, to);
                for (got, want) in y.iter().chain(&sums).zip(looked_up.iter().chain(&summed)) {
                    let is_same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    prop_assert!(is_same, "{isa:?}: {got:e}, want {want:e}");
                }
            }
        }
    }
}
