//! Matrices as their file has them: row-major bytes and a decoder.

use half::{bf16, f16};

/// How a matrix's elements are written, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Brain float.
    Bf16,
}

impl StoredDtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A row-major matrix that is looked at, never copied.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Exactly `rows * cols * dtype.size()` bytes; any alignment.
    pub bytes: &'a [u8],
    /// Element format.
    pub dtype: StoredDtype,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

impl<'a> Stored<'a> {
    /// Looks at `bytes`.
    ///
    /// # Panics
    /// When the bytes are not a `rows × cols` matrix: who reads a file has checked that.
    pub fn new(bytes: &'a [u8], dtype: StoredDtype, rows: usize, cols: usize) -> Self {
        let stored = Self {
            bytes,
            dtype,
            rows,
            cols,
        };
        stored.check();
        stored
    }

    /// Looks at trained values.
    ///
    /// # Panics
    /// When `values` is not `rows × cols` long.
    pub fn from_f32(values: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(bytemuck::cast_slice(values), StoredDtype::F32, rows, cols)
    }

    /// Writes the values of one row to `out`, exactly.
    ///
    /// # Panics
    /// When there is no such row, or `out` is not one row long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "length of a row");
        let size = self.cols * self.dtype.size();
        let bytes = &self.bytes[row * size..][..size];
        match self.dtype {
            StoredDtype::F32 => decode(bytes, out, f32::from_le_bytes),
            StoredDtype::F16 => decode(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            StoredDtype::Bf16 => decode(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }

    pub(crate) fn check(&self) {
        let row = self.cols.checked_mul(self.dtype.size());
        let want = row.and_then(|row| row.checked_mul(self.rows));
        assert!(
            want == Some(self.bytes.len()),
            "a {}×{} matrix of {:?} in {} bytes",
            self.rows,
            self.cols,
            self.dtype,
            self.bytes.len()
        );
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (out, element) in out.iter_mut().zip(elements) {
        *out = value(*element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_decode_exactly_at_any_alignment() {
        let values = [1.5f32, -0.25, f32::INFINITY, -0.0, 3.0, 1e-7];
        let halves: Vec<u8> = values
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        let mut shifted = vec![0u8];
        shifted.extend(&halves);
        let stored = Stored::new(&shifted[1..], StoredDtype::F16, 2, 3);
        let mut row = [0.0; 3];
        stored.decode_row(1, &mut row);
        assert_eq!(row[1], 3.0);
        assert_eq!(row[2], f16::from_f32(1e-7).to_f32());
        Stored::from_f32(&values, 3, 2).decode_row(1, &mut row[..2]);
        assert_eq!(&row[..2], &[f32::INFINITY, -0.0]);
    }

    #[test]
    #[should_panic(expected = "3×4 matrix")]
    fn bytes_of_another_shape_are_refused() {
        Stored::new(&[0; 20], StoredDtype::Bf16, 3, 4);
    }
}
