//! The loop on a model of eight values, so that a whole run takes milliseconds.

#![allow(clippy::disallowed_methods, reason = "tests look at what was written")]

mod faults;
mod resume;
mod run;
mod toy;
