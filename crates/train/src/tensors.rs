//! f32 tensors to and from a safetensors file.

use std::path::{Path, PathBuf};

use durable::{Disk, Mapped, StagedFolder};
use formats::Dtype;
use formats::safetensors::{Header, TensorToWrite, write};

use crate::error::TrainError;

/// Named f32 tensors on their way into a file.
#[derive(Debug, Default)]
pub(crate) struct Tensors(Vec<(String, Vec<usize>, Vec<u8>)>);

impl Tensors {
    pub(crate) fn push(&mut self, name: String, shape: &[usize], values: &[f32]) {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.0.push((name, shape.to_vec(), bytes));
    }

    pub(crate) fn save(&self, folder: &mut StagedFolder, name: &str) -> Result<(), TrainError> {
        let tensors = self.0.iter();
        let tensors = tensors
            .map(|(name, shape, bytes)| TensorToWrite::bytes(name, Dtype::F32, shape, bytes))
            .collect();
        let mut file = folder.create(name)?;
        write(&mut file, tensors, &[("format", "pt")])?;
        Ok(file.finish()?)
    }
}

/// Such a file.
pub(crate) struct Stored {
    path: PathBuf,
    bytes: Mapped,
    header: Header,
}

impl Stored {
    pub(crate) fn open(disk: &Disk, path: &Path) -> Result<Self, TrainError> {
        let bytes = disk.map(path)?;
        let header = Header::parse(&bytes).map_err(|fault| TrainError::ResumeFile {
            path: path.to_owned(),
            problem: fault.to_string(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            header,
        })
    }

    /// One tensor, which must have this shape.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TrainError> {
        let found = self.header.get(name);
        let fits = found.filter(|tensor| tensor.dtype == Dtype::F32 && *tensor.shape == *shape);
        let bytes = fits.and_then(|tensor| self.bytes.get(tensor.range.clone()));
        bytes
            .and_then(|bytes| Dtype::F32.to_f32(&bytes))
            .ok_or_else(|| TrainError::OptimizerState {
                path: self.path.clone(),
                name: name.to_owned(),
                want: shape.to_vec(),
                found: found.map(|tensor| tensor.shape.to_vec()),
            })
    }
}
