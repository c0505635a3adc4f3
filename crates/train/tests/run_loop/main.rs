//! The loop on a toy: what it does, logs, writes, refuses, and how it goes on after a stop.

#[path = "../toy/mod.rs"]
mod toy;

mod logs;
mod resume;
mod trouble;
mod verify;
