//! torch's own layers, as nodes.

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
    let eps = python_float(widen(eps));
    module.extra = format!("({dim},), eps={eps}, elementwise_affine=True, bias=True");
    module
}

/// A family's own RMS norm, as `LlamaRMSNorm`.
pub fn rms_norm(class: &str, dim: usize, eps: f32) -> Module {
    let mut module = Module::new(class).with_parameter("weight", &[dim]);
    module.extra = format!("({dim},), eps={}", python_float(widen(eps)));
    module
}

/// `nn.Dropout`.
pub fn dropout(probability: f64) -> Module {
    let mut module = Module::new("Dropout");
    module.extra = format!("p={}, inplace=False", python_float(probability));
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

/// Python's `repr` of a float.
pub fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific; // inf, NaN
    };
    let Ok(exponent) = exponent.parse::<i32>() else {
        return scientific;
    };
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        let whole = !plain.contains('.');
        return if whole { format!("{plain}.0") } else { plain };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_prints_them() {
        let cases = [
            (0.0, "0.0"),
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e-4, "0.0001"),
            (1e16, "1e+16"),
            (123_456.0, "123456.0"),
        ];
        for (value, want) in cases {
            assert_eq!(python_float(value), want);
        }
        assert_eq!(python_float(widen(1e-5)), "1e-05");
    }
}
