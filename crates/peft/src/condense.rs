//! PEFT's `_find_minimal_target_modules`: a long list of full names becomes the few endings that say the same.

use std::collections::BTreeSet;

use model::tree::ModuleTree;

use crate::matching::ends_dotted;

/// `MIN_TARGET_MODULES_FOR_OPTIMIZATION` of PEFT: shorter lists stay as they are.
const SHORTEST: usize = 20;

/// The list, or fewer endings that catch exactly the same modules.
pub(crate) fn condensed(names: Vec<String>, tree: &ModuleTree) -> Vec<String> {
    let unique: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    if unique.len() < SHORTEST || unique.contains("") {
        return names;
    }
    let modules = tree.named_modules();
    let caught = |path: &str| {
        unique
            .iter()
            .any(|name| path == *name || ends_dotted(path, name))
    };
    let others = modules.iter().filter(|(path, _)| !caught(path));
    let taken: BTreeSet<String> = others.flat_map(|(path, _)| endings(path)).collect();
    let mut targets: Vec<(Vec<String>, &str)> =
        unique.iter().map(|name| (endings(name), *name)).collect();
    targets.sort();
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for (endings, target) in targets {
        let covered = |kept: &BTreeSet<String>| kept.iter().any(|end| ends_dotted(target, end));
        let free = |end: &&String| !kept.contains(*end) && !taken.contains(*end);
        if let Some(shortest) = endings.iter().find(free).filter(|_| !covered(&kept)) {
            kept.insert(shortest.clone());
        }
    }
    if kept.is_empty() || kept.len() >= unique.len() {
        return names;
    }
    kept.into_iter().collect()
}

/// Of `a.b.c`: `c`, `b.c`, `a.b.c`.
fn endings(path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('.').collect();
    (0..parts.len())
        .rev()
        .map(|start| parts[start..].join("."))
        .collect()
}
