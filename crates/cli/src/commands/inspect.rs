//! `lowrank inspect`

mod run_folder;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use lowrank::{Inspection, inspect};

use crate::flags::LoraFlags;
use crate::misuse::Misuse;
use crate::output::{self, say};
use crate::run_file::RunFile;

/// Shows a model: named parameters, module tree, what an adapter would train; reads no weights. Or a run's output folder.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Model folder; its `config.json` is enough.
    #[arg(long, required_unless_present = "output_dir")]
    model: Option<PathBuf>,
    /// Adapter folder, whose configuration is put on the model.
    #[arg(long, requires = "model")]
    adapter: Option<PathBuf>,
    /// Instead: output folder of a run, whose checkpoints are verified, and what killed processes left there.
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    output_dir: Option<PathBuf>,
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
    check(args)?;
    if let Some(folder) = &args.output_dir {
        return run_folder::show(folder, args.json);
    }
    let model = args.model.as_deref().unwrap_or(Path::new(""));
    run_folder::note_strays(model)?;
    if let Some(adapter) = &args.adapter {
        run_folder::note_strays(adapter)?;
    }
    let run = RunFile {
        lora: args.lora.lora.clone(),
        ..RunFile::default()
    };
    if let Some(adapter) = &args.adapter {
        run.refuse_other_config(adapter)?;
    }
    let config = (args.adapter.is_none() && !args.lora.lora.is_empty())
        .then(|| run.lora_config())
        .transpose()?;
    let found = inspect(model, args.adapter.as_deref(), config.as_ref())?;
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

/// Flags that would have no effect beside others.
fn check(args: &InspectArgs) -> Result<(), Misuse> {
    let of_models = [("names", args.names), ("tree", args.tree)];
    let of_models = of_models.into_iter().filter(|(_, given)| *given);
    let of_models = of_models.map(|(name, _)| name.to_owned());
    let mut idle: Vec<String> = args.lora.lora.keys().cloned().collect();
    idle.extend(of_models);
    if args.output_dir.is_none() || idle.is_empty() {
        return Ok(());
    }
    let names = idle.join(", ");
    Err(Misuse(format!(
        "a run's folder is shown as it is, so {names} would have no effect"
    )))
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
