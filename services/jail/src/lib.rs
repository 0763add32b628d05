//! The cell: the only place from which ffmpeg or ffprobe is started.
//!
//! Promises: a payload that is taken over by its input has no network, no credentials, no other tenant's bytes, no
//! way to start another program, and ends at the latest with the wall clock. Refuses to start when a layer is missing.
//!
//! For services: [`preflight::preflight`] at start-up, [`program::Program`] and [`root::Root`] once, then one
//! [`cell::Cell`] per job. The rest is the launcher's.

pub mod breach;
pub mod capture;
pub mod cell;
pub mod cgroup;
#[cfg(test)]
mod compile;
#[cfg(test)]
mod compiled;
mod cores;
mod elf;
mod fence;
pub mod hide;
mod inside;
pub mod launcher;
pub mod layers;
pub mod limits;
mod mounts;
mod namespaces;
pub mod output;
mod plan;
pub mod preflight;
pub mod profile;
pub mod program;
pub mod report;
pub mod root;
mod sys;
mod tally;
#[doc(hidden)]
pub mod variant;

pub use plan::Identity;
