//! Which instructions this processor has.

/// An instruction set that kernels are written for, each including those before it.
///
/// All give the same bits for the same input, but for subnormal sums of bf16 products where the instruction is emulated (see
/// [`mod@crate::gemm`]), so that forcing a lower one
/// is a test, not a different model. Processors other than x86-64 run [`Isa::Scalar`], whose
/// loops the compiler vectorises (NEON on Arm).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain loops.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with the bf16 dot product.
    Avx512Bf16,
}

impl Isa {
    /// All, lowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// By its name in any case: `scalar`, `avx2`, `avx512`, `avx512bf16`.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|isa| format!("{isa:?}").eq_ignore_ascii_case(name))
    }

    /// The highest that this processor has.
    pub fn detect() -> Self {
        detect()
    }

    /// Those that this processor can run, lowest first.
    pub fn available() -> Vec<Self> {
        let best = Self::detect();
        Self::ALL.into_iter().filter(|isa| *isa <= best).collect()
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    if avx512 && is_x86_feature_detected!("avx512bf16") {
        Isa::Avx512Bf16
    } else if avx512 {
        Isa::Avx512
    } else if avx2 {
        Isa::Avx2
    } else {
        Isa::Scalar
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Scalar
}

#[cfg(test)]
mod tests {
    use super::Isa;

    #[test]
    fn every_instruction_set_is_found_by_its_name() {
        let names = ["scalar", "avx2", "AVX512", "avx512bf16"];
        assert_eq!(names.map(Isa::named), Isa::ALL.map(Some));
        assert_eq!(Isa::named("avx"), None);
    }
}
