//! f32 tensors to and from a safetensors file.

use durable::StagedFolder;
use formats::Dtype;
use formats::safetensors::{TensorToWrite, write};
use formats::weights::WeightStore;

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
        let tensors = self
            .0
            .iter()
            .map(|(name, shape, bytes)| TensorToWrite::bytes(name, Dtype::F32, shape, bytes))
            .collect();
        let mut file = folder.create(name)?;
        write(&mut file, tensors, &[("format", "pt")])?;
        file.finish()?;
        Ok(())
    }
}

/// One f32 tensor of a file, which must have this shape.
pub(crate) fn f32_tensor(
    stored: &WeightStore,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f32>, TrainError> {
    let tensor = stored.get(name).filter(|tensor| tensor.dtype == Dtype::F32);
    let misfit = |found: Option<Vec<usize>>| TrainError::OptimizerState {
        name: name.to_owned(),
        want: shape.to_vec(),
        found,
    };
    let tensor = tensor.ok_or_else(|| misfit(None))?;
    if tensor.shape != shape {
        return Err(misfit(Some(tensor.shape.clone())));
    }
    tensor.to_f32().ok_or_else(|| misfit(None))
}
