//! Types of stored numbers.

/// The element type of a stored tensor. The order is that of the safetensors crate, which its files follow:
/// larger alignment last. Types below a byte (F4, F6) are refused when read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names of the safetensors format")]
#[expect(non_camel_case_types, reason = "the names of the safetensors format")]
pub enum Dtype {
    BOOL,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

use Dtype::{
    BF16, BOOL, C64, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0, F16, F32, F64, I8, I16,
    I32, I64, U8, U16, U32, U64,
};

/// safetensors' name, bytes.
const TABLE: [(Dtype, &str, usize); 19] = [
    (BOOL, "BOOL", 1),
    (U8, "U8", 1),
    (I8, "I8", 1),
    (F8_E5M2, "F8_E5M2", 1),
    (F8_E4M3, "F8_E4M3", 1),
    (F8_E8M0, "F8_E8M0", 1),
    (F8_E4M3FNUZ, "F8_E4M3FNUZ", 1),
    (F8_E5M2FNUZ, "F8_E5M2FNUZ", 1),
    (I16, "I16", 2),
    (U16, "U16", 2),
    (F16, "F16", 2),
    (BF16, "BF16", 2),
    (I32, "I32", 4),
    (U32, "U32", 4),
    (F32, "F32", 4),
    (C64, "C64", 8),
    (F64, "F64", 8),
    (I64, "I64", 8),
    (U64, "U64", 8),
];

impl Dtype {
    fn row(self) -> &'static (Dtype, &'static str, usize) {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("the table has every type")
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        self.row().2
    }

    /// The type of a name in a safetensors header.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Bytes of a tensor; `None` when that is more than a `usize` holds.
    pub fn tensor_bytes(self, shape: &[usize]) -> Option<usize> {
        let elements = shape
            .iter()
            .try_fold(1_usize, |product, &side| product.checked_mul(side))?;
        elements.checked_mul(self.size_bytes())
    }

    /// The values of little-endian `bytes` as f32 (an f64 is rounded); `None` for a type that is not one of
    /// F32, F16, BF16, F64. A tail shorter than one element is left out.
    pub fn to_f32(self, bytes: &[u8]) -> Option<Vec<f32>> {
        let mut values = vec![0.0; bytes.len() / self.size_bytes()];
        self.read_f32(bytes, &mut values)?;
        Some(values)
    }

    /// As [`Dtype::to_f32`], into as many `values` as there are elements; others stay.
    pub fn read_f32(self, bytes: &[u8], values: &mut [f32]) -> Option<()> {
        match self {
            F32 => decode(bytes, values, f32::from_le_bytes),
            F16 => decode(bytes, values, |b| half::f16::from_le_bytes(b).to_f32()),
            BF16 => decode(bytes, values, |b| half::bf16::from_le_bytes(b).to_f32()),
            F64 => decode(bytes, values, |b| f64::from_le_bytes(b) as f32),
            _ => return None,
        }
        Some(())
    }

    /// `values` as little-endian bytes of this type, each rounded once to nearest even; `None` as for
    /// [`Dtype::to_f32`].
    pub fn from_f32(self, values: &[f32]) -> Option<Vec<u8>> {
        let mut bytes = vec![0; values.len().checked_mul(self.size_bytes())?];
        self.write_f32(values, &mut bytes)?;
        Some(bytes)
    }

    /// As [`Dtype::from_f32`], into as many `bytes` as the values take; others stay.
    pub fn write_f32(self, values: &[f32], bytes: &mut [u8]) -> Option<()> {
        match self {
            F32 => encode(values, bytes, f32::to_le_bytes),
            F16 => encode(values, bytes, |v| half::f16::from_f32(v).to_le_bytes()),
            BF16 => encode(values, bytes, |v| bf16_bits(v).to_le_bytes()),
            F64 => encode(values, bytes, |v| f64::from(v).to_le_bytes()),
            _ => return None,
        }
        Some(())
    }

    /// Whether no value in `bytes` is infinite or NaN; `None` as for [`Dtype::to_f32`].
    pub fn all_finite(self, bytes: &[u8]) -> Option<bool> {
        Some(match self {
            F32 => all(bytes, |b| f32::from_le_bytes(b).is_finite()),
            F16 => all(bytes, |b| half::f16::from_le_bytes(b).is_finite()),
            BF16 => all(bytes, |b| half::bf16::from_le_bytes(b).is_finite()),
            F64 => all(bytes, |b| f64::from_le_bytes(b).is_finite()),
            _ => return None,
        })
    }
}

fn decode<const N: usize>(bytes: &[u8], values: &mut [f32], from_bytes: impl Fn([u8; N]) -> f32) {
    for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = from_bytes(bytes);
    }
}

fn encode<const N: usize>(values: &[f32], bytes: &mut [u8], to_bytes: impl Fn(f32) -> [u8; N]) {
    for (bytes, &value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = to_bytes(value);
    }
}

/// Every element is looked at: a loop that may leave early is not vectorised.
fn all<const N: usize>(bytes: &[u8], is: impl Fn([u8; N]) -> bool) -> bool {
    bytes
        .as_chunks()
        .0
        .iter()
        .fold(true, |all, &bytes| all & is(bytes))
}

/// As `half::bf16::from_f32`, which branches on NaN for each value; a choice of two results is vectorised.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let nan = bits >> 16 | 0x40;
    let near = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if value.is_nan() { nan } else { near }) as u16
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_as_the_library_rounds() {
        let every = (0..=u32::MAX).step_by(4099).map(f32::from_bits);
        let ties = (0..=u16::MAX).map(|high| f32::from_bits(u32::from(high) << 16 | 0x8000));
        for value in every.chain(ties) {
            let want = half::bf16::from_f32(value).to_bits();
            assert_eq!(bf16_bits(value), want, "{value:e}");
        }
    }

    #[test]
    fn one_value_out_of_range_is_seen() {
        for dtype in [F32, F16, BF16, F64] {
            let mut values = vec![1.0; 37];
            let bytes = dtype.from_f32(&values).expect("a float");
            assert_eq!(dtype.all_finite(&bytes), Some(true), "{dtype}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                values[36] = bad;
                let bytes = dtype.from_f32(&values).expect("a float");
                assert_eq!(dtype.all_finite(&bytes), Some(false), "{dtype} {bad}");
            }
        }
        assert_eq!(Dtype::I32.all_finite(&[0; 4]), None);
    }
}
