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
