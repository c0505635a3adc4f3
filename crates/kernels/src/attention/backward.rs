//! The gradient of one key and value head, over all segments that share its keys.

use super::forward::{Seen, Strips, softmax};
use super::pack::{self, PANEL, panels, panels_len, straight, stride, with_scratch};
use super::tile::{Left, ROWS, Right, product};
use super::word::{Pair, Word};
use super::{Segment, Shape, Stream};
use crate::Isa;
use crate::gemm::Precision;
use crate::share::SharedMat;
use crate::vector::{Kernel, LANES, Vector, dispatch, map};
use std::ops::Range;

/// Query rows whose scores are made together.
const BLOCK: usize = 64;

/// Segments that see each other's keys (a prefix first, those behind it after), and one kv head.
pub(super) struct Family<'a> {
    pub(super) shape: &'a Shape<'a>,
    pub(super) kv: usize,
    pub(super) segments: &'a [Segment],
    pub(super) qkv: Stream<'a>,
    pub(super) dout: Stream<'a>,
    pub(super) dqkv: SharedMat<'a>,
}

/// One segment's keys and values, packed, and the gradients that gather there.
struct Packed<'s, W> {
    /// Keys, a multiple of sixteen.
    padded: usize,
    keys: &'s [W],
    key_panels: &'s [W],
    value_panels: &'s [W],
    dkeys: &'s mut [f32],
    dvalues: &'s mut [f32],
}

/// What a block of queries works in: rows, and [`Strips`] of scores.
struct Block<'s> {
    queries: &'s mut [f32],
    douts: &'s mut [f32],
    dqueries: &'s mut [f32],
    weights: &'s mut [f32],
    dweights: &'s mut [f32],
}

/// Scratch for words: of queries and of their outputs' gradients, along rows and across; of one panel's
/// weights across, and of their gradients both ways.
struct Words<'s, W> {
    rows: [&'s mut [W]; 2],
    columns: [&'s mut [W]; 2],
    panel: [&'s mut [W]; 3],
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
struct Work<'a, 's, W> {
    family: Family<'a>,
    scratch: [&'s mut [f32]; 8],
    words: [&'s mut [W]; 10],
}

impl Family<'_> {
    /// Does the work.
    pub(super) fn differentiate(self, isa: Isa) {
        match self.shape.precision {
            Precision::F32 => self.differentiate_in::<f32>(isa),
            Precision::Bf16 => self.differentiate_in::<Pair>(isa),
        }
    }

    fn differentiate_in<W: Word>(self, isa: Isa) {
        let size = self.shape.head_dim;
        let (width, row) = (size.next_multiple_of(LANES), stride(size));
        let padded = self.segments.iter().map(padded).max().unwrap_or(0);
        let (keys, turned) = (padded * row, panels_len::<W>(padded, size));
        let (block, strips) = (BLOCK * row, BLOCK * padded.next_multiple_of(PANEL));
        let sums = padded * width;
        let scratch = [keys, sums, sums, block, block, block, strips, strips];
        let [keys, queries, panel] = [keys, block, BLOCK * PANEL].map(W::scratch);
        let words = [
            turned, turned, keys, queries, queries, queries, queries, panel, panel, panel,
        ];
        with_scratch(scratch, |scratch| {
            with_scratch(words, |words: [&mut [W]; 10]| {
                let work = Work {
                    family: self,
                    scratch,
                    words,
                };
                dispatch(isa, work);
            });
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

impl<W: Word> Kernel for Work<'_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self {
            family,
            scratch: [k, dk, dv, queries, douts, dqueries, weights, dweights],
            words:
                [
                    kt,
                    vt,
                    kw,
                    q_rows,
                    d_rows,
                    q_columns,
                    d_columns,
                    p,
                    ds,
                    ds_rows,
                ],
        } = self;
        let mut block = Block {
            queries,
            douts,
            dqueries,
            weights,
            dweights,
        };
        let mut words = Words {
            rows: [q_rows, d_rows],
            columns: [q_columns, d_columns],
            panel: [p, ds, ds_rows],
        };
        dk.fill(0.0);
        dv.fill(0.0);
        for segment in family.segments {
            let mut packed = Packed {
                padded: padded(segment),
                keys: family.pack(v, segment, [&mut *kt, &mut *vt], k, kw),
                key_panels: kt,
                value_panels: vt,
                dkeys: dk,
                dvalues: dv,
            };
            family.segment(v, segment, &mut packed, &mut block, &mut words);
        }
        family.write_own(v, &family.segments[0], 0, dk, dv);
    }
}

impl Family<'_> {
    /// Packs keys and values; gives the keys across their rows.
    #[inline(always)]
    fn pack<'s, V: Vector, W: Word>(
        &self,
        v: V,
        segment: &Segment,
        [key_panels, value_panels]: [&mut [W]; 2],
        rows: &'s mut [f32],
        words: &'s mut [W],
    ) -> &'s [W] {
        let shape = self.shape;
        let row = stride(shape.head_dim);
        let padded = padded(segment);
        let key = shape.columns(shape.key, self.kv);
        let value = shape.columns(shape.value, self.kv);
        panels(v, self.qkv, segment.key_rows(), key.clone(), key_panels);
        panels(v, self.qkv, segment.key_rows(), value, value_panels);
        straight(self.qkv, segment.key_rows(), key, rows, padded);
        W::columns(v, &rows[..padded * row], row, words)
    }

    /// Adds the segment's part to the gradients of its keys and values, writes those of its queries and
    /// (behind a prefix, whose own part stays until the end) its own keys and values.
    #[inline(always)]
    fn segment<V: Vector, W: Word>(
        &self,
        v: V,
        segment: &Segment,
        packed: &mut Packed<'_, W>,
        block: &mut Block<'_>,
        words: &mut Words<'_, W>,
    ) {
        let group = self.shape.heads / self.shape.kv_heads;
        for head in self.kv * group..(self.kv + 1) * group {
            let end = segment.start + segment.len;
            for first in (segment.start..end).step_by(BLOCK) {
                let rows = first..(first + BLOCK).min(end);
                self.block(v, segment, head, rows, packed, block, words);
            }
        }
        if segment.prefix.is_some() {
            let first = segment.prefix_len();
            self.write_own(v, segment, first, packed.dkeys, packed.dvalues);
            let width = self.shape.head_dim.next_multiple_of(LANES);
            packed.dkeys[first * width..].fill(0.0);
            packed.dvalues[first * width..].fill(0.0);
        }
    }

    #[inline(always)]
    #[expect(
        clippy::too_many_arguments,
        reason = "whose queries, over what, in which scratch"
    )]
    fn block<V: Vector, W: Word>(
        &self,
        v: V,
        segment: &Segment,
        head: usize,
        rows: Range<usize>,
        packed: &mut Packed<'_, W>,
        block: &mut Block<'_>,
        words: &mut Words<'_, W>,
    ) {
        let shape = self.shape;
        let size = shape.head_dim;
        let width = size.next_multiple_of(LANES);
        let count = rows.len().next_multiple_of(ROWS);
        let both = || [rows.clone(), 0..0];
        let outs = head * size..(head + 1) * size;
        let query = shape.columns(shape.query, head);
        straight(self.qkv, both(), query.clone(), block.queries, count);
        straight(self.dout, both(), outs, block.douts, count);
        let position = segment.prefix_len() + rows.start - segment.start;
        let asking = Asking {
            head,
            count,
            seen: Seen::new(shape, position, rows.len(), packed.padded),
        };
        self.scores(v, &asking, packed, block, &mut words.rows);
        for i in 0..rows.len() {
            self.row(v, &asking, i, block);
        }
        for (number, _) in asking.seen.panels().enumerate() {
            for part in [&mut *block.weights, &mut *block.dweights] {
                part[strip(number)][rows.len() * PANEL..count * PANEL].fill(0.0);
            }
        }
        gather(v, &asking, size, packed, block, words);
        let scale = v.splat(shape.scale);
        for (i, row) in rows.enumerate() {
            // SAFETY: each task has its own rows and heads.
            let to = unsafe { self.dqkv.part(row, query.clone()) };
            map!(v, block.dqueries[i * width..][..size], to, |x| v
                .mul(x, scale));
        }
    }

    /// Products with the keys, and the gradients of the weights.
    #[inline(always)]
    fn scores<V: Vector, W: Word>(
        &self,
        v: V,
        asking: &Asking,
        packed: &Packed<'_, W>,
        block: &mut Block<'_>,
        words: &mut [&mut [W]; 2],
    ) {
        let size = self.shape.head_dim;
        let row = stride(size);
        let depth = size.div_ceil(W::DEPTH);
        let [query_words, dout_words] = words;
        let used = asking.count * row;
        let parts = [
            (
                W::rows(v, &block.queries[..used], query_words),
                packed.key_panels,
                &mut *block.weights,
            ),
            (
                W::rows(v, &block.douts[..used], dout_words),
                packed.value_panels,
                &mut *block.dweights,
            ),
        ];
        for (rows, panels, to) in parts {
            let left = Left {
                data: rows,
                row: row / W::DEPTH,
                column: 1,
            };
            for (number, panel) in asking.seen.panels().enumerate() {
                let right = pack::panel(panels, panel.start, depth);
                for (rows, keys_seen) in asking.seen.stairs(&panel, asking.count) {
                    let sides = [rows.len(), keys_seen, depth];
                    let to = &mut to[strip(number)][rows.start * PANEL..];
                    product(v, sides, left.behind(rows.start), right, to, PANEL, false);
                }
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
    fn write_own<V: Vector>(
        &self,
        v: V,
        segment: &Segment,
        first: usize,
        dkeys: &[f32],
        dvalues: &[f32],
    ) {
        let shape = self.shape;
        let width = shape.head_dim.next_multiple_of(LANES);
        let parts = [(shape.key, dkeys, shape.scale), (shape.value, dvalues, 1.0)];
        for (layout, from, scale) in parts {
            let scale = v.splat(scale);
            for i in 0..segment.len {
                let columns = shape.columns(layout, self.kv);
                // SAFETY: each task has its own rows and heads.
                let to = unsafe { self.dqkv.part(segment.start + i, columns) };
                let from = &from[(first + i) * width..][..shape.head_dim];
                map!(v, from, to, |x| v.mul(x, scale));
            }
        }
    }
}

/// A block's part of the gradients: `dv += pᵀ·dout`, `dk += dsᵀ·q`, `dq = ds·k`, the latter two without the scale.
#[inline(always)]
fn gather<V: Vector, W: Word>(
    v: V,
    asking: &Asking,
    size: usize,
    packed: &mut Packed<'_, W>,
    block: &mut Block<'_>,
    words: &mut Words<'_, W>,
) {
    let (width, row) = (size.next_multiple_of(LANES), stride(size));
    let used = asking.count * row;
    let [query_words, dout_words] = &mut words.columns;
    let queries = W::columns(v, &block.queries[..used], row, query_words);
    let douts = W::columns(v, &block.douts[..used], row, dout_words);
    for (number, panel) in asking.seen.panels().enumerate() {
        let used = strip(number).start..strip(number).start + asking.count * PANEL;
        let [p, ds, ds_rows] = &mut words.panel;
        let weights = W::columns(v, &block.weights[used.clone()], PANEL, p);
        let dweights = W::columns(v, &block.dweights[used.clone()], PANEL, ds);
        sum_queries(v, asking, &panel, weights, douts, size, packed.dvalues);
        sum_queries(v, asking, &panel, dweights, queries, size, packed.dkeys);
        let dweights = Left {
            data: W::rows(v, &block.dweights[used], ds_rows),
            row: PANEL / W::DEPTH,
            column: 1,
        };
        let keys = Right {
            data: &packed.keys[panel.start / W::DEPTH * row..],
            stride: row,
        };
        let add = panel.start > asking.seen.first;
        for (rows, keys_seen) in asking.seen.stairs(&panel, asking.count) {
            let sides = [rows.len(), width, keys_seen / W::DEPTH];
            let to = &mut block.dqueries[rows.start * width..];
            product(v, sides, dweights.behind(rows.start), keys, to, width, add);
        }
    }
}

/// `to += weightsᵀ·rows` for a panel's keys; both factors in words across the queries.
#[inline(always)]
fn sum_queries<V: Vector, W: Word>(
    v: V,
    asking: &Asking,
    panel: &Range<usize>,
    weights: &[W],
    rows: &[W],
    size: usize,
    to: &mut [f32],
) {
    let (width, row) = (size.next_multiple_of(LANES), stride(size));
    // From the row on that is the first to look at them, all look at these keys.
    let mut key = 0;
    for (queries, keys_seen) in asking.seen.stairs(panel, asking.count) {
        if keys_seen > key {
            let first = queries.start / W::DEPTH;
            let turned = Left {
                data: &weights[first * PANEL + key..],
                row: 1,
                column: PANEL,
            };
            let right = Right {
                data: &rows[first * row..],
                stride: row,
            };
            let sides = [
                keys_seen - key,
                width,
                (asking.count - queries.start) / W::DEPTH,
            ];
            let to = &mut to[(panel.start + key) * width..];
            product(v, sides, turned, right, to, width, true);
            key = keys_seen;
        }
    }
}
