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

    /// Queries and keys with columns between them that belong to nobody.
    fn heads(half: usize) -> ([Heads; 2], usize) {
        let queries = Heads {
            offset: 1,
            stride: 2 * half + 3,
            count: 2,
        };
        let keys = Heads {
            offset: 2 + queries.count * queries.stride,
            stride: 2 * half,
            count: 1,
        };
        ([queries, keys], keys.offset + keys.stride + 1)
    }

    /// `x` turned, in f64.
    fn turned(x: &[f32], half: usize, positions: &[u32], table: Mat<'_>, sign: f64) -> Vec<f64> {
        let (kinds, width) = heads(half);
        let mut y: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        for (row, position) in positions.iter().enumerate() {
            let turns = table.row(*position as usize);
            for heads in kinds {
                for (h, i) in (0..heads.count).flat_map(|h| (0..half).map(move |i| (h, i))) {
                    let low = row * width + heads.offset + h * heads.stride + i;
                    let (cos, sin) = (f64::from(turns[i]), sign * f64::from(turns[half + i]));
                    let (a, b) = (y[low], y[low + half]);
                    y[low] = a * cos - b * sin;
                    y[low + half] = b * cos + a * sin;
                }
            }
        }
        y
    }

    #[test]
    fn pairs_turn_and_turn_back_and_the_rest_stays_in_the_same_bits_everywhere() {
        let positions = [4, 1, 0];
        // Tails alone, whole vectors, and both.
        for half in [1, 3, 15, 16, 17, 32, 40] {
            let (kinds, width) = heads(half);
            let angles = (0..5 * half).map(|i| (i / half) as f32 * 0.8f32.powi((i % half) as i32));
            let angles: Vec<f32> = angles.collect();
            let table: Vec<f32> = angles
                .chunks(half)
                .flat_map(|angles| {
                    let (cos, sin) = (
                        angles.iter().map(|x| x.cos()),
                        angles.iter().map(|x| x.sin()),
                    );
                    cos.chain(sin)
                })
                .collect();
            let table = Mat::dense(&table, 5, 2 * half);
            let x: Vec<f32> = (0..positions.len() * width)
                .map(|i| (i as f32 * 0.37).sin())
                .collect();
            for back in [false, true] {
                let sign = if back { -1.0 } else { 1.0 };
                let want = turned(&x, half, &positions, table, sign);
                let mut first: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    let context = Context::new(Some(2), Some(isa));
                    let mut y = x.clone();
                    let rows = MatMut::dense(&mut y, positions.len(), width);
                    rotate(&context, rows, &kinds, &positions, table, back);
                    for (i, (y, want)) in y.iter().zip(&want).enumerate() {
                        let error = (f64::from(*y) - want).abs();
                        assert!(error < 1e-6, "{isa:?}, half {half}, element {i}: {error:e}");
                    }
                    let first = first.get_or_insert_with(|| y.clone());
                    assert!(*first == y, "{isa:?}, half {half}: other bits");
                }
            }
        }
    }

    #[test]
    fn nan_and_infinity_stay_in_their_pair() {
        let half = 21;
        let (kinds, width) = heads(half);
        let table: Vec<f32> = [0.6; 21].into_iter().chain([0.8; 21]).collect();
        let table = Mat::dense(&table, 1, 2 * half);
        for isa in Isa::available() {
            let mut y = vec![1.0; width];
            (y[3], y[kinds[1].offset + 19]) = (f32::NAN, f32::INFINITY);
            let context = Context::new(Some(1), Some(isa));
            let rows = MatMut::dense(&mut y, 1, width);
            rotate(&context, rows, &kinds, &[0], table, false);
            let at = kinds[1].offset + 19;
            let spoilt = [3, 3 + half, at, at + half];
            for (i, y) in y.iter().enumerate() {
                assert_eq!(
                    !y.is_finite(),
                    spoilt.contains(&i),
                    "{isa:?}, element {i}: {y}"
                );
            }
        }
    }
}
