//! What a model's products compute in: what was asked for, settled by the types that its weights are stored in.

use engine::shapes::ComputeDtype;
use formats::Dtype;
use formats::weights::WeightStore;

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
        weights: &WeightStore,
        best: ComputeDtype,
    ) -> (ComputeDtype, Option<String>) {
        // Vectors, such as biases and norms, are no factors of a product.
        let wider = weights
            .iter()
            .find(|tensor| tensor.shape.len() > 1 && tensor.dtype != Dtype::BF16);
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

    use super::*;

    fn stored(case: &str) -> WeightStore {
        let folder = testkit::golden(case).path("model");
        WeightStore::open(&folder).expect("the golden's weights")
    }

    #[test]
    fn a_stored_weight_is_rounded_on_request_only_and_then_it_is_said() {
        let narrow = stored("llama/bf16");
        for best in [F32, Bf16] {
            assert_eq!(Compute::Auto.settle(&narrow, best), (best, None));
            assert_eq!(Compute::F32.settle(&narrow, best), (F32, None));
            assert_eq!(Compute::Bf16.settle(&narrow, best), (Bf16, None));
        }
        let wide = stored("llama/all_linear");
        assert_eq!(Compute::Auto.settle(&wide, Bf16), (F32, None));
        let (compute, notice) = Compute::Bf16.settle(&wide, F32);
        assert_eq!(compute, Bf16);
        let notice = notice.expect("f32 is wider");
        assert!(notice.ends_with("`lm_head.weight` is F32"), "{notice}");
    }
}
