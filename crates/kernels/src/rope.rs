//! Rotary position embedding on a fused row (Su et al. 2021, arXiv:2104.09864), in the half-split form of
//! GPT-NeoX and Llama: elements `i` and `i + half` turn together.

use crate::share::{SharedMat, in_ranges};
use crate::vector::{Kernel, LANES, Vector, dispatch};
use crate::{Context, Mat, MatMut};
use std::ops::Range;

/// Heads of one kind in a row: head h starts at `offset + h·stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Column of head 0.
    pub offset: usize,
    /// Columns between the starts of neighbouring heads.
    pub stride: usize,
    /// Number of heads.
    pub count: usize,
}

/// Turns the heads of row t by row `positions[t]` of `table`: `half` cosines, then `half` sines; `back`
/// turns the other way.
///
/// # Panics
/// When a position is not in the table, or sizes do not fit.
pub fn rotate(
    context: &Context,
    rows: MatMut<'_>,
    heads: &[Heads],
    positions: &[u32],
    table: Mat<'_>,
    back: bool,
) {
    assert_eq!(positions.len(), rows.rows, "positions");
    let width = heads.iter().map(|h| h.count * table.cols).sum();
    let shared = SharedMat::new(rows);
    in_ranges(context, shared.rows, width, 1, |rows| {
        let kernel = Turn {
            shared,
            heads,
            positions,
            table,
            back,
            rows,
        };
        dispatch(context.isa, kernel);
    });
}

struct Turn<'a> {
    shared: SharedMat<'a>,
    heads: &'a [Heads],
    positions: &'a [u32],
    table: Mat<'a>,
    back: bool,
    rows: Range<usize>,
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let half = self.table.cols / 2;
        let sign = v.splat(if self.back { -1.0 } else { 1.0 });
        for r in self.rows {
            let (cos, sin) = self.table.row(self.positions[r] as usize).split_at(half);
            for heads in self.heads {
                for h in 0..heads.count {
                    let start = heads.offset + h * heads.stride;
                    // SAFETY: each task has its own rows.
                    let head = unsafe { self.shared.part(r, start..start + 2 * half) };
                    turn(v, head, cos, sin, sign);
                }
            }
        }
    }
}

#[inline(always)]
fn turn<V: Vector>(v: V, head: &mut [f32], cos: &[f32], sin: &[f32], sign: V::F) {
    let half = cos.len();
    let (low, high) = head.split_at_mut(half);
    for at in (0..half).step_by(LANES) {
        let part = at..(at + LANES).min(half);
        let a = v.load_part(&low[part.clone()], 0.0);
        let b = v.load_part(&high[part.clone()], 0.0);
        let c = v.load_part(&cos[part.clone()], 0.0);
        let s = v.mul(sign, v.load_part(&sin[part.clone()], 0.0));
        v.store_part(v.sub(v.mul(a, c), v.mul(b, s)), &mut low[part.clone()]);
        v.store_part(v.fma(a, s, v.mul(b, c)), &mut high[part]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn pairs_turn_and_turn_back_and_the_rest_stays() {
        // Two kinds of heads of 7 elements at odd columns; 3 pairs of each turn.
        let heads = [
            Heads {
                offset: 1,
                stride: 9,
                count: 2,
            },
            Heads {
                offset: 20,
                stride: 7,
                count: 1,
            },
        ];
        let table: Vec<f32> = (0..5)
            .flat_map(|p| {
                (0..6).map(move |i| {
                    let angle = p as f64 * [1.0, 0.3, 0.05][i % 3];
                    (if i < 3 { angle.cos() } else { angle.sin() }) as f32
                })
            })
            .collect();
        let x: Vec<f32> = (0..2 * 29).map(|i| (i as f32 * 0.37).sin()).collect();
        for isa in Isa::available() {
            let context = Context::new(Some(2), Some(isa));
            let mut y = x.clone();
            let table = Mat::dense(&table, 5, 6);
            rotate(
                &context,
                MatMut::dense(&mut y, 2, 29),
                &heads,
                &[4, 1],
                table,
                false,
            );
            for (row, position) in [(0, 4.0f64), (1, 1.0)] {
                let (sin, cos) = (position * 0.3).sin_cos();
                let (low, high) = (row * 29 + 11, row * 29 + 14);
                let (a, b) = (f64::from(x[low]), f64::from(x[high]));
                let off = f64::from(y[low]) - (a * cos - b * sin);
                assert!(off.abs() < 1e-6, "{isa:?}, row {row}");
                let off = f64::from(y[high]) - (b * cos + a * sin);
                assert!(off.abs() < 1e-6, "{isa:?}, row {row}");
            }
            assert_eq!((y[0], y[7], y[8], y[19]), (x[0], x[7], x[8], x[19]));
            rotate(
                &context,
                MatMut::dense(&mut y, 2, 29),
                &heads,
                &[4, 1],
                table,
                true,
            );
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-6));
        }
    }
}
