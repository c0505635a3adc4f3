//! A record of the pickle and a storage of the zip make a tensor.

use durable::{Mapped, MappedSlice};

use super::pickle::{Storage, TensorRecord};
use super::zip::Archive;
use super::{TorchFault, TorchTensor};

/// Makes tensors of one file.
pub(super) struct Gather<'a> {
    file: &'a Mapped,
    archive: &'a Archive<'a>,
    prefix: &'a str,
    /// Bytes that may still be copied into order.
    copy_bytes_left: usize,
}

impl<'a> Gather<'a> {
    pub(super) fn new(file: &'a Mapped, archive: &'a Archive<'a>, prefix: &'a str) -> Self {
        Self {
            file,
            archive,
            prefix,
            copy_bytes_left: file.as_ref().len(),
        }
    }

    pub(super) fn tensor(&mut self, record: TensorRecord) -> Result<TorchTensor, TorchFault> {
        let storage = self.storage(&record.name, &record.storage)?;
        let TensorRecord {
            name,
            storage: Storage { dtype, .. },
            offset,
            shape,
            strides,
        } = record;
        let beyond = || TorchFault::Beyond {
            tensor: name.clone(),
            shape: shape.clone(),
            strides: strides.clone(),
            offset,
        };
        let size = dtype.tensor_bytes(&shape).ok_or_else(beyond)?;
        let width = dtype.size_bytes();
        let start = offset
            .checked_mul(width)
            .filter(|start| *start <= storage.len());
        let start = start.ok_or_else(beyond)?;
        let rest = storage.get(start..storage.len()).ok_or_else(beyond)?;
        let span = span(&shape, &strides).and_then(|span| span.checked_mul(width));
        if span.is_none_or(|span| span > rest.len()) {
            return Err(beyond());
        }
        let bytes = if is_row_major(&shape, &strides) {
            rest.get(0..size).ok_or_else(beyond)?
        } else {
            let tight = size <= rest.len() && size <= self.copy_bytes_left;
            if !tight {
                return Err(TorchFault::NotContiguous {
                    tensor: name,
                    shape,
                    strides,
                });
            }
            self.copy_bytes_left -= size;
            MappedSlice::from_vec(in_order(&rest, &shape, &strides, width))
        };
        Ok(TorchTensor {
            name,
            dtype,
            shape,
            bytes,
        })
    }

    fn storage(&self, tensor: &str, storage: &Storage) -> Result<MappedSlice, TorchFault> {
        let entry = self
            .archive
            .get(&format!("{}/data/{}", self.prefix, storage.key));
        let slice = entry.and_then(|range| self.file.get(range));
        let slice = slice.ok_or_else(|| TorchFault::MissingStorage {
            tensor: tensor.to_owned(),
            storage: storage.key.clone(),
        })?;
        let want = storage.elements.saturating_mul(storage.dtype.size_bytes());
        if want == slice.len() {
            return Ok(slice);
        }
        Err(TorchFault::StorageSize {
            tensor: tensor.to_owned(),
            storage: storage.key.clone(),
            want,
            found: slice.len(),
        })
    }
}

/// Elements from the first to behind the last; 0 for an empty tensor; `None` on overflow.
fn span(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .zip(strides)
        .try_fold(1_usize, |span, (side, stride)| {
            span.checked_add((side - 1).checked_mul(*stride)?)
        })
}

/// The stride of a side of 1 means nothing, and an empty tensor is always in order.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut want = 1_usize;
    for (&side, &stride) in shape.iter().zip(strides).rev() {
        if side != 1 && stride != want {
            return false;
        }
        want = want.saturating_mul(side);
    }
    true
}

/// The elements of a strided view, row-major. The caller has checked that the view lies inside `bytes`.
fn in_order(bytes: &[u8], shape: &[usize], strides: &[usize], width: usize) -> Vec<u8> {
    let elements = shape.iter().product::<usize>();
    let mut out = Vec::with_capacity(elements * width);
    let mut index = vec![0_usize; shape.len()];
    for _ in 0..elements {
        let at: usize = index
            .iter()
            .zip(strides)
            .map(|(i, stride)| i * stride * width)
            .sum();
        out.extend_from_slice(bytes.get(at..at + width).unwrap_or_default());
        for (i, side) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *side {
                break;
            }
            *i = 0;
        }
    }
    out
}
