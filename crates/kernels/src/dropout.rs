//! Dropout whose masks are drawn again instead of kept.
//!
//! A row has a key of 64 bits (`SplitMix64`); its columns are mixed with it in arithmetic of 32 bits, which vector registers
//! multiply: drawing costs less than reading what is dropped.

use crate::elementwise::mixed;
use crate::share::{SharedMat, in_ranges};
use crate::vector::{Kernel, Vector, dispatch};
use crate::{Context, Mat, MatMut};
use std::ops::Range;

/// Bits of a draw.
const BITS: u32 = 24;

/// Which elements of a matrix are kept: a pure function of all three and the element's place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Share of elements set to zero, in `[0, 1]`; the others are divided by what is left of one.
    pub probability: f32,
    /// Names the draw.
    pub key: u64,
    /// Number of the matrix's first row among all that the key stands for.
    pub first_row: u64,
}

impl Dropout {
    /// Whether an element is kept.
    pub fn keeps(&self, row: usize, column: usize) -> bool {
        self.row(row).keeps(column as u32)
    }

    #[inline(always)]
    fn row(&self, row: usize) -> Row {
        let key = mixed(self.key, self.first_row + row as u64);
        Row {
            low: key as u32,
            high: (key >> 32) as u32,
            least: (f64::from(self.probability) * f64::from(1 << BITS)).ceil() as u32,
        }
    }
}

/// The draws of one row.
#[derive(Clone, Copy)]
struct Row {
    low: u32,
    high: u32,
    /// Of the draws that keep.
    least: u32,
}

impl Row {
    /// A bijection of 32 bits (Wellons 2018, `triple32`) with a second key between its rounds, without which two rows could
    /// be permutations of each other. By his measure its bias is an eighth of that of two multiplications (`lowbias32`).
    #[inline(always)]
    fn keeps(self, column: u32) -> bool {
        let mut z = column ^ self.low;
        z = (z ^ (z >> 17)).wrapping_mul(0xED5A_D4BB) ^ self.high;
        z = (z ^ (z >> 11)).wrapping_mul(0xAC4C_1B51);
        z = (z ^ (z >> 15)).wrapping_mul(0x3184_8BAB);
        z ^= z >> 14;
        z >> (u32::BITS - BITS) >= self.least
    }
}

/// `y = dropout(x)`, or `y += dropout(x)` with `add`.
///
/// # Panics
/// When sizes do not fit.
pub fn dropout(context: &Context, x: Mat<'_>, dropout: Dropout, y: MatMut<'_>, add: bool) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "dropout's output");
    let y = SharedMat::new(y);
    in_ranges(context, x.rows, x.cols, 1, |rows| {
        let kernel = Dropped {
            x,
            y,
            rows,
            dropout,
            add,
        };
        dispatch(context.isa, kernel);
    });
}

struct Dropped<'a> {
    x: Mat<'a>,
    y: SharedMat<'a>,
    rows: Range<usize>,
    dropout: Dropout,
    add: bool,
}

impl Kernel for Dropped<'_> {
    type Output = ();

    /// Plain: the compiler has the draws to vectorise, not we.
    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        let factor = (1.0 / (1.0 - f64::from(self.dropout.probability))) as f32;
        for r in self.rows {
            let row = self.dropout.row(r);
            // SAFETY: each task has its own rows.
            let y = unsafe { self.y.row(r) };
            for (column, (x, y)) in self.x.row(r).iter().zip(y).enumerate() {
                let kept = row.keeps(column as u32);
                let value = if kept { *x * factor } else { 0.0 };
                *y = if self.add { *y + value } else { value };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use proptest::prelude::*;

    fn mask(probability: f32, key: u64, first_row: u64) -> Dropout {
        Dropout {
            probability,
            key,
            first_row,
        }
    }

    /// The definition, element by element.
    fn element(mask: Dropout, row: usize, column: usize, x: f32) -> f32 {
        let factor = (1.0 / (1.0 - f64::from(mask.probability))) as f32;
        if mask.keeps(row, column) {
            x * factor
        } else {
            0.0
        }
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    /// Rows enough for several tasks, which must not number their own from zero.
    #[test]
    fn every_thread_count_and_instruction_set_drops_the_same() {
        let (rows, cols) = (801, 90);
        let x: Vec<f32> = (0..rows * cols).map(|i| 1.0 + i as f32).collect();
        let dropped = mask(0.3, 77, 3);
        let place = |i: usize| element(dropped, i / cols, i % cols, x[i]);
        let want: Vec<f32> = (0..x.len()).map(place).collect();
        for isa in Isa::available() {
            for threads in [1, 3] {
                let context = Context::new(Some(threads), Some(isa));
                let mut y = vec![0.5; rows * cols];
                let to = MatMut::dense(&mut y, rows, cols);
                dropout(&context, Mat::dense(&x, rows, cols), dropped, to, false);
                assert!(y == want, "{isa:?}, {threads} threads");
            }
        }
    }

    /// Bits that matter, and any others.
    fn any_f32() -> impl Strategy<Value = f32> {
        let special = [
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            1e-45,
            -1e-40,
            f32::MAX,
        ];
        prop_oneof![
            2 => -9.0f32..9.0,
            1 => any::<u32>().prop_map(f32::from_bits),
            1 => prop::sample::select(special.to_vec()),
        ]
    }

    /// From nothing to all: the smallest and the largest share below one, and one itself.
    fn any_share() -> impl Strategy<Value = f32> {
        let edges = [0.0, 1e-45, 0.05, 0.5, 1.0 - f32::EPSILON / 2.0, 1.0];
        prop_oneof![prop::sample::select(edges.to_vec()), 0.0f32..1.0]
    }

    proptest! {
        /// What is dropped is zero whatever it was, and whatever the factor is.
        #[test]
        fn the_bits_are_the_definitions_for_any_width_and_share(
            x in prop::collection::vec(any_f32(), 1..300),
            cols in 1usize..70,
            gap in 0usize..3,
            dropped in (any_share(), any::<u64>(), 0u64..1 << 40),
            add: bool,
        ) {
            let stride = cols + gap;
            let rows = (x.len() + gap) / stride;
            let (probability, key, first_row) = dropped;
            let dropped = mask(probability, key, first_row);
            let size = (rows * stride).saturating_sub(gap);
            for isa in Isa::available() {
                let mut y = vec![0.5; size];
                let from = Mat { data: &x[..size], stride, rows, cols };
                let to = MatMut { data: &mut y, stride, rows, cols };
                dropout(&Context::new(Some(1), Some(isa)), from, dropped, to, add);
                for (i, got) in y.into_iter().enumerate() {
                    let (row, column) = (i / stride, i % stride);
                    let value = || element(dropped, row, column, x[i]);
                    let want = match (column < cols, add) {
                        (false, _) => 0.5,
                        (true, true) => 0.5 + value(),
                        (true, false) => value(),
                    };
                    prop_assert!(same(got, want), "{isa:?}, {row} {column}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn rows_are_numbered_on() {
        let (first, later) = (mask(0.5, 9, 0), mask(0.5, 9, 40));
        let columns = |mask: Dropout, row| -> Vec<bool> {
            (0..200).map(|column| mask.keeps(row, column)).collect()
        };
        assert_eq!(columns(first, 47), columns(later, 7));
        assert_ne!(columns(first, 47), columns(first, 7));
        assert_ne!(columns(first, 47), columns(mask(0.5, 10, 0), 47));
        assert_ne!(columns(first, 47), columns(mask(0.5, 9, 1 << 32), 47));
    }

    #[test]
    fn nothing_is_dropped_at_zero_and_all_at_one() {
        let all = |mask: Dropout| (0..5000).filter(|i| mask.keeps(i / 50, i % 50)).count();
        assert_eq!(all(mask(0.0, 1, 0)), 5000);
        assert_eq!(all(mask(1.0, 1, 0)), 0);
    }

    /// Shares of what is dropped, of neighbours that are dropped together, and of the same element under two keys: within
    /// five standard deviations of what independent draws give.
    #[test]
    fn draws_are_as_if_independent() {
        let (rows, cols) = (300, 700);
        for probability in [0.05, 0.1, 0.5] {
            let p = f64::from(probability);
            let (one, other) = (mask(probability, 5, 0), mask(probability, 6, 0));
            let share = |both: &dyn Fn(usize, usize) -> bool, expected: f64| {
                let places = (0..rows).flat_map(|row| (0..cols).map(move |column| (row, column)));
                let count = places.filter(|(row, column)| both(*row, *column)).count();
                let all = (rows * cols) as f64;
                let deviation = (expected * (1.0 - expected) / all).sqrt();
                let share = count as f64 / all;
                assert!(
                    (share - expected).abs() <= 5.0 * deviation,
                    "{share} instead of {expected}"
                );
            };
            share(&|row, column| !one.keeps(row, column), p);
            for (down, right) in [(0, 1), (1, 0), (1, 1), (0, 64), (16, 0), (0, 512)] {
                let pair = |row: usize, column: usize| {
                    !one.keeps(row, column) && !one.keeps(row + down, column + right)
                };
                share(&pair, p * p);
            }
            let keys = |row, column| !one.keeps(row, column) && !other.keeps(row, column);
            share(&keys, p * p);
        }
    }
}
