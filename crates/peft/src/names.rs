//! Tensor names of adapter files, of this and older versions, to the decoder's names.

use crate::adapted::PREFIX;

/// What a name in an adapter file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DiskName {
    /// A parameter, under the decoder's name.
    Parameter(String),
    /// What `bias: all` also writes of a wrapped module: frozen, never read.
    Ignored,
}

/// The decoder's name of a tensor: without PEFT's prefix, wrapper infixes and the adapter's own name.
pub(crate) fn parse(name: &str) -> DiskName {
    let plain = name.strip_prefix(PREFIX).unwrap_or(name);
    if plain.contains(".original_module.") {
        return DiskName::Ignored;
    }
    let parts: Vec<&str> = plain.split('.').collect();
    let mut kept: Vec<&str> = Vec::with_capacity(parts.len());
    let mut index = 0;
    while let Some(part) = parts.get(index) {
        index += 1;
        match *part {
            "base_layer" => {}
            "modules_to_save" => {
                // Saved from memory: `modules_to_save.default.weight`. From disk the name is left out.
                index += usize::from(parts.len() - index > 1 && parts[index] == "default");
            }
            "lora_A" | "lora_B" => {
                kept.push(part);
                // Saved from memory: `lora_A.default.weight`.
                index += usize::from(parts.len() - index == 2);
            }
            other => kept.push(other),
        }
    }
    DiskName::Parameter(kept.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_versions_are_read() {
        let cases = [
            (
                "base_model.model.h.0.q.lora_A.weight",
                "h.0.q.lora_A.weight",
            ),
            (
                "base_model.model.h.0.q.lora_B.default.weight",
                "h.0.q.lora_B.weight",
            ),
            ("h.0.q.lora_B.weight", "h.0.q.lora_B.weight"),
            ("base_model.model.h.0.q.base_layer.bias", "h.0.q.bias"),
            (
                "base_model.model.lm_head.modules_to_save.default.weight",
                "lm_head.weight",
            ),
            (
                "base_model.model.lm_head.modules_to_save.weight",
                "lm_head.weight",
            ),
            (
                "base_model.model.h.0.mlp.modules_to_save.default.up.weight",
                "h.0.mlp.up.weight",
            ),
            ("base_model.model.wte.weight", "wte.weight"),
        ];
        for (name, want) in cases {
            assert_eq!(parse(name), DiskName::Parameter(want.into()), "{name}");
        }
        let frozen = "base_model.model.h.0.q.original_module.bias";
        assert_eq!(parse(frozen), DiskName::Ignored);
    }
}
