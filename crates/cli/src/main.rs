//! The `lowrank` command.
fn main() {}
