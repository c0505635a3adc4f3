//! `cargo xtask strangers`: adapters that strangers published, against the shapes of the bases they name.

use std::path::Path;

use anyhow::{Result, ensure};
use formats::hf_config::HfConfig;
use formats::weights::WeightStore;
use model::families::{decoder_spec, module_tree};
use peft::{BaseModel, PeftError, read_adapter};

use super::places::shared_inputs;

/// Adapter, the published config of a base whose shapes it was made for (or nearest to), and whether it loads there.
const ADAPTERS: [(&str, &str, bool); 8] = [
    ("bloom-560m-qkv-r8", "bloom__bloom-560m", true),
    ("gpt2-c_attn-c_proj-r8", "gpt2__mlc-gpt2", true),
    ("qwen2.5-3b-trainer-checkpoint", "qwen2__Qwen2.5-3B", true),
    ("opt-125m-bf16-r16", "opt__opt-125m", false),
    ("bloom-560m-oldformat-bin", "bloom__bloom-560m", false),
    ("nan-tensors", "bloom__bloom-560m", false),
    ("tutorial-loraA", "bloom__bloom-560m", false),
    ("tutorial-loraB", "bloom__bloom-560m", false),
];

/// Prints what became of each. `crates/peft/tests/adapter_files.rs` holds the same list with what must come out.
pub(crate) fn strangers() -> Result<()> {
    let inputs = shared_inputs()?;
    println!("| adapter | tensors in the file | base | what happens |\n|---|---|---|---|");
    let mut others = Vec::new();
    for (adapter, base, loads) in ADAPTERS {
        let folder = inputs.join("adapters").join(adapter);
        let config = inputs.join("configs").join(format!("{base}.json"));
        for needed in [&folder.join("adapter_config.json"), &config] {
            ensure!(needed.is_file(), "no `{}`", needed.display());
        }
        let stored = WeightStore::open_adapter(&folder).map(|store| store.iter().count());
        let stored = stored.map_or_else(|_| "—".to_owned(), |count| count.to_string());
        let found = read(&folder, &config);
        if found.is_ok() != loads {
            others.push(adapter);
        }
        let outcome = match found {
            Ok(used) => format!("loads: {used} tensors used"),
            Err(error) => format!("refused: {}", reason(&error, &inputs)),
        };
        println!("| {adapter} | {stored} | {base} | {outcome} |");
    }
    ensure!(others.is_empty(), "other than it should be: {others:?}");
    Ok(())
}

fn read(adapter: &Path, config: &Path) -> Result<usize, PeftError> {
    let config = HfConfig::open_file(config)?;
    let (spec, tree) = (decoder_spec(&config)?, module_tree(&config)?);
    let base = BaseModel {
        spec: &spec,
        tree: &tree,
        weights: None,
        any_base: false,
    };
    Ok(read_adapter(adapter, base)?.values.len())
}

/// First line, without this machine's folders.
fn reason(error: &PeftError, inputs: &Path) -> String {
    let text = error.to_string().replace(&*inputs.to_string_lossy(), "…");
    text.lines().next().unwrap_or_default().to_owned()
}
