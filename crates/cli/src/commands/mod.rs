//! One file for each subcommand: its flags, and what it runs.

pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod train;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lowrank::{CausalLm, Compute, LoadOptions, PeftModel};

use crate::output::say;

/// How products are computed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ComputeFlag {
    /// bf16 where the CPU multiplies it and the weights are stored in it, else f32.
    Auto,
    /// As torch in f32.
    F32,
    /// Rounded to bf16.
    Bf16,
}

impl From<ComputeFlag> for Compute {
    fn from(flag: ComputeFlag) -> Self {
        match flag {
            ComputeFlag::Auto => Self::Auto,
            ComputeFlag::F32 => Self::F32,
            ComputeFlag::Bf16 => Self::Bf16,
        }
    }
}

/// Flags of every command that runs a model.
#[derive(Debug, Args)]
pub(crate) struct EngineFlags {
    /// How products are computed [default: auto].
    #[arg(long)]
    pub(crate) compute_dtype: Option<ComputeFlag>,
    /// Worker threads; the results do not depend on it [default: all cores].
    #[arg(long, value_parser = above_0, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
    /// Use no more of the CPU than this: scalar, avx2, avx512, avx512bf16.
    #[arg(long)]
    pub(crate) isa: Option<String>,
}

impl EngineFlags {
    /// The options; `fallback` is the run file's word on `compute_dtype`.
    pub(crate) fn options(&self, fallback: Compute) -> anyhow::Result<LoadOptions> {
        let isa = self.isa.as_deref().map(lowrank::isa_named).transpose();
        Ok(LoadOptions {
            compute_dtype: self.compute_dtype.map_or(fallback, Compute::from),
            threads: self.threads,
            isa: isa.map_err(crate::misuse::Misuse)?,
        })
    }
}

/// Says what `--isa` came to, where it was given: the processor may have less than it allows.
pub(crate) fn tell_isa(asked: LoadOptions, base: &CausalLm) {
    if asked.isa.is_some() {
        let name = format!("{:?}", base.isa()).to_ascii_lowercase();
        say(&format!("isa: {name}"));
    }
}

/// A base model, with or without an adapter.
pub(crate) enum Model {
    /// As it is.
    Base(Box<CausalLm>),
    /// With an adapter in place.
    Adapted(Box<PeftModel>),
}

impl Model {
    /// Opens both and says what is worth knowing.
    pub(crate) fn open(
        model: &PathBuf,
        adapter: Option<&PathBuf>,
        options: LoadOptions,
    ) -> anyhow::Result<Self> {
        let base = CausalLm::load(model, options)?;
        base.notices()
            .iter()
            .for_each(|notice| say(&format!("note: {notice}")));
        tell_isa(options, &base);
        let Some(adapter) = adapter else {
            return Ok(Self::Base(Box::new(base)));
        };
        let adapted = PeftModel::from_pretrained(base, adapter)?;
        adapted
            .plan()
            .notices
            .iter()
            .for_each(|notice| say(&format!("note: {notice}")));
        Ok(Self::Adapted(Box::new(adapted)))
    }

    /// The base under it.
    pub(crate) fn base(&self) -> &CausalLm {
        match self {
            Self::Base(base) => base,
            Self::Adapted(adapted) => adapted.base(),
        }
    }
}

/// A flag's whole number that 0 makes no sense of.
pub(crate) fn above_0(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number above 0"),
        Ok(number) => Ok(number),
    }
}

/// `\n` is a new line and `\\` one backslash; any other backslash stays.
pub(crate) fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        let (letter, taken) = match escape.as_bytes().get(1) {
            Some(b'n') => ('\n', 2),
            Some(b'\\') => ('\\', 2),
            _ => ('\\', 1),
        };
        out.push_str(before);
        out.push(letter);
        rest = &escape[taken..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn a_doubled_backslash_is_one_and_no_escape() {
        assert_eq!(unescaped(r"a\n\nb"), "a\n\nb");
        assert_eq!(unescaped(r"C:\\new"), r"C:\new");
        assert_eq!(unescaped(r"\\\n"), "\\\n");
        assert_eq!(unescaped(r"\t \"), r"\t \");
    }
}
