//! One weight file, or several with an index, cut as `save_pretrained` cuts them.

use durable::StagedFolder;
use formats::safetensors::write;
use formats::sharding::{INDEX_NAME, index_json, natural_order, split};

use super::{MergeReport, MergedTensor};
use crate::error::Result;

/// Writes the tensors into files of at most `max_shard_bytes` (a larger tensor has a file of its own).
pub(super) fn write_weights(
    staged: &mut StagedFolder,
    mut tensors: Vec<MergedTensor<'_>>,
    max_shard_bytes: u64,
    mut report: MergeReport,
) -> Result<MergeReport> {
    tensors.sort_by(|left, right| natural_order(&left.name, &right.name));
    let sizes = tensors
        .iter()
        .map(|tensor| tensor.stored.bytes.len() as u64);
    let shards = split(&sizes.collect::<Vec<_>>(), max_shard_bytes);
    for shard in &shards {
        let mut file = staged.create_large(&shard.file_name)?;
        let inside = shard.tensors.iter().map(|&at| tensors[at].to_write());
        write(&mut file, inside.collect(), &[("format", "pt")])?;
        file.finish()?;
        report.files.push(shard.file_name.clone());
    }
    if shards.len() > 1 {
        let parameters = tensors.iter().map(|tensor| tensor.stored.elements() as u64);
        let files = shards.iter().flat_map(|shard| {
            let names = shard.tensors.iter().map(|&at| tensors[at].name.as_str());
            names.map(|name| (name, shard.file_name.as_str()))
        });
        let text = index_json(files, parameters.sum(), report.size_bytes);
        staged.write(INDEX_NAME, text.as_bytes())?;
    }
    Ok(report)
}
