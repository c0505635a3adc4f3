//! One query head over its keys.

use super::Shape;
use super::Stream;
use super::pack::{self, PANEL, panels, panels_len, straight, stride, with_scratch};
use super::tile::{Left, ROWS, Right, product};
use super::word::{Pair, Word};
use crate::Isa;
use crate::gemm::Precision;
use crate::share::SharedMat;
use crate::vector::{Kernel, LANES, Vector, dispatch, exp, map};
use std::ops::Range;

/// Query rows whose scores are made together.
const BLOCK: usize = 32;

/// Lane numbers.
pub(super) const IOTA: [f32; LANES] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
];

/// A query head, the rows that ask and the rows that answer.
pub(super) struct Head<'a> {
    pub(super) shape: &'a Shape<'a>,
    pub(super) head: usize,
    pub(super) queries: Stream<'a>,
    pub(super) query_rows: Range<usize>,
    pub(super) first_position: usize,
    pub(super) keys: Stream<'a>,
    pub(super) key_columns: Range<usize>,
    pub(super) values: Stream<'a>,
    pub(super) value_columns: Range<usize>,
    pub(super) key_rows: [Range<usize>; 2],
    pub(super) out: SharedMat<'a>,
}

/// A head with its scratch, which is fetched before the instruction set is chosen: what a closure calls
/// would be compiled without it.
struct Work<'a, 's, W> {
    head: Head<'a>,
    padded: usize,
    scratch: [&'s mut [f32]; 4],
    words: [&'s mut [W]; 4],
}

/// A head's keys and values as products read them.
struct Packed<'s, W> {
    /// Keys, a multiple of sixteen.
    padded: usize,
    key_panels: &'s [W],
    values: &'s [W],
}

/// What a block of queries works in: rows, [`Strips`] of scores, and words of either.
struct Block<'s, W> {
    queries: &'s mut [f32],
    scores: &'s mut [f32],
    sums: &'s mut [f32],
    query_words: &'s mut [W],
    weight_words: &'s mut [W],
}

impl Head<'_> {
    /// Does the work.
    pub(super) fn attend(self, isa: Isa) {
        match self.shape.precision {
            Precision::F32 => self.attend_in::<f32>(isa),
            Precision::Bf16 => self.attend_in::<Pair>(isa),
        }
    }

    fn attend_in<W: Word>(self, isa: Isa) {
        let size = self.shape.head_dim;
        let row = stride(size);
        let keys = self.key_rows[0].len() + self.key_rows[1].len();
        let padded = keys.next_multiple_of(LANES);
        let (block, strips) = (BLOCK * row, BLOCK * keys.next_multiple_of(PANEL));
        let words = [
            panels_len::<W>(keys, size),
            W::scratch(padded * row),
            W::scratch(block),
            W::scratch(BLOCK * PANEL),
        ];
        with_scratch([padded * row, block, strips, block], |scratch| {
            with_scratch(words, |words: [&mut [W]; 4]| {
                let head = self;
                let work = Work {
                    head,
                    padded,
                    scratch,
                    words,
                };
                dispatch(isa, work);
            });
        });
    }
}

impl<W: Word> Kernel for Work<'_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self {
            head,
            padded,
            scratch: [values, queries, scores, sums],
            words: [key_panels, value_words, query_words, weight_words],
        } = self;
        let row = stride(head.shape.head_dim);
        let keys = head.key_columns.clone();
        panels(v, head.keys, head.key_rows.clone(), keys, key_panels);
        let columns = head.value_columns.clone();
        straight(head.values, head.key_rows.clone(), columns, values, padded);
        let packed = Packed {
            padded,
            key_panels,
            values: W::columns(v, &values[..padded * row], row, value_words),
        };
        let mut block = Block {
            queries,
            scores,
            sums,
            query_words,
            weight_words,
        };
        for first in head.query_rows.clone().step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(head.query_rows.end);
            head.block(v, rows, &packed, &mut block);
        }
    }
}

impl Head<'_> {
    #[inline(always)]
    fn block<V: Vector, W: Word>(
        &self,
        v: V,
        rows: Range<usize>,
        packed: &Packed<'_, W>,
        block: &mut Block<'_, W>,
    ) {
        let shape = self.shape;
        let size = shape.head_dim;
        let (width, row) = (size.next_multiple_of(LANES), stride(size));
        let count = rows.len().next_multiple_of(ROWS);
        let position = self.first_position + rows.start - self.query_rows.start;
        let columns = shape.columns(shape.query, self.head);
        let both = [rows.clone(), 0..0];
        straight(self.queries, both, columns, block.queries, count);
        let seen = Seen::new(shape, position, rows.len(), packed.padded);
        let queries = Left {
            data: W::rows(v, &block.queries[..count * row], block.query_words),
            row: row / W::DEPTH,
            column: 1,
        };
        let strips = block.scores.chunks_exact_mut(BLOCK * PANEL);
        for (panel, scores) in seen.panels().zip(strips) {
            let words = size.div_ceil(W::DEPTH);
            let keys = pack::panel(packed.key_panels, panel.start, words);
            for (rows, keys_seen) in seen.stairs(&panel, count) {
                let sides = [rows.len(), keys_seen, words];
                let to = &mut scores[rows.start * PANEL..];
                product(v, sides, queries.behind(rows.start), keys, to, PANEL, false);
            }
        }
        let mut scales = [0.0; BLOCK];
        for (i, scale) in scales.iter_mut().enumerate().take(rows.len()) {
            let strips = Strips {
                data: &mut *block.scores,
                block: BLOCK,
            };
            *scale = 1.0 / softmax(v, strips, shape, &seen, i, shape.slope(self.head));
        }
        self.sum_values(v, &seen, rows.len(), packed, block);
        for (i, row) in rows.enumerate() {
            let start = self.head * size;
            // SAFETY: each task has its own rows and head.
            let out = unsafe { self.out.part(row, start..start + size) };
            let scale = v.splat(scales[i]);
            map!(v, block.sums[i * width..][..size], out, |x| v.mul(x, scale));
        }
    }

    /// `sums = weights·values`.
    #[inline(always)]
    fn sum_values<V: Vector, W: Word>(
        &self,
        v: V,
        seen: &Seen,
        queries: usize,
        packed: &Packed<'_, W>,
        block: &mut Block<'_, W>,
    ) {
        let size = self.shape.head_dim;
        let (width, row) = (size.next_multiple_of(LANES), stride(size));
        let count = queries.next_multiple_of(ROWS);
        let strips = block.scores.chunks_exact_mut(BLOCK * PANEL);
        for (panel, scores) in seen.panels().zip(strips) {
            scores[queries * PANEL..count * PANEL].fill(0.0);
            let weights = Left {
                data: W::rows(v, &scores[..count * PANEL], block.weight_words),
                row: PANEL / W::DEPTH,
                column: 1,
            };
            let values = Right {
                data: &packed.values[panel.start / W::DEPTH * row..],
                stride: row,
            };
            let add = panel.start > seen.first;
            for (rows, keys_seen) in seen.stairs(&panel, count) {
                let sides = [rows.len(), width, keys_seen / W::DEPTH];
                let to = &mut block.sums[rows.start * width..];
                product(v, sides, weights.behind(rows.start), values, to, width, add);
            }
        }
    }
}

/// The keys that a block of queries looks at: a run of whole vectors.
pub(super) struct Seen {
    /// First key, the first of its panel.
    pub(super) first: usize,
    /// Behind the last, a multiple of sixteen.
    end: usize,
    /// Position of the block's first query.
    position: usize,
}

impl Seen {
    pub(super) fn new(shape: &Shape<'_>, position: usize, queries: usize, padded: usize) -> Self {
        Self {
            first: shape.first_seen(position) / PANEL * PANEL,
            end: (position + queries).next_multiple_of(LANES).min(padded),
            position,
        }
    }

    /// Runs of keys, a panel each.
    pub(super) fn panels(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let end = self.end;
        let starts = (self.first..end).step_by(PANEL);
        starts.map(move |start| start..(start + PANEL).min(end))
    }

    /// Of a panel, how many keys the queries `16·step..16·(step + 1)` look at; a multiple of sixteen.
    pub(super) fn looked_at(&self, panel: &Range<usize>, step: usize) -> usize {
        let end = (self.position + (step + 1) * LANES).saturating_sub(panel.start);
        end.next_multiple_of(LANES).min(panel.len())
    }

    /// Query rows with the keys of a panel that they look at: sixteen at a time where the panel has keys that come
    /// after them, so that little is computed in vain.
    pub(super) fn stairs(
        &self,
        panel: &Range<usize>,
        count: usize,
    ) -> impl Iterator<Item = (Range<usize>, usize)> {
        let whole = self.looked_at(panel, 0) == panel.len();
        let rows = if whole { count } else { LANES };
        (0..count).step_by(rows).map(move |first| {
            let rows = first..(first + rows).min(count);
            (rows, self.looked_at(panel, first / LANES))
        })
    }

    /// How far query i is behind the first key of a panel.
    pub(super) fn distance(&self, i: usize, panel: &Range<usize>) -> f32 {
        (self.position + i) as f32 - panel.start as f32
    }

    /// Sets what query i does not see of its row in a panel.
    pub(super) fn hide(
        &self,
        shape: &Shape<'_>,
        i: usize,
        panel: &Range<usize>,
        row: &mut [f32],
        value: f32,
    ) {
        let position = self.position + i;
        let inside = |key: usize| key.saturating_sub(panel.start).min(row.len());
        let visible = inside(shape.first_seen(position))..inside(position + 1);
        row[..visible.start].fill(value);
        row[visible.end..].fill(value);
    }
}

/// Scores of a block of queries: panel after panel, each `[block, PANEL]`.
pub(super) struct Strips<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) block: usize,
}

impl Strips<'_> {
    #[inline(always)]
    fn panels(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.block * PANEL)
    }
}

/// Replaces query i's products with keys by exponentials of their scores about the highest; gives their sum.
#[inline(always)]
pub(super) fn softmax<V: Vector>(
    v: V,
    mut scores: Strips<'_>,
    shape: &Shape<'_>,
    seen: &Seen,
    i: usize,
    slope: f32,
) -> f32 {
    let (scale, slope) = (v.splat(shape.scale), v.splat(slope));
    let mut top = v.splat(f32::NEG_INFINITY);
    for (panel, scores) in seen.panels().zip(scores.panels()) {
        let row = &mut scores[i * PANEL..][..seen.looked_at(&panel, i / LANES)];
        seen.hide(shape, i, &panel, row, f32::NEG_INFINITY);
        let own = seen.distance(i, &panel);
        for (lane, x) in row.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let distance = v.add(v.load(&IOTA), v.splat((lane * LANES) as f32 - own));
            let score = v.fma(slope, distance, v.mul(scale, v.load(x)));
            top = v.max(score, top);
            v.store(score, x);
        }
    }
    let top = v.splat(v.highest(top));
    let mut sum = v.zero();
    for (panel, scores) in seen.panels().zip(scores.panels()) {
        let row = &mut scores[i * PANEL..][..seen.looked_at(&panel, i / LANES)];
        for x in row.as_chunks_mut::<LANES>().0 {
            let e = exp(v, v.sub(v.load(x), top));
            sum = v.add(sum, e);
            v.store(e, x);
        }
    }
    v.sum(sum)
}
