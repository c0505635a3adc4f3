//! One decoder for every family.
//!
//! A family is a table in [`families`]: `config.json` becomes a [`spec::DecoderSpec`] (what to compute, and
//! under which names the weights lie) and a [`tree::ModuleTree`] (what torch would print). The decoder reads
//! the spec and knows no family. It has slots for low-rank deltas and trainable values; who fills them, and from
//! which files, is the business of `peft`.

pub mod families;
pub mod spec;
pub mod tree;
