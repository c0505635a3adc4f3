//! Working memory that page-faults rarely: blocks are cut from large chunks, and return when dropped.
//!
//! A request takes the first gap that is large enough, and a returned block joins the gaps beside it. So
//! steps of any size use the same pages, and a process holds about what its largest step needed.

use crate::memory::Memory;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Elements of a chunk (64 MiB), unless a request is larger.
const CHUNK: usize = 16 << 20;
/// Elements of a chunk of small blocks (4 MiB).
const SMALL_CHUNK: usize = 1 << 20;
/// Requests below this have chunks of their own, so that long-lived small blocks do not cut up the large ones.
const SMALL: usize = 1 << 16;
/// Blocks start at cache lines and end at them.
const UNIT: usize = 16;

/// Memory for blocks.
#[derive(Debug, Default)]
pub struct Pool {
    small: Mutex<Shelf>,
    large: Mutex<Shelf>,
}

/// `len` f32 out of a chunk.
#[derive(Debug)]
pub struct Block {
    pool: Arc<Pool>,
    start: NonNull<f32>,
    len: usize,
    place: Place,
}

/// Where a block was cut out.
#[derive(Debug, Clone, Copy)]
struct Place {
    chunk: usize,
    first: usize,
    /// A multiple of [`UNIT`].
    len: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    /// What `start` points to; not looked at otherwise.
    _memory: Memory,
    start: NonNull<f32>,
    /// Length by first element; no two touch.
    gaps: BTreeMap<usize, usize>,
}

// SAFETY: `start` points to memory that the chunk owns, and only blocks, which do not overlap, use it.
unsafe impl Send for Chunk {}
// SAFETY: a block is the only one to reach its elements.
unsafe impl Send for Block {}
// SAFETY: a shared block is only read.
unsafe impl Sync for Block {}

impl Pool {
    /// A block whose contents are unspecified: those of an earlier use, or zeros.
    pub fn take(self: &Arc<Self>, len: usize) -> Block {
        let mut shelf = self
            .shelf(len)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let least = if len < SMALL { SMALL_CHUNK } else { CHUNK };
        let (start, place) = shelf.cut(len.max(1).next_multiple_of(UNIT), least);
        Block {
            pool: Arc::clone(self),
            start,
            len,
            place,
        }
    }

    fn shelf(&self, len: usize) -> &Mutex<Shelf> {
        if len < SMALL {
            &self.small
        } else {
            &self.large
        }
    }
}

impl Shelf {
    fn cut(&mut self, len: usize, least: usize) -> (NonNull<f32>, Place) {
        let fitting = self.chunks.iter_mut().enumerate();
        let found = fitting
            .filter_map(|(number, chunk)| Some((number, chunk.cut(len)?)))
            .next();
        let (number, first) = found.unwrap_or_else(|| {
            self.chunks.push(Chunk::new(len.max(least)));
            let number = self.chunks.len() - 1;
            let first = self.chunks[number].cut(len);
            (number, first.expect("a new chunk is large enough"))
        });
        // SAFETY: `first` is inside the chunk.
        let start = unsafe { self.chunks[number].start.add(first) };
        let place = Place {
            chunk: number,
            first,
            len,
        };
        (start, place)
    }
}

impl Chunk {
    fn new(len: usize) -> Self {
        let mut memory = Memory::zeroed(len);
        let slice = memory.as_mut_slice();
        let gaps = BTreeMap::from([(0, slice.len())]);
        let start = NonNull::from(slice).cast();
        Self {
            _memory: memory,
            start,
            gaps,
        }
    }

    /// The first element of `len` that were a gap.
    fn cut(&mut self, len: usize) -> Option<usize> {
        let (first, found) = self.gaps.iter().find(|(_, gap)| **gap >= len)?;
        let (first, found) = (*first, *found);
        self.gaps.remove(&first);
        if found > len {
            self.gaps.insert(first + len, found - len);
        }
        Some(first)
    }

    fn put(&mut self, mut first: usize, mut len: usize) {
        if let Some(after) = self.gaps.remove(&(first + len)) {
            len += after;
        }
        let before = self.gaps.range(..first).next_back();
        if let Some((start, gap)) = before.map(|(start, gap)| (*start, *gap))
            && start + gap == first
        {
            first = start;
            len += gap;
        }
        self.gaps.insert(first, len);
    }
}

impl Block {
    /// Its elements.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: the elements are this block's alone, initialised, and live as long as the pool.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Its elements.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the block is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Place { chunk, first, len } = self.place;
        let shelf = self.pool.shelf(self.len);
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.chunks[chunk].put(first, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(pool: &Pool) -> Vec<Vec<(usize, usize)>> {
        let shelf = pool.large.lock().unwrap();
        let each = shelf.chunks.iter();
        each.map(|chunk| chunk.gaps.iter().map(|(a, b)| (*a, *b)).collect())
            .collect()
    }

    #[test]
    fn a_returned_block_joins_its_neighbours_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2], [1, 2, 0]] {
            let pool = Arc::new(Pool::default());
            let mut blocks: Vec<_> = (0..3).map(|i| Some(pool.take(SMALL + 100 * i))).collect();
            for i in order {
                blocks[i] = None;
            }
            assert_eq!(gaps(&pool), [[(0, CHUNK)]], "{order:?}");
        }
    }

    #[test]
    fn steps_of_other_sizes_use_the_same_chunk() {
        let pool = Arc::new(Pool::default());
        for tokens in [7, 3, 11, 5] {
            let kept: Vec<_> = (1..6).map(|i| pool.take(SMALL * i * tokens)).collect();
            assert!(
                kept.iter()
                    .all(|block| block.as_slice().len() % tokens == 0)
            );
        }
        let held: usize = gaps(&pool).iter().flatten().map(|(_, len)| len).sum();
        assert_eq!(held, CHUNK);
    }

    #[test]
    fn blocks_in_use_do_not_overlap() {
        let pool = Arc::new(Pool::default());
        let sizes = [0, 1, 50, 17, SMALL, SMALL + 1, CHUNK + 1, 3 * SMALL];
        let mut blocks: Vec<_> = sizes.map(|size| pool.take(size)).into();
        drop(blocks.remove(4));
        blocks.push(pool.take(SMALL - 1));
        for (i, block) in blocks.iter_mut().enumerate() {
            block.as_mut_slice().fill(i as f32);
        }
        for (i, block) in blocks.iter().enumerate() {
            assert!(block.as_slice().iter().all(|x| *x == i as f32), "{i}");
        }
    }

    #[test]
    fn a_block_outlives_the_last_handle_of_its_pool() {
        let block = Arc::new(Pool::default()).take(100);
        assert_eq!(block.as_slice(), [0.0; 100]);
    }
}
