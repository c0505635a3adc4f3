//! Buffers that return when dropped: a step that looks like the one before allocates nothing.

use kernels::Memory;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Elements from which a buffer counts as large: any large request may take any large enough buffer, so
/// that steps of fewer tokens use those of longer steps.
const LARGE: usize = 1 << 18;

/// A small request takes a buffer of at most this many times its size.
const SMALL_WASTE: usize = 2;

/// Buffers that are not in use, by capacity.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Mutex<BTreeMap<usize, Vec<Memory>>>,
}

/// A buffer of f32.
#[derive(Debug)]
pub struct Buf {
    memory: Option<Memory>,
    len: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// A buffer with the contents of an earlier use.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buf {
        let memory = self
            .reuse(len)
            .unwrap_or_else(|| Memory::zeroed(len.max(1)));
        Buf {
            memory: Some(memory),
            len,
            pool: Arc::clone(self),
        }
    }

    /// The smallest that is large enough. Where there is none, the caller makes one, and the next smaller is
    /// given back to the system: the new one does its work from now on.
    fn reuse(&self, len: usize) -> Option<Memory> {
        let most = if len >= LARGE {
            usize::MAX
        } else {
            (len * SMALL_WASTE).max(1024)
        };
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = free.range(len..=most).next().map(|(size, _)| *size);
        if fit.is_none() && len >= LARGE {
            let smaller = free.range(LARGE..len).next_back().map(|(size, _)| *size);
            drop(smaller.and_then(|size| pop(&mut free, size)));
        }
        fit.and_then(|size| pop(&mut free, size))
    }

    fn put(&self, memory: Memory) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(memory.capacity()).or_default().push(memory);
    }
}

fn pop(free: &mut BTreeMap<usize, Vec<Memory>>, size: usize) -> Option<Memory> {
    let list = free.get_mut(&size)?;
    let memory = list.pop();
    if list.is_empty() {
        free.remove(&size);
    }
    memory
}

impl Buf {
    /// Its elements.
    pub fn as_slice(&self) -> &[f32] {
        let memory = self.memory.as_ref().map_or(&[][..], Memory::as_slice);
        &memory[..self.len]
    }

    /// Its elements.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        let memory = self
            .memory
            .as_mut()
            .map_or(&mut [][..], Memory::as_mut_slice);
        &mut memory[..self.len]
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.put(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_serves_the_next_request_it_fits() {
        let pool = Arc::new(Pool::default());
        let at = |len| pool.take(len).as_slice().as_ptr();
        let first = at(LARGE * 2);
        assert_eq!(at(LARGE), first);
        assert_eq!(at(LARGE * 2), first);
        // A larger one replaces it.
        let larger = at(LARGE * 4);
        assert_eq!(at(LARGE), larger);
        assert_ne!(at(100), larger);
    }

    #[test]
    fn buffers_in_use_are_different() {
        let pool = Arc::new(Pool::default());
        let (mut a, b) = (pool.take(50), pool.take(50));
        a.as_mut_slice().fill(3.0);
        assert!(b.as_slice().iter().all(|x| *x != 3.0));
        assert_eq!((a.as_slice().len(), pool.take(0).as_slice().len()), (50, 0));
    }
}
