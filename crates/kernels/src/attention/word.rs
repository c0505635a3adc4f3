//! What products read: f32, or pairs of bf16.

use super::stream::Row;
use crate::vector::{LANES, Vector};
use bytemuck::{Pod, Zeroable};

/// One or two neighbours along the depth of a product.
pub(super) trait Word: Pod {
    /// Elements of a word.
    const DEPTH: usize;

    /// `sum` and the word's products, one after the other.
    fn step<V: Vector>(v: V, left: Self, right: &[Self; LANES], sum: V::F) -> V::F;

    /// The first words of a row, at most sixteen; zeros behind them.
    fn first<V: Vector>(v: V, row: Row<'_>) -> [Self; LANES];

    /// Rows, of even length and a multiple of 32 elements in all, in words along the row.
    fn rows<'a, V: Vector>(v: V, from: &'a [f32], scratch: &'a mut [Self]) -> &'a [Self];

    /// Rows of `width` elements, a multiple of sixteen, in words across the rows, whose number is even: word (j, e)
    /// is at `j·width + e`.
    fn columns<'a, V: Vector>(
        v: V,
        from: &'a [f32],
        width: usize,
        scratch: &'a mut [Self],
    ) -> &'a [Self];

    /// Scratch that `rows` and `columns` need for so many elements.
    fn scratch(elements: usize) -> usize;
}

/// Stays where it is.
impl Word for f32 {
    const DEPTH: usize = 1;

    #[inline(always)]
    fn step<V: Vector>(v: V, left: Self, right: &[Self; LANES], sum: V::F) -> V::F {
        v.fma(v.splat(left), v.load(right), sum)
    }

    #[inline(always)]
    fn first<V: Vector>(v: V, row: Row<'_>) -> [Self; LANES] {
        v.to_lanes(row.lanes(v, 0))
    }

    #[inline(always)]
    fn rows<'a, V: Vector>(_v: V, from: &'a [Self], _scratch: &'a mut [Self]) -> &'a [Self] {
        from
    }

    #[inline(always)]
    fn columns<'a, V: Vector>(
        _v: V,
        from: &'a [Self],
        _width: usize,
        _scratch: &'a mut [Self],
    ) -> &'a [Self] {
        from
    }

    fn scratch(_elements: usize) -> usize {
        0
    }
}

/// Two bf16, the first in the lower half.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Pair(u32);

impl Word for Pair {
    const DEPTH: usize = 2;

    #[inline(always)]
    fn step<V: Vector>(v: V, left: Self, right: &[Self; LANES], sum: V::F) -> V::F {
        v.dot_pairs(left.0, bytemuck::cast_ref(right), sum)
    }

    #[inline(always)]
    fn first<V: Vector>(v: V, row: Row<'_>) -> [Self; LANES] {
        bytemuck::cast(v.neighbours(row.lanes(v, 0), row.lanes(v, LANES)))
    }

    #[inline(always)]
    fn rows<'a, V: Vector>(v: V, from: &'a [f32], scratch: &'a mut [Self]) -> &'a [Self] {
        let words = &mut scratch[..from.len() / 2];
        let (vectors, _) = from.as_chunks::<LANES>();
        for ([low, high], to) in vectors
            .as_chunks::<2>()
            .0
            .iter()
            .zip(words.as_chunks_mut().0)
        {
            let to: &mut [Self; LANES] = to;
            *to = bytemuck::cast(v.neighbours(v.load(low), v.load(high)));
        }
        words
    }

    #[inline(always)]
    fn columns<'a, V: Vector>(
        v: V,
        from: &'a [f32],
        width: usize,
        scratch: &'a mut [Self],
    ) -> &'a [Self] {
        let words = &mut scratch[..from.len() / 2];
        for (rows, to) in from
            .chunks_exact(2 * width)
            .zip(words.chunks_exact_mut(width))
        {
            let (even, odd) = rows.split_at(width);
            let (even, odd) = (even.as_chunks().0, odd.as_chunks().0);
            for ((even, odd), to) in even.iter().zip(odd).zip(to.as_chunks_mut().0) {
                let to: &mut [Self; LANES] = to;
                *to = bytemuck::cast(v.stacked(v.load(even), v.load(odd)));
            }
        }
        words
    }

    fn scratch(elements: usize) -> usize {
        elements / 2
    }
}
