//! Tensors of the base model, under whichever name its files give them.

use formats::weights::{StoredTensor, WeightStore};
use model::spec::DecoderSpec;
use model::stored_tensor;

/// A file's tensor name as the whole model has it.
pub(crate) fn full_name(spec: &DecoderSpec, name: &str) -> String {
    let head = &spec.names.head;
    let whole = name.starts_with(spec.prefix())
        || name
            .strip_prefix(head.as_str())
            .is_some_and(|rest| rest.starts_with('.'));
    if whole {
        name.to_owned()
    } else {
        format!("{}{name}", spec.prefix())
    }
}

/// The stored values that a parameter of the plain model begins with: a tied head's are the embedding's.
pub(crate) fn origin(
    weights: &WeightStore,
    spec: &DecoderSpec,
    name: &str,
) -> Option<StoredTensor> {
    if spec.is_tied_head(name) {
        return stored_tensor(weights, spec, &format!("{}.weight", spec.names.embedding));
    }
    stored_tensor(weights, spec, name)
}
