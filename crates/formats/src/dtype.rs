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

/// safetensors' name, torch's name, bytes.
const TABLE: [(Dtype, &str, &str, usize); 19] = [
    (BOOL, "BOOL", "bool", 1),
    (U8, "U8", "uint8", 1),
    (I8, "I8", "int8", 1),
    (F8_E5M2, "F8_E5M2", "float8_e5m2", 1),
    (F8_E4M3, "F8_E4M3", "float8_e4m3fn", 1),
    (F8_E8M0, "F8_E8M0", "float8_e8m0fnu", 1),
    (F8_E4M3FNUZ, "F8_E4M3FNUZ", "float8_e4m3fnuz", 1),
    (F8_E5M2FNUZ, "F8_E5M2FNUZ", "float8_e5m2fnuz", 1),
    (I16, "I16", "int16", 2),
    (U16, "U16", "uint16", 2),
    (F16, "F16", "float16", 2),
    (BF16, "BF16", "bfloat16", 2),
    (I32, "I32", "int32", 4),
    (U32, "U32", "uint32", 4),
    (F32, "F32", "float32", 4),
    (C64, "C64", "complex64", 8),
    (F64, "F64", "float64", 8),
    (I64, "I64", "int64", 8),
    (U64, "U64", "uint64", 8),
];

impl Dtype {
    fn row(self) -> &'static (Dtype, &'static str, &'static str, usize) {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("the table has every type")
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The name in `config.json`: `bfloat16` of `torch.bfloat16`.
    pub fn torch_name(self) -> &'static str {
        self.row().2
    }

    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        self.row().3
    }

    /// The type of a name in a safetensors header.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The type of torch's name, with or without `torch.`.
    pub fn from_torch_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        TABLE.iter().find(|row| row.2 == name).map(|row| row.0)
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
        let values = match self {
            F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| f32::from_le_bytes(b))
                .collect(),
            F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| half::f16::from_le_bytes(b).to_f32())
                .collect(),
            BF16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| half::bf16::from_le_bytes(b).to_f32())
                .collect(),
            F64 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| f64::from_le_bytes(b) as f32)
                .collect(),
            _ => return None,
        };
        Some(values)
    }

    /// `values` as little-endian bytes of this type, each rounded once to nearest even; `None` as for
    /// [`Dtype::to_f32`].
    pub fn from_f32(self, values: &[f32]) -> Option<Vec<u8>> {
        let bytes = match self {
            F32 => encode(values, f32::to_le_bytes),
            F16 => encode(values, |value| half::f16::from_f32(value).to_le_bytes()),
            BF16 => encode(values, |value| half::bf16::from_f32(value).to_le_bytes()),
            F64 => encode(values, |value| f64::from(value).to_le_bytes()),
            _ => return None,
        };
        Some(bytes)
    }
}

fn encode<const N: usize>(values: &[f32], to_bytes: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * N);
    for &value in values {
        bytes.extend_from_slice(&to_bytes(value));
    }
    bytes
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
