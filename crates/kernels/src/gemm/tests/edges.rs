//! What lies beyond an operand is neither read nor written, and shapes that do not fit are refused.

use super::{Case, products};
use crate::gemm::{Mat, MatMut, Precision, Product, gemm, gemm_group};
use crate::{Context, Isa, Stored, StoredDtype};
use proptest::prelude::*;

/// Bytes that end where a page begins that may not be touched.
#[cfg(target_os = "linux")]
struct BeforeAbyss {
    map: *mut u8,
    pages: usize,
    len: usize,
}

#[cfg(target_os = "linux")]
impl BeforeAbyss {
    const PAGE: usize = 4096;

    fn new(bytes: &[u8]) -> Self {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
        let pages = bytes.len().div_ceil(Self::PAGE);
        let (read_write, size) = (ProtFlags::READ | ProtFlags::WRITE, (pages + 1) * Self::PAGE);
        // SAFETY: a mapping of our own at an address that the system picks; its last page is closed before anyone knows it,
        // and the bytes lie before that page.
        let map = unsafe {
            let map = mmap_anonymous(std::ptr::null_mut(), size, read_write, MapFlags::PRIVATE);
            let map = map.expect("a few pages").cast::<u8>();
            let abyss = map.add(pages * Self::PAGE);
            mprotect(abyss.cast(), Self::PAGE, MprotectFlags::empty()).expect("our page");
            abyss
                .sub(bytes.len())
                .copy_from(bytes.as_ptr(), bytes.len());
            map
        };
        let len = bytes.len();
        Self { map, pages, len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: as `new` laid it out.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `new` laid it out, and nobody else looks at it.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: within the mapping.
        unsafe { self.map.add(self.pages * Self::PAGE - self.len) }
    }
}

#[cfg(target_os = "linux")]
impl Drop for BeforeAbyss {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nobody looks at any more.
        let _ = unsafe { rustix::mm::munmap(self.map.cast(), (self.pages + 1) * Self::PAGE) };
    }
}

#[cfg(target_os = "linux")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// A mapped file may end with its last page: a read beyond it would end the process. Bias and result end so too.
    #[test]
    fn nothing_is_touched_behind_a_matrix_or_its_rows(
        m in 1usize..60, k in 1usize..140, n in 1usize..110, seed: u64, kind in products(),
    ) {
        let case = Case::new((m, k, n), seed, 0, kind);
        let (used, used_y) = ((m - 1) * case.x_stride + k, (m - 1) * case.y_stride + n);
        let x = BeforeAbyss::new(bytemuck::cast_slice(&case.x[..used]));
        let w = BeforeAbyss::new(&case.bytes[1..]);
        let x = Mat { data: bytemuck::cast_slice(x.bytes()), ..case.x() };
        let w = Stored { bytes: w.bytes(), ..case.w() };
        let bias = case.bias.as_ref().map(|bias| BeforeAbyss::new(bytemuck::cast_slice(bias)));
        let bias = bias.as_ref().map(|bias| bytemuck::cast_slice(bias.bytes()));
        for isa in Isa::available() {
            for threads in [1, 2] {
                let ctx = Context::new(Some(threads), Some(isa));
                let mut y = BeforeAbyss::new(bytemuck::cast_slice(&case.y[..used_y]));
                let data = bytemuck::cast_slice_mut(y.bytes_mut());
                let to = MatMut { data, stride: case.y_stride, rows: m, cols: n };
                gemm(&ctx, x, w, case.product, bias, to, case.add, case.precision);
                let got: &[f32] = bytemuck::cast_slice(y.bytes());
                prop_assert!(got == &case.run(&ctx)[..used_y], "{:?}", isa);
            }
        }
    }
}

#[test]
#[should_panic(expected = "columns into 1×0")]
fn columns_of_a_group_that_overflow_are_refused() {
    let w = Stored::new(&[], StoredDtype::F32, 0, 1 << 61);
    let (x, y) = (Mat::dense(&[], 1, 0), MatMut::dense(&mut [], 1, 0));
    let ctx = Context::new(Some(1), None);
    gemm_group(
        &ctx,
        x,
        &[(w, None); 8],
        Product::Nn,
        y,
        false,
        Precision::F32,
    );
}

#[test]
#[should_panic(expected = "matrix")]
fn bytes_of_a_row_that_overflow_are_refused() {
    Stored::new(&[], StoredDtype::F32, 1, 1 << 62);
}
