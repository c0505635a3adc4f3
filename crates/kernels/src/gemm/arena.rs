//! Reused, huge-page-aligned working memory: one small stack of buffers a thread.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;

/// A huge page; buffers are aligned to it once they are at least that large.
const HUGE: usize = 2 << 20;
/// A cache line.
const LINE: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// `len` dwords of unspecified but initialised contents, kept by the thread for its next use.
/// Uses nest; each level reuses the buffer that it had before.
pub(crate) fn with<R>(len: usize, use_buffer: impl FnOnce(&mut [u32]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.grow(len);
    let result = use_buffer(buffer.as_mut_slice(len));
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

#[derive(Default)]
struct Buffer {
    /// Null, or an allocation of `layout`.
    start: Option<std::ptr::NonNull<u8>>,
    bytes: usize,
}

impl Buffer {
    fn grow(&mut self, len: usize) {
        let want = len * 4;
        if want <= self.bytes {
            return;
        }
        self.release();
        let unit = if want >= HUGE { HUGE } else { 4096 };
        let bytes = want.next_multiple_of(unit);
        let layout = layout(bytes);
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = std::ptr::NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        advise_huge(start, bytes);
        // SAFETY: these are the bytes just allocated.
        unsafe { start.as_ptr().write_bytes(0, bytes) };
        self.start = Some(start);
        self.bytes = bytes;
    }

    fn as_mut_slice(&mut self, len: usize) -> &mut [u32] {
        match self.start {
            None => &mut [],
            // SAFETY: at least `len` dwords, initialised, and borrowed with the buffer.
            Some(start) => unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), len) },
        }
    }

    fn release(&mut self) {
        if let Some(start) = self.start.take() {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(start.as_ptr(), layout(self.bytes)) };
        }
        self.bytes = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

fn layout(bytes: usize) -> Layout {
    let align = if bytes >= HUGE { HUGE } else { LINE };
    Layout::from_size_align(bytes, align).expect("a power of two, and sizes that fit memory")
}

#[cfg(target_os = "linux")]
fn advise_huge(start: std::ptr::NonNull<u8>, bytes: usize) {
    use rustix::mm::{Advice, madvise};
    if bytes >= HUGE {
        // SAFETY: the range is ours; the advice changes no contents. Where the kernel refuses,
        // the pages are small and the numbers the same.
        let _ = unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_start: std::ptr::NonNull<u8>, _bytes: usize) {}

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
