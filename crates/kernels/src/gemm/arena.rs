//! Reused, huge-page-aligned working memory: one small stack of buffers a thread.

use crate::memory::Memory;
use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

/// `len` dwords of unspecified but initialised contents, kept by the thread for its next use.
/// Uses nest; each level reuses the buffer that it had before.
pub(crate) fn with<R>(len: usize, use_buffer: impl FnOnce(&mut [u32]) -> R) -> R {
    let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.as_mut_slice().len() < len {
        // Given back first: the peak is that of the larger one alone.
        drop(std::mem::take(&mut memory));
        memory = Memory::zeroed(len);
    }
    let result = use_buffer(&mut bytemuck::cast_slice_mut(memory.as_mut_slice())[..len]);
    FREE.with_borrow_mut(|free| free.push(memory));
    result
}

#[cfg(test)]
mod tests {
    #[test]
    fn nested_uses_get_different_memory_and_keep_it() {
        let first = super::with(10, |outer| {
            let inner = super::with(20, |inner| inner.as_ptr());
            assert_ne!(outer.as_ptr(), inner);
            outer.as_ptr()
        });
        assert_eq!(first, super::with(10, |outer| outer.as_ptr()));
        super::with(0, |none| assert!(none.is_empty()));
    }
}
