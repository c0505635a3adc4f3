//! torch's own layers, as nodes.

use formats::pyjson::float_repr;

use super::{Layer, Module};

/// `nn.Linear`.
pub fn linear(in_features: usize, out_features: usize, bias: bool) -> Module {
    let mut module = Module::new("Linear").with_parameter("weight", &[out_features, in_features]);
    module.extra = format!(
        "in_features={in_features}, out_features={out_features}, bias={}",
        python_bool(bias)
    );
    module.layer = Layer::Linear {
        in_features,
        out_features,
    };
    if bias {
        module = module.with_parameter("bias", &[out_features]);
    }
    module
}

/// Transformers' `Conv1D`, which always has a bias.
pub fn conv1d(in_features: usize, out_features: usize) -> Module {
    let mut module = Module::new("Conv1D")
        .with_parameter("weight", &[in_features, out_features])
        .with_parameter("bias", &[out_features]);
    module.extra = format!("nf={out_features}, nx={in_features}");
    module.layer = Layer::Conv1d {
        in_features,
        out_features,
    };
    module
}

/// `nn.Embedding`.
pub fn embedding(rows: usize, dim: usize, padding_idx: Option<u32>) -> Module {
    let mut module = Module::new("Embedding").with_parameter("weight", &[rows, dim]);
    module.extra = format!("{rows}, {dim}");
    if let Some(index) = padding_idx {
        module.extra.push_str(&format!(", padding_idx={index}"));
    }
    module.layer = Layer::Embedding { rows, dim };
    module
}

/// `nn.LayerNorm` with weight and bias.
pub fn layer_norm(dim: usize, eps: f32) -> Module {
    let mut module = Module::new("LayerNorm")
        .with_parameter("weight", &[dim])
        .with_parameter("bias", &[dim]);
    let eps = float_repr(widen(eps));
    module.extra = format!("({dim},), eps={eps}, elementwise_affine=True, bias=True");
    module
}

/// A family's own RMS norm, as `LlamaRMSNorm`.
pub fn rms_norm(class: &str, dim: usize, eps: f32) -> Module {
    let mut module = Module::new(class).with_parameter("weight", &[dim]);
    module.extra = format!("({dim},), eps={}", float_repr(widen(eps)));
    module
}

/// `nn.Dropout`.
pub fn dropout(probability: f64) -> Module {
    let mut module = Module::new("Dropout");
    module.extra = format!("p={}, inplace=False", float_repr(probability));
    module
}

/// `nn.ModuleList`.
pub fn list(count: usize, block: &Module) -> Module {
    let mut module = Module::new("ModuleList");
    module.layer = Layer::List;
    module.children = (0..count).map(|i| (i.to_string(), block.clone())).collect();
    module
}

/// `True` or `False`.
pub fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// The f64 with the digits that the f32 was read from: `1e-05` and not `9.999999747378752e-06`.
fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_prints_them() {
        let printed = |eps| rms_norm("Norm", 4, eps).extra;
        assert_eq!(printed(1e-5), "(4,), eps=1e-05");
        assert_eq!(printed(1e-4), "(4,), eps=0.0001");
        // Halfway between two texts of 17 digits, of which Python takes the even one.
        let tie = dropout(26_217.0 / f64::from(1 << 18));
        assert_eq!(tie.extra, "p=0.10000991821289062, inplace=False");
    }
}
