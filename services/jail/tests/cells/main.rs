//! Real cells: real launcher, real kernel layers, real ffmpeg. Needs root (for the test of running without it), and
//! fails, never skips, where a tool or a layer is missing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

mod attacks;
mod cgroups;
mod encode;
mod fixture;
mod lifetime;
mod limits;
mod refusal;
