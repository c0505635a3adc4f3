//! `lowrank inspect`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use lowrank::{Inspection, inspect};

use crate::flags::LoraFlags;
use crate::output::{self, say};
use crate::run_file::RunFile;

/// Shows a model: named parameters, module tree, what an adapter would train. Reads no weights.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Model folder; its `config.json` is enough.
    #[arg(long)]
    model: PathBuf,
    /// Adapter folder, whose configuration is put on the model.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// List the named parameters: name, shape, trained or not.
    #[arg(long)]
    names: bool,
    /// Print the module tree, as torch does.
    #[arg(long)]
    tree: bool,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    lora: LoraFlags,
}

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let run = RunFile {
        lora: args.lora.lora.clone(),
        ..RunFile::default()
    };
    let config = (!args.lora.lora.is_empty())
        .then(|| run.lora_config())
        .transpose()?;
    let found = inspect(&args.model, args.adapter.as_deref(), config.as_ref())?;
    found
        .notices
        .iter()
        .for_each(|notice| say(&format!("note: {notice}")));
    if args.json {
        return output::json(&found);
    }
    if args.names {
        for parameter in &found.parameters {
            let trained = if parameter.trained { "  trained" } else { "" };
            output::print(&format!(
                "{} {:?}{trained}",
                parameter.name, parameter.shape
            ))?;
        }
    }
    if args.tree {
        output::print(&found.tree)?;
    }
    summary(&found)
}

fn summary(found: &Inspection) -> Result<()> {
    for entry in &found.coverage {
        output::print(&format!(
            "target `{}`: {} modules",
            entry.entry, entry.modules
        ))?;
    }
    output::print(&found.summary)
}
