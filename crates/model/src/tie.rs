//! A head that the config ties to the embedding although the files hold another: it is used as it is stored, as
//! transformers does (`PreTrainedModel.tie_weights` while it loads).

use formats::Dtype;
use formats::hf_config::HfConfig;
use formats::weights::{StoredTensor, WeightStore};

use crate::load::stored_tensor;
use crate::spec::DecoderSpec;

/// Elements that are compared at a time where types differ.
const COMPARED: usize = 1 << 14;

/// The config of the model that the files hold: untied, with a notice, where they have a head with other values than the
/// embedding's. `spec` is the config's own.
pub fn config_as_stored(
    config: HfConfig,
    spec: &DecoderSpec,
    weights: &WeightStore,
) -> (HfConfig, Option<String>) {
    let names = &spec.names;
    let stored = |path: &str| stored_tensor(weights, spec, &format!("{path}.weight"));
    let pair = stored(&names.head).zip(stored(&names.embedding));
    let Some((head, embedding)) = pair.filter(|_| spec.tie_word_embeddings) else {
        return (config, None);
    };
    if same_values(&head, &embedding) {
        return (config, None);
    }
    let notice = format!(
        "config.json ties `{}` to `{}`, but the files hold different values for them: both are used as they are \
         stored, and `tie_word_embeddings` counts as false",
        head.name, embedding.name
    );
    (untied(&config), Some(notice))
}

/// The same model with a head of its own.
pub fn untied(config: &HfConfig) -> HfConfig {
    let mut config = config.clone();
    config
        .raw
        .insert("tie_word_embeddings".into(), false.into());
    config
}

fn same_values(a: &StoredTensor, b: &StoredTensor) -> bool {
    if a.shape != b.shape {
        return false;
    }
    if a.dtype == b.dtype {
        // Both names of a torch file may stand for one storage.
        return a.bytes.as_ptr() == b.bytes.as_ptr() || *a.bytes == *b.bytes;
    }
    let values = |bytes: &[u8], dtype: Dtype| dtype.to_f32(bytes);
    let chunks = |tensor: &StoredTensor| COMPARED * tensor.dtype.size_bytes();
    let mut pairs = (a.bytes.chunks(chunks(a))).zip(b.bytes.chunks(chunks(b)));
    pairs.all(|(one, other)| values(one, a.dtype) == values(other, b.dtype))
}
