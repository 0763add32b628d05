//! The system-call profiles: each line is needed, each argument is compared, each named call is told by name, on both
//! processors, and in containers. Needs root, our FFmpeg and the distribution's, and fails, never skips, without them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

#[path = "../../src/compile.rs"]
mod compile;

mod arguments;
mod containers;
mod jobs;
mod rules;
