//! One weight file, or several with an index, cut as `save_pretrained` cuts them.

use std::collections::BTreeMap;

use durable::StagedFolder;
use formats::safetensors::write;
use serde_json::json;

use super::{MergeReport, MergedTensor};
use crate::error::Result;

/// Writes the tensors, in order, into files of at most `max_shard_bytes` (a larger tensor has a file of its own).
pub(super) fn write_weights(
    staged: &mut StagedFolder,
    tensors: Vec<MergedTensor<'_>>,
    max_shard_bytes: u64,
    mut report: MergeReport,
) -> Result<MergeReport> {
    let shards = split(tensors, max_shard_bytes);
    let count = shards.len();
    let mut weight_map: BTreeMap<String, String> = BTreeMap::new();
    let mut parameters = 0;
    for (number, shard) in shards.iter().enumerate() {
        let name = file_name(number, count);
        let mut file = staged.create_large(&name)?;
        write(
            &mut file,
            shard.iter().map(MergedTensor::to_write).collect(),
            &[("format", "pt")],
        )?;
        file.finish()?;
        parameters += shard
            .iter()
            .map(|tensor| tensor.stored.elements())
            .sum::<usize>();
        weight_map.extend(
            shard
                .iter()
                .map(|tensor| (tensor.name.clone(), name.clone())),
        );
        report.files.push(name);
    }
    if count > 1 {
        let index = json!({
            "metadata": { "total_parameters": parameters, "total_size": report.size_bytes },
            "weight_map": weight_map,
        });
        let text = serde_json::to_string_pretty(&index).unwrap_or_default() + "\n";
        staged.write("model.safetensors.index.json", text.as_bytes())?;
    }
    Ok(report)
}

fn file_name(number: usize, count: usize) -> String {
    if count <= 1 {
        return "model.safetensors".into();
    }
    format!("model-{:05}-of-{count:05}.safetensors", number + 1)
}

fn split(tensors: Vec<MergedTensor<'_>>, max_shard_bytes: u64) -> Vec<Vec<MergedTensor<'_>>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let size = tensor.stored.bytes.len() as u64;
        if filled > 0 && filled + size > max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}
