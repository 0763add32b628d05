//! Nothing of a cell stays: not after 6000 of them, and not when any process of it, or its supervisor, is killed at any
//! moment of its life. Moments are system calls, counted by ptrace(2), so that no moment is left out by luck. Needs
//! root, and fails, never skips, where a tool or a layer is missing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

#[path = "../cells/fixture.rs"]
#[allow(dead_code, reason = "the cells' own tests use the rest")]
mod fixture;

mod kept;
mod launcher;
mod many;
mod supervisor;
mod trace;
