//! Cutting a model into several files, as `save_pretrained` does.

use std::cmp::Ordering;

use crate::pyjson::{Json, Style, to_string};

/// What `save_pretrained` of transformers 5 takes when nothing is said: 50 GB.
pub const MAX_SHARD_BYTES: u64 = 50_000_000_000;
/// The index beside several shards.
pub const INDEX_NAME: &str = "model.safetensors.index.json";

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// `model.safetensors`, or `model-00001-of-00002.safetensors`.
    pub file_name: String,
    /// Places in the list of sizes.
    pub tensors: Vec<usize>,
}

/// The order in which `save_pretrained` lays tensors, `dot_natural_key` of transformers: name by name, the number at the
/// end of one counting as a number, so that `layers.2` comes before `layers.10`, and numbers alone first.
pub fn natural_order(left: &str, right: &str) -> Ordering {
    left.split('.').map(part).cmp(right.split('.').map(part))
}

/// Whether there is a name, the name, the number behind it: as text, since it may be of any length.
fn part(text: &str) -> (bool, &str, Option<(usize, &str)>) {
    let name = text.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let digits = &text[name.len()..];
    let number = digits.trim_start_matches('0');
    let number = (!digits.is_empty()).then_some((number.len(), number));
    (!name.is_empty() || digits.is_empty(), name, number)
}

/// Cuts tensors of these sizes, in order, into files of at most `max_bytes` of tensors each, where a tensor that
/// is larger gets a file of its own. The cuts are those of `huggingface_hub`, which lays a large tensor's file
/// before the one being filled.
pub fn split(sizes: &[u64], max_bytes: u64) -> Vec<Shard> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let (mut part, mut part_bytes) = (Vec::new(), 0_u64);
    for (index, &size) in sizes.iter().enumerate() {
        if size > max_bytes {
            parts.push(vec![index]);
            continue;
        }
        if part_bytes.saturating_add(size) > max_bytes {
            parts.push(std::mem::take(&mut part));
            part_bytes = 0;
        }
        part.push(index);
        part_bytes += size;
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(part);
    }
    let count = parts.len();
    let file_name = |index: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let shards = parts.into_iter().enumerate();
    shards
        .map(|(index, tensors)| Shard {
            file_name: file_name(index),
            tensors,
        })
        .collect()
}

/// The text of [`INDEX_NAME`]: which file holds each tensor.
///
/// * `total_parameters`: numbers of the model, a tied one counted once.
/// * `total_size`: bytes of the tensors of all files.
pub fn index_json<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
    total_parameters: u64,
    total_size: u64,
) -> String {
    let metadata = Json::object([
        ("total_parameters", total_parameters.into()),
        ("total_size", total_size.into()),
    ]);
    let files = files
        .into_iter()
        .map(|(tensor, file)| (tensor, file.into()));
    let index = Json::object([("metadata", metadata), ("weight_map", Json::object(files))]);
    to_string(&index, Style::PRETTY) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cuts_are_those_of_huggingface_hub() {
        // split_torch_state_dict_into_shards of huggingface_hub over uint8 tensors of these sizes, at most 10.
        let want: [&[usize]; 7] = [&[0], &[1], &[2, 3], &[5], &[4, 6], &[7, 8], &[9]];
        let shards = split(&[3, 9, 2, 4, 5, 12, 1, 6, 4, 10], 10);
        let found: Vec<&[usize]> = shards.iter().map(|shard| &*shard.tensors).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn layers_come_in_the_order_of_their_numbers() {
        // As `sorted(names, key=dot_natural_key)` gives them.
        let want = [
            "h.2.a.weight",
            "h.10.a",
            "h.10.a.weight",
            "h.10.a2.weight",
            "h.10.a10.weight",
            "h.10.b.weight",
            "h.a.weight",
            "lm_head.weight",
        ];
        let mut names = want;
        names.sort_unstable();
        assert_ne!(names, want);
        names.sort_by(|left, right| natural_order(left, right));
        assert_eq!(names, want);
    }

    #[test]
    fn one_file_has_no_number() {
        let name = |sizes: &[u64]| {
            split(sizes, 10)
                .into_iter()
                .map(|shard| shard.file_name)
                .collect::<Vec<_>>()
        };
        assert_eq!(name(&[4, 6]), ["model.safetensors"]);
        assert_eq!(name(&[]), ["model.safetensors"]);
        let two = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(name(&[4, 7]), two);
    }

    #[test]
    fn the_index_is_sorted_text() {
        let want = "{\n  \"metadata\": {\n    \"total_parameters\": 3,\n    \"total_size\": 12\n  },\n  \"weight_map\": {\n    \"a\": \"x\",\n    \"b\": \"y\"\n  }\n}\n";
        assert_eq!(index_json([("b", "y"), ("a", "x")], 3, 12), want);
    }
}
