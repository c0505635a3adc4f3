//! The gradient of one key and value head, over all segments that share its keys.

use super::forward::{Seen, Strips, softmax};
use super::pack::{PANEL, panels, panels_len, straight, with_scratch};
use super::tile::{Left, ROWS, Right, product};
use super::{Segment, Shape};
use crate::share::SharedMat;
use crate::vector::{Kernel, LANES, Vector, dispatch, map};
use crate::{Isa, Mat};
use std::ops::Range;

/// Query rows whose scores are made together.
const BLOCK: usize = 64;

/// Segments that see each other's keys (a prefix first, those behind it after), and one kv head.
pub(super) struct Family<'a> {
    pub(super) shape: &'a Shape<'a>,
    pub(super) kv: usize,
    pub(super) segments: &'a [Segment],
    pub(super) qkv: Mat<'a>,
    pub(super) dout: Mat<'a>,
    pub(super) dqkv: SharedMat<'a>,
}

/// One segment's keys and values, packed, and the gradients that gather there.
struct Packed<'s> {
    /// Keys, a multiple of sixteen.
    padded: usize,
    keys: &'s [f32],
    key_panels: &'s [f32],
    value_panels: &'s [f32],
    dkeys: &'s mut [f32],
    dvalues: &'s mut [f32],
}

/// What a block of queries works in: whole rows, and [`Strips`] of scores.
struct Block<'s> {
    queries: &'s mut [f32],
    douts: &'s mut [f32],
    dqueries: &'s mut [f32],
    weights: &'s mut [f32],
    dweights: &'s mut [f32],
}

impl Block<'_> {
    /// Query i's row of a panel: so many weights and their gradients.
    #[inline(always)]
    fn row(&mut self, number: usize, i: usize, keys: usize) -> (&mut [f32], &mut [f32]) {
        let at = strip(number).start + i * PANEL;
        (
            &mut self.weights[at..at + keys],
            &mut self.dweights[at..at + keys],
        )
    }
}

/// A block's queries.
struct Asking {
    head: usize,
    /// Rows, rounded up to whole tiles.
    count: usize,
    seen: Seen,
}

/// A family with its scratch; see `forward::Work`.
struct Work<'a, 's> {
    family: Family<'a>,
    scratch: [&'s mut [f32]; 10],
}

impl Family<'_> {
    /// Does the work.
    pub(super) fn differentiate(self, isa: Isa) {
        let size = self.shape.head_dim;
        let width = size.next_multiple_of(LANES);
        let padded = self.segments.iter().map(padded).max().unwrap_or(0);
        let (rows, turned) = (padded * width, panels_len(padded, size));
        let (block, strips) = (BLOCK * width, BLOCK * padded.next_multiple_of(PANEL));
        let sizes = [
            rows, turned, turned, rows, rows, block, block, block, strips, strips,
        ];
        with_scratch(sizes, |scratch| {
            dispatch(
                isa,
                Work {
                    family: self,
                    scratch,
                },
            );
        });
    }
}

/// Where panel `number` of a block's strips is.
fn strip(number: usize) -> Range<usize> {
    number * BLOCK * PANEL..(number + 1) * BLOCK * PANEL
}

/// Keys of a segment, rounded up to whole vectors.
fn padded(segment: &Segment) -> usize {
    (segment.len + segment.prefix_len()).next_multiple_of(LANES)
}

impl Kernel for Work<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self {
            family,
            scratch: [k, kt, vt, dk, dv, q, d, dq, p, ds],
        } = self;
        let mut block = Block {
            queries: q,
            douts: d,
            dqueries: dq,
            weights: p,
            dweights: ds,
        };
        dk.fill(0.0);
        dv.fill(0.0);
        for segment in family.segments {
            family.pack(v, segment, [&mut *k, &mut *kt, &mut *vt]);
            let mut packed = Packed {
                padded: padded(segment),
                keys: k,
                key_panels: kt,
                value_panels: vt,
                dkeys: dk,
                dvalues: dv,
            };
            family.segment(v, segment, &mut packed, &mut block);
        }
        family.write_own(&family.segments[0], 0, dk, dv);
    }
}

impl Family<'_> {
    #[inline(always)]
    fn pack<V: Vector>(&self, v: V, segment: &Segment, [k, kt, vt]: [&mut [f32]; 3]) {
        let shape = self.shape;
        let width = shape.head_dim.next_multiple_of(LANES);
        let rows = segment.key_rows();
        let padded = (rows[0].len() + rows[1].len()).next_multiple_of(LANES);
        let key = shape.columns(shape.key, self.kv);
        let value = shape.columns(shape.value, self.kv);
        straight(
            v,
            self.qkv,
            rows.clone(),
            key.clone(),
            1.0,
            k,
            width,
            padded,
        );
        panels(v, self.qkv, rows.clone(), key, kt);
        panels(v, self.qkv, rows, value, vt);
    }

    /// Adds the segment's part to the gradients of its keys and values, writes those of its queries and
    /// (behind a prefix, whose own part stays until the end) its own keys and values.
    #[inline(always)]
    fn segment<V: Vector>(
        &self,
        v: V,
        segment: &Segment,
        packed: &mut Packed<'_>,
        block: &mut Block<'_>,
    ) {
        let group = self.shape.heads / self.shape.kv_heads;
        for head in self.kv * group..(self.kv + 1) * group {
            let end = segment.start + segment.len;
            for first in (segment.start..end).step_by(BLOCK) {
                let rows = first..(first + BLOCK).min(end);
                self.block(v, segment, head, rows, packed, block);
            }
        }
        if segment.prefix.is_some() {
            let first = segment.prefix_len();
            self.write_own(segment, first, packed.dkeys, packed.dvalues);
            let width = self.shape.head_dim.next_multiple_of(LANES);
            packed.dkeys[first * width..].fill(0.0);
            packed.dvalues[first * width..].fill(0.0);
        }
    }

    #[inline(always)]
    fn block<V: Vector>(
        &self,
        v: V,
        segment: &Segment,
        head: usize,
        rows: Range<usize>,
        packed: &mut Packed<'_>,
        block: &mut Block<'_>,
    ) {
        let shape = self.shape;
        let size = shape.head_dim;
        let width = size.next_multiple_of(LANES);
        let count = rows.len().next_multiple_of(ROWS);
        let both = || [rows.clone(), 0..0];
        let outs = head * size..(head + 1) * size;
        let query = shape.columns(shape.query, head);
        let queries = &mut *block.queries;
        straight(
            v,
            self.qkv,
            both(),
            query.clone(),
            shape.scale,
            queries,
            width,
            count,
        );
        let douts = &mut *block.douts;
        straight(v, self.dout, both(), outs.clone(), 1.0, douts, width, count);
        let position = segment.prefix_len() + rows.start - segment.start;
        let asking = Asking {
            head,
            count,
            seen: Seen::new(shape, position, rows.len(), packed.padded),
        };
        for (number, panel) in asking.seen.panels().enumerate() {
            self.scores(v, &asking, number, &panel, packed, block);
        }
        for i in 0..rows.len() {
            self.row(v, &asking, i, block);
        }
        for (number, panel) in asking.seen.panels().enumerate() {
            for part in [&mut *block.weights, &mut *block.dweights] {
                part[strip(number)][rows.len() * PANEL..count * PANEL].fill(0.0);
            }
            gather(v, &asking, number, &panel, width, packed, block);
        }
        let scale = v.splat(shape.scale);
        for (i, row) in rows.enumerate() {
            // SAFETY: each task has its own rows and heads.
            let to = unsafe { self.dqkv.part(row, query.clone()) };
            map!(v, block.dqueries[i * width..][..size], to, |x| v
                .mul(x, scale));
        }
    }

    /// A panel's scores before slope, and the gradients of its weights.
    #[inline(always)]
    fn scores<V: Vector>(
        &self,
        v: V,
        asking: &Asking,
        number: usize,
        panel: &Range<usize>,
        packed: &Packed<'_>,
        block: &mut Block<'_>,
    ) {
        let size = self.shape.head_dim;
        let parts = [
            (&*block.queries, packed.key_panels, &mut *block.weights),
            (&*block.douts, packed.value_panels, &mut *block.dweights),
        ];
        for (rows, panels, to) in parts {
            let left = Left {
                data: rows,
                row: size.next_multiple_of(LANES),
                column: 1,
            };
            let right = Right {
                data: &panels[panel.start * size..],
                stride: PANEL,
            };
            for (rows, keys_seen) in asking.seen.stairs(panel, asking.count) {
                let sides = [rows.len(), keys_seen, size];
                let to = &mut to[strip(number)][rows.start * PANEL..];
                product(v, sides, left.behind(rows.start), right, to, PANEL, false);
            }
        }
    }

    /// Query i's scores to weights `p`, and the weights' gradients to `p·(dp - Σ p·dp)`.
    #[inline(always)]
    fn row<V: Vector>(&self, v: V, asking: &Asking, i: usize, block: &mut Block<'_>) {
        let (shape, seen) = (self.shape, &asking.seen);
        let strips = Strips {
            data: &mut *block.weights,
            block: BLOCK,
        };
        let sum = softmax(v, strips, shape, seen, i, shape.slope(asking.head));
        let share = v.splat(1.0 / sum);
        let mut delta = v.zero();
        for (number, panel) in seen.panels().enumerate() {
            let (weights, dweights) = block.row(number, i, seen.looked_at(&panel, i / LANES));
            seen.hide(shape, i, &panel, dweights, 0.0);
            let (p_lanes, d_lanes) = (weights.as_chunks_mut().0, dweights.as_chunks().0);
            for (p, d) in p_lanes.iter_mut().zip(d_lanes) {
                let weight = v.mul(v.load(p), share);
                delta = v.fma(weight, v.load(d), delta);
                v.store(weight, p);
            }
        }
        let delta = v.splat(v.sum(delta));
        for (number, panel) in seen.panels().enumerate() {
            let (weights, dweights) = block.row(number, i, seen.looked_at(&panel, i / LANES));
            let (p_lanes, d_lanes) = (weights.as_chunks().0, dweights.as_chunks_mut().0);
            for (p, d) in p_lanes.iter().zip(d_lanes) {
                let change = v.mul(v.load(p), v.sub(v.load(d), delta));
                v.store(change, d);
            }
            // Also where a NaN has spread to.
            for part in [weights, dweights] {
                seen.hide(shape, i, &panel, part, 0.0);
            }
        }
    }

    /// Writes the gradients of the segment's own keys and values, which start at row `first`.
    #[inline(always)]
    fn write_own(&self, segment: &Segment, first: usize, dkeys: &[f32], dvalues: &[f32]) {
        let shape = self.shape;
        let width = shape.head_dim.next_multiple_of(LANES);
        for (layout, from) in [(shape.key, dkeys), (shape.value, dvalues)] {
            for i in 0..segment.len {
                let columns = shape.columns(layout, self.kv);
                // SAFETY: each task has its own rows and heads.
                let to = unsafe { self.dqkv.part(segment.start + i, columns) };
                to.copy_from_slice(&from[(first + i) * width..][..shape.head_dim]);
            }
        }
    }
}

/// A panel's part of the gradients: `dv += pᵀ·dout`, `dk += dsᵀ·scale·q`, `dq += ds·k`.
#[inline(always)]
fn gather<V: Vector>(
    v: V,
    asking: &Asking,
    number: usize,
    panel: &Range<usize>,
    width: usize,
    packed: &mut Packed<'_>,
    block: &mut Block<'_>,
) {
    let count = asking.count;
    let wide = |data| Right {
        data,
        stride: width,
    };
    let parts = [
        (
            &block.weights[strip(number)],
            &*block.douts,
            &mut *packed.dvalues,
        ),
        (
            &block.dweights[strip(number)],
            &*block.queries,
            &mut *packed.dkeys,
        ),
    ];
    for (weights, rows, to) in parts {
        // From the row on that is the first to look at them, all look at these keys.
        let mut key = 0;
        for (first, keys_seen) in asking.seen.stairs(panel, count) {
            if keys_seen > key {
                let turned = Left {
                    data: &weights[first.start * PANEL + key..],
                    row: 1,
                    column: PANEL,
                };
                let sides = [keys_seen - key, width, count - first.start];
                let rows = wide(&rows[first.start * width..]);
                let to = &mut to[(panel.start + key) * width..];
                product(v, sides, turned, rows, to, width, true);
                key = keys_seen;
            }
        }
    }
    let dweights = Left {
        data: &block.dweights[strip(number)],
        row: PANEL,
        column: 1,
    };
    let keys = wide(&packed.keys[panel.start * width..]);
    let add = panel.start > asking.seen.first;
    for (rows, keys_seen) in asking.seen.stairs(panel, count) {
        let sides = [rows.len(), width, keys_seen];
        let to = &mut block.dqueries[rows.start * width..];
        product(v, sides, dweights.behind(rows.start), keys, to, width, add);
    }
}
