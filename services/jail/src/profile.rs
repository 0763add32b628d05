//! The system-call profiles: data files with one commented line per call, turned into BPF when this crate is built.
//!
//! Promises: what runs is what `profiles/*.json` says, and [`Profile::hash`] names those bytes. Refuses to run on a
//! processor that the files do not cover.

use std::env::consts::ARCH;

use libc::sock_filter;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// `PROBE` and `TRANSCODE`: what `build.rs` made of the files.
mod built {
    use super::{Built, Filters, sock_filter};
    include!(concat!(env!("OUT_DIR"), "/filters.rs"));
}

const TRANSCODE: &str = include_str!("../profiles/transcode.json");
const PROBE: &str = include_str!("../profiles/probe.json");

/// The descriptor number that the one allowed execveat names. Above RLIMIT_NOFILE's later value and close-on-exec, so
/// once the payload runs nothing can ever have this number again. The profiles repeat it. That execveat happens once
/// is the work of process 1 (`inside.rs`): the kernel ignores the number when the path is absolute.
pub(crate) const EXEC_FD: i32 = 1000;

/// Name of a call that ended a cell by the profile's default, which tells nobody which call it was.
pub(crate) const UNKNOWN: &str = "unknown";

/// Which calls a cell may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Reads its input, writes to standard output only, has one thread: ffprobe, `-version`.
    Probe,
    /// Reads its inputs, writes files to `/out` and `/tmp`: every ffmpeg job.
    Transcode,
}

/// Why a profile cannot be used.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// No section for this processor.
    #[error(
        "the profile has no system-call list for {ARCH}: run on one that it covers, or add a list"
    )]
    Processor,
}

/// One program each: what the payload may call, of what process 1 is asked, and what process 1 may call, which only
/// waits.
#[derive(Debug)]
pub(crate) struct Filters {
    pub(crate) payload: &'static [sock_filter],
    pub(crate) watch: &'static [sock_filter],
    pub(crate) init: &'static [sock_filter],
    /// The calls that `watch` asks about.
    pub(crate) names: &'static [(u32, &'static str)],
}

impl Filters {
    /// What a report calls a refused call: [`UNKNOWN`] when its number says nothing.
    pub(crate) fn name(&self, call: u32) -> &'static str {
        self.names.iter().find(|(number, _)| *number == call).map_or(UNKNOWN, |(_, name)| name)
    }
}

/// What `build.rs` knows of one file.
#[derive(Debug)]
struct Built {
    sha256: &'static str,
    /// `None` when the file does not cover this processor.
    filters: Option<Filters>,
}

impl Profile {
    /// The name that `--profile` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Transcode => "transcode",
        }
    }

    /// The profile with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Probe, Self::Transcode].into_iter().find(|profile| profile.name() == name)
    }

    /// The bytes of the profile's file.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Probe => PROBE,
            Self::Transcode => TRANSCODE,
        }
    }

    /// SHA-256 of the file, in hex: goes into every report, so that evidence names the rules that were in force.
    #[must_use]
    pub fn hash(self) -> String {
        self.built().sha256.to_owned()
    }

    /// The filters for the running processor.
    pub(crate) fn filters(self) -> Result<&'static Filters, ProfileError> {
        self.built().filters.as_ref().ok_or(ProfileError::Processor)
    }

    const fn built(self) -> &'static Built {
        match self {
            Self::Probe => &built::PROBE,
            Self::Transcode => &built::TRANSCODE,
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::Profile;

    #[test]
    fn hash_is_of_the_file() {
        let bytes =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/probe.json")).unwrap();
        assert_eq!(Profile::Probe.text().as_bytes(), bytes);
        assert_eq!(Profile::Probe.hash(), hex::encode(Sha256::digest(&bytes)));
        assert_ne!(Profile::Probe.hash(), Profile::Transcode.hash());
    }
}
