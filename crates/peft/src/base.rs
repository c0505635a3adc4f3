//! Tensors of the base model, under whichever name its files give them.

use formats::weights::{StoredTensor, WeightStore};
use model::spec::DecoderSpec;

/// The first step of block paths: `transformer.` or `model.`.
fn prefix(spec: &DecoderSpec) -> &str {
    let end = spec.names.layers.find('.').map_or(0, |dot| dot + 1);
    spec.names.layers.get(..end).unwrap_or_default()
}

/// The tensor of a parameter; files of the bare base model lack the prefix.
pub(crate) fn base_tensor(
    weights: &WeightStore,
    spec: &DecoderSpec,
    name: &str,
) -> Option<StoredTensor> {
    let bare = name.strip_prefix(prefix(spec));
    weights.get(name).or_else(|| weights.get(bare?))
}

/// A file's tensor name as the whole model has it.
pub(crate) fn full_name(spec: &DecoderSpec, name: &str) -> String {
    let head = &spec.names.head;
    let whole = name.starts_with(prefix(spec))
        || name
            .strip_prefix(head.as_str())
            .is_some_and(|rest| rest.starts_with('.'));
    if whole {
        name.to_owned()
    } else {
        format!("{}{name}", prefix(spec))
    }
}

/// The stored values that a parameter of the plain model begins with: a tied head's are the embedding's.
pub(crate) fn origin(
    weights: &WeightStore,
    spec: &DecoderSpec,
    name: &str,
) -> Option<StoredTensor> {
    if spec.is_tied_head(name) {
        return base_tensor(weights, spec, &format!("{}.weight", spec.names.embedding));
    }
    base_tensor(weights, spec, name)
}
