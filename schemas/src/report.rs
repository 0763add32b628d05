//! What a worker says about an attempt. It is signed by the worker's key, so it is a claim of that
//! worker and no more: hashes of outputs are checked again by the hasher.

use crate::{Digest, FileName, UnixMs, reject::Failure};
use serde::{Deserialize, Serialize};

/// How a cell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellEnd {
    /// The program exited with this code.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
    /// The wall clock ended it.
    WallClock,
    /// The output folder held more bytes or files than the job may make.
    OutputLimit,
    /// It made no progress for too long.
    Stalled,
    /// The kernel ended it because it used more memory than it may.
    Memory,
    /// It was ended because it started more processes than it may.
    Pids,
    /// The supervisor ended it because the job was stopped.
    Stopped,
    /// The launcher refused to start it.
    Refused,
}

/// What one cell used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellUse {
    /// How it ended.
    pub end: CellEnd,
    /// User and system CPU, in milliseconds.
    pub cpu_ms: u64,
    /// Peak memory, in bytes: of the whole cell where the host counts it, else the largest resident
    /// set of one process.
    pub memory_bytes_max: u64,
    /// Start to exit, in milliseconds.
    pub wall_ms: u64,
    /// Size of its inputs together, in bytes.
    pub bytes_in: u64,
    /// What its output folder held at its end, in bytes.
    pub bytes_out: u64,
    /// The system call that its profile refused, by its Linux name; `unknown` when only the signal
    /// is known. `None` when nothing was refused.
    pub violation: Option<String>,
}

impl CellUse {
    /// A cell that ended so and used nothing: the launcher refused it, or a stand-in.
    #[must_use]
    pub const fn nothing(end: CellEnd) -> Self {
        Self {
            end,
            cpu_ms: 0,
            memory_bytes_max: 0,
            wall_ms: 0,
            bytes_in: 0,
            bytes_out: 0,
            violation: None,
        }
    }
}

/// What FFmpeg's prober said of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbedStream {
    /// `video`, `audio`, or another kind by its FFmpeg name.
    pub kind: String,
    /// Codec by its FFmpeg name.
    pub codec: String,
    /// Picture width, in pixels.
    pub width: Option<u32>,
    /// Picture height, in pixels.
    pub height: Option<u32>,
    /// Audio samples per second.
    pub sample_rate: Option<u32>,
    /// Audio channels.
    pub channels: Option<u32>,
    /// The track's own length, where its container says it, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Frames of a picture track, where its container counts them.
    pub frames: Option<u64>,
    /// Frames per second of a picture track on average, to the nearest, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<u32>,
    /// Whether it is a cover or another attached picture, which is no track of the film.
    pub attached: bool,
}

/// What FFmpeg's prober said of one file, from inside a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Container by its FFmpeg name.
    pub format: String,
    /// Duration, where known; in Matroska, whose end is meant, from nought.
    pub duration_ms: Option<u64>,
    /// When it begins, where that is later than at nought: a recording of a part of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
    /// Bits per second, where known.
    pub bit_rate: Option<u64>,
    /// Its streams, at most [`crate::limits::STREAMS_MAX`].
    pub streams: Vec<ProbedStream>,
}

/// A file that an attempt made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProducedFile {
    /// Its name, as planned.
    pub name: FileName,
    /// Its size, in bytes.
    pub size: u64,
    /// Its MIME type, as planned.
    pub content_type: String,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// The cell's stderr, stored compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StderrFile {
    /// Bytes that the program wrote.
    pub bytes: u64,
    /// SHA-256 of the bytes kept, uncompressed.
    pub sha256: Digest,
    /// Size of the compressed object, in bytes.
    pub stored_bytes: u64,
}

/// Which programs ran, so that a job can be traced to a patch level and repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// First line of `ffmpeg -version`.
    pub ffmpeg: String,
    /// SHA-256 of its line that starts with `configuration:`, of nothing if it has none.
    pub configuration_digest: Digest,
    /// SHA-256 over the executables and every library in the cell's root.
    pub root_digest: Digest,
    /// The worker's image: what its operator allows by digest.
    pub image_digest: Digest,
    /// SHA-256 of the seccomp profile.
    pub profile_digest: Digest,
    /// Layers of the cell that were off; empty unless the operator chose so.
    pub degraded: Vec<String>,
    /// `ffmpeg`, or the name of the stand-in program of a load test.
    pub cell: String,
}

/// When the steps of an attempt began, by the worker's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// Input fetch.
    pub fetch: Option<UnixMs>,
    /// Probe.
    pub probe: Option<UnixMs>,
    /// Encode.
    pub encode: Option<UnixMs>,
    /// Upload.
    pub store: Option<UnixMs>,
    /// Report.
    pub done: Option<UnixMs>,
}

/// The report of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Which programs ran.
    pub provenance: Provenance,
    /// When each step began.
    pub steps: Steps,
    /// The probe's cell.
    pub probe: Option<CellUse>,
    /// The encode's cell.
    pub encode: Option<CellUse>,
    /// The cell of the output's probe: the last one, when there are several outputs.
    pub verify: Option<CellUse>,
    /// What the prober said of the input.
    pub input: Option<Probe>,
    /// What the prober said of the output.
    pub output: Option<Probe>,
    /// The files made and stored; empty when the attempt failed.
    pub files: Vec<ProducedFile>,
    /// The stored stderr.
    pub stderr: Option<StderrFile>,
    /// Why there is no output.
    pub failure: Option<Failure>,
}

impl Report {
    /// CPU time of its cells together, in milliseconds, as the worker says.
    #[must_use]
    pub fn cpu_ms(&self) -> u64 {
        let cells = [&self.probe, &self.encode, &self.verify];
        cells.into_iter().flatten().fold(0, |sum, cell| sum.saturating_add(cell.cpu_ms))
    }

    /// The system call for which one of the cells was killed.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        let cells = [&self.probe, &self.encode, &self.verify];
        cells.into_iter().flatten().find_map(|cell| cell.violation.as_deref())
    }
}
