//! torch's `Module.__repr__` and `ModuleList.__repr__`.

use std::fmt;

use super::{Layer, Module};

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extra: Vec<&str> = self.extra.lines().collect();
        write!(f, "{}(", self.class)?;
        if let ([line], true) = (extra.as_slice(), self.children.is_empty()) {
            return write!(f, "{line})");
        }
        let children = match self.layer {
            Layer::List => collapsed(self),
            _ => named(self),
        };
        if extra.is_empty() && children.is_empty() {
            return f.write_str(")");
        }
        for line in extra
            .iter()
            .copied()
            .chain(children.iter().flat_map(|text| text.lines()))
        {
            write!(f, "\n  {line}")?;
        }
        f.write_str("\n)")
    }
}

fn named(module: &Module) -> Vec<String> {
    let children = module.children.iter();
    children
        .map(|(name, child)| format!("({name}): {child}"))
        .collect()
}

/// Runs of equal neighbours as one: `(0-23): 24 x BloomBlock(`.
fn collapsed(list: &Module) -> Vec<String> {
    let mut runs: Vec<(usize, usize, String)> = Vec::new();
    for (index, (_, child)) in list.children.iter().enumerate() {
        let text = child.to_string();
        match runs.last_mut() {
            Some((_, end, last)) if *last == text => *end = index,
            _ => runs.push((index, index, text)),
        }
    }
    runs.into_iter().map(run_text).collect()
}

fn run_text((start, end, text): (usize, usize, String)) -> String {
    if start == end {
        return format!("({start}): {text}");
    }
    format!("({start}-{end}): {} x {text}", end - start + 1)
}
