//! What the tests of several crates share: goldens, tolerances, the folder of real inputs.

// Developer's code may touch files directly.
#![allow(clippy::disallowed_methods)]

mod golden;
mod hostile;
mod mutate;
mod tiny_model;
mod tolerance;

pub use golden::{
    Golden, LogLine, Row, Tensor, Trainable, cases, golden, goldens, read_json, read_tensors,
};
pub use hostile::{Hostile, peak_of};
pub use mutate::Mutation;
pub use peak_alloc::PeakAlloc;
pub use tiny_model::{tiny_model, write_tensors};
pub use tolerance::{Distance, Tol, assert_close, distance, ulps};

use std::path::{Path, PathBuf};

/// The folder of real inputs that are not part of the repository, where it is there.
///
/// `LOWRANK_SHARED_INPUTS` names it; else it is `../shared/inputs` beside the repository. A test that needs it
/// prints `skipped: no shared inputs` and returns where this is `None`.
pub fn shared_inputs() -> Option<PathBuf> {
    let named = std::env::var_os("LOWRANK_SHARED_INPUTS").map(PathBuf::from);
    let beside = repository_root().join("../shared/inputs");
    named.or(Some(beside)).filter(|path| path.is_dir())
}

/// The root of this repository.
pub fn repository_root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
