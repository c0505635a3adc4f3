//! What `inspect` and the start of a run say of an adapter.

use crate::plan::AdapterPlan;

/// Trained and all parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Elements that learn.
    pub trainable: u64,
    /// Elements of the model with its adapter, a tied matrix counted once.
    pub all: u64,
}

/// Counts as PEFT's `get_nb_trainable_parameters()`.
pub fn counts(plan: &AdapterPlan) -> Counts {
    let named = plan.tree.named_parameters();
    Counts {
        trainable: plan
            .parameters
            .iter()
            .map(|parameter| parameter.count() as u64)
            .sum(),
        all: named.iter().map(|(_, parameter)| parameter.count()).sum(),
    }
}

/// The line of PEFT's `print_trainable_parameters()`.
pub fn trainable_line(plan: &AdapterPlan) -> String {
    let Counts { trainable, all } = counts(plan);
    let percent = 100.0 * trainable as f64 / all as f64;
    format!(
        "trainable params: {} || all params: {} || trainable%: {percent:.4}",
        grouped(trainable),
        grouped(all)
    )
}

/// `1304684544` as `1,304,684,544`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && index % 3 == first % 3 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What `inspect` shows, for programs.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Inspection {
    /// Family.
    pub model_type: String,
    /// Elements that learn.
    pub trainable: u64,
    /// All elements.
    pub all: u64,
    /// Per entry of `target_modules`, the modules that it caught.
    pub target_modules: Vec<EntryReport>,
    /// Every trained value.
    pub parameters: Vec<ParameterReport>,
    /// Modules with a trained copy.
    pub modules_to_save: Vec<String>,
    /// Warnings.
    pub notices: Vec<String>,
}

/// One entry of `target_modules`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EntryReport {
    /// As written.
    pub entry: String,
    /// Paths.
    pub modules: Vec<String>,
}

/// One trained value.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ParameterReport {
    /// PEFT's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Everything that a plan says of itself.
pub fn inspect(plan: &AdapterPlan) -> Inspection {
    let Counts { trainable, all } = counts(plan);
    let entries = plan.coverage.iter().map(|coverage| EntryReport {
        entry: coverage.entry.clone(),
        modules: coverage.modules.clone(),
    });
    let parameters = plan.parameters.iter().map(|parameter| ParameterReport {
        name: parameter.peft_name.clone(),
        shape: parameter.shape.clone(),
    });
    Inspection {
        model_type: plan.model_type.clone(),
        trainable,
        all,
        target_modules: entries.collect(),
        parameters: parameters.collect(),
        modules_to_save: plan.saved_modules.clone(),
        notices: plan.notices.clone(),
    }
}
