//! What a model's products compute in: what was asked for, settled by the types that its weights are stored in.

use engine::shapes::ComputeDtype;
use formats::Dtype;
use formats::weights::WeightStore;

use crate::spec::DecoderSpec;

/// How the products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// bf16 where the CPU multiplies it and the weights are stored in it; else f32. Never rounds a stored weight.
    #[default]
    Auto,
    /// As torch in f32.
    F32,
    /// Inputs of products rounded to bf16, stored weights too.
    Bf16,
}

impl Compute {
    /// The type for a model with these weights, and a notice where it rounds them.
    ///
    /// * `best`: the narrowest type that the backend multiplies natively.
    pub fn settle(
        self,
        spec: &DecoderSpec,
        weights: &WeightStore,
        best: ComputeDtype,
    ) -> (ComputeDtype, Option<String>) {
        // Vectors, such as biases and norms, are no factors of a product.
        let wider = weights.iter().find(|tensor| {
            let is_factor = tensor.shape.len() > 1 && !spec.is_unread(&tensor.name);
            is_factor && tensor.dtype != Dtype::BF16
        });
        match (self, wider) {
            (Self::F32, _) | (Self::Auto, Some(_)) => (ComputeDtype::F32, None),
            (Self::Auto, None) => (best, None),
            (Self::Bf16, None) => (ComputeDtype::Bf16, None),
            (Self::Bf16, Some(tensor)) => {
                let notice = format!(
                    "compute_dtype bf16 rounds weights that are stored wider: `{}` is {:?}",
                    tensor.name, tensor.dtype
                );
                (ComputeDtype::Bf16, Some(notice))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ComputeDtype::{Bf16, F32};
    use formats::hf_config::HfConfig;
    use formats::safetensors::{TensorToWrite, write};

    use super::*;
    use crate::families::decoder_spec;

    fn stored(case: &str) -> (DecoderSpec, WeightStore) {
        let folder = testkit::golden(case).path("model");
        let config = HfConfig::open(&folder).expect("the golden's config");
        (
            decoder_spec(&config).expect("a known family"),
            WeightStore::open(&folder).expect("the golden's weights"),
        )
    }

    /// GPT-2 in bf16 as old versions saved it, each block with its mask.
    fn with_masks(weights: &WeightStore, mask: Dtype) -> WeightStore {
        let ones = vec![1; 64 * 64 * mask.size_bytes()];
        let names = ["transformer.h.0.attn.bias", "transformer.h.1.attn.bias"];
        let kept: Vec<_> = weights.iter().collect();
        let kept = kept
            .iter()
            .map(|one| TensorToWrite::bytes(&one.name, one.dtype, &one.shape, &one.bytes));
        let masks = names.map(|name| TensorToWrite::bytes(name, mask, &[1, 1, 64, 64], &ones));
        let folder = tempfile::tempdir().expect("tests may make folders");
        let path = folder.path().join("model.safetensors");
        let mut bytes = Vec::new();
        write(&mut bytes, kept.chain(masks).collect(), &[]).expect("tensors that fit");
        durable::write_atomic(&path, &bytes).expect("tests may write their folder");
        WeightStore::open_file(&path).expect("what was written")
    }

    #[test]
    fn a_stored_weight_is_rounded_on_request_only_and_then_it_is_said() {
        let (spec, narrow) = stored("llama/bf16");
        for best in [F32, Bf16] {
            assert_eq!(Compute::Auto.settle(&spec, &narrow, best), (best, None));
            assert_eq!(Compute::F32.settle(&spec, &narrow, best), (F32, None));
            assert_eq!(Compute::Bf16.settle(&spec, &narrow, best), (Bf16, None));
        }
        let (spec, wide) = stored("llama/all_linear");
        assert_eq!(Compute::Auto.settle(&spec, &wide, Bf16), (F32, None));
        let (compute, notice) = Compute::Bf16.settle(&spec, &wide, F32);
        assert_eq!(compute, Bf16);
        let notice = notice.expect("f32 is wider");
        assert!(notice.ends_with("`lm_head.weight` is F32"), "{notice}");
    }

    #[test]
    fn stored_masks_that_nobody_reads_decide_nothing() {
        let (spec, weights) = stored("gpt2/bf16");
        for mask in [Dtype::U8, Dtype::BOOL, Dtype::F32] {
            let weights = with_masks(&weights, mask);
            for compute in [Compute::Auto, Compute::Bf16] {
                assert_eq!(
                    compute.settle(&spec, &weights, Bf16),
                    (Bf16, None),
                    "{mask:?}"
                );
            }
        }
    }
}
