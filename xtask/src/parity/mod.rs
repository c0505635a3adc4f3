//! Our binary beside the Python stack on real input: a training run overlaid, files that go both ways, and
//! adapters of strangers. Each command prints its tables and fails above its bounds.

mod compare;
pub(crate) mod overlay;
pub(crate) mod places;
pub(crate) mod random;
pub(crate) mod roundtrip;
mod sides;
pub(crate) mod strangers;
pub(crate) mod truth;
