//! Buffers that page-fault rarely.

/// A huge page; blocks of at least this size start at one.
const HUGE_BYTES: usize = 2 << 20;

/// f32 memory, zero at first, aligned to a huge page (advised as one) where it is as large as that, and
/// untouched until used.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Longer than `len` by what alignment may need.
    values: Vec<f32>,
    first: usize,
    len: usize,
}

impl Memory {
    /// At least `len` zeros: large sizes are rounded up to whole huge pages.
    pub(crate) fn zeroed(len: usize) -> Self {
        let huge = HUGE_BYTES / size_of::<f32>();
        let unit = if len >= huge { huge } else { 16 };
        let len = len.next_multiple_of(unit);
        // `vec!` of zeros asks the system for zero pages and does not write them.
        let values = vec![0.0; len + unit];
        let first = values
            .as_ptr()
            .align_offset(unit * size_of::<f32>())
            .min(unit);
        let mut memory = Self { values, first, len };
        if len >= huge {
            advise_huge(memory.as_mut_slice());
        }
        memory
    }

    /// All of it.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.values[self.first..][..self.len]
    }
}

#[cfg(target_os = "linux")]
fn advise_huge(memory: &mut [f32]) {
    use rustix::mm::{Advice, madvise};
    // SAFETY: the range is ours and whole pages; the advice changes no contents. Where the kernel refuses,
    // the pages are small and the numbers the same.
    let _ = unsafe {
        madvise(
            memory.as_mut_ptr().cast(),
            size_of_val(memory),
            Advice::LinuxHugepage,
        )
    };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_memory: &mut [f32]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_aligned_and_large_enough() {
        for len in [0, 1, 17, 1 << 19, (1 << 19) + 1] {
            let mut memory = Memory::zeroed(len);
            let all = memory.as_mut_slice();
            assert!(all.len() >= len && all.iter().all(|x| *x == 0.0));
            let align = if len >= 1 << 19 { HUGE_BYTES } else { 64 };
            assert!(all.as_ptr().addr().is_multiple_of(align));
            all.fill(1.0);
        }
    }
}
