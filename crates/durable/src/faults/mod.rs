//! File systems that fail, for tests.
//!
//! [`SimFs`] is a disk in memory that remembers what was synced, so that a power cut can be tried at every
//! moment with every kind of loss ([`SimFs::after_power_loss`]). [`FaultyFs`] wraps any file system and makes
//! the n-th operation fail, cuts writes short, or dies there. [`abort_at`] kills the real process, [`trap_at`] does
//! anything else to it. [`Tally`] counts what a suite injected.
//!
//! Nothing here is reached by a program that does not ask for it.

mod abort;
mod dice;
mod faulty;
mod power;
mod sim;
mod tally;

pub use abort::{abort_at, trap_at, trap_at_operation};
pub(crate) use abort::{operate, pass};
pub use dice::Dice;
pub use faulty::{Failure, FaultyFs, Op, Plan};
pub use sim::SimFs;
pub use tally::Tally;
