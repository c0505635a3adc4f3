//! What a side computes in.

use clap::ValueEnum;
use engine::shapes::ComputeDtype;
use kernels::Precision;
use lowrank::Compute;
use serde_json::Value;

const BFLOAT16: &str = "bfloat16";
const FLOAT32: &str = "float32";

/// By the names that torch has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    #[value(name = BFLOAT16)]
    Bf16,
    #[value(name = FLOAT32)]
    F32,
}

impl Dtype {
    /// As both sides' `--dtype` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => BFLOAT16,
            Self::F32 => FLOAT32,
        }
    }

    /// As tables and the machine's keys have it.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    pub(crate) fn precision(self) -> Precision {
        match self {
            Self::Bf16 => Precision::Bf16,
            Self::F32 => Precision::F32,
        }
    }

    pub(crate) fn for_engine(self) -> ComputeDtype {
        match self {
            Self::Bf16 => ComputeDtype::Bf16,
            Self::F32 => ComputeDtype::F32,
        }
    }

    pub(crate) fn for_api(self) -> Compute {
        match self {
            Self::Bf16 => Compute::Bf16,
            Self::F32 => Compute::F32,
        }
    }

    /// GFLOP/s of register loops, as the machine's side has them.
    pub(crate) fn peak(self, machine: &Value) -> Option<f64> {
        machine[format!("peak_{}_gflops", self.short())].as_f64()
    }
}
