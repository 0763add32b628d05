//! What one cell may use. Promises: every number is a named constant with its reason, and every one of them is enforced
//! by the kernel. Refuses to raise anything: a limit that the host has set lower stays lower.

use serde::{Deserialize, Serialize};

use crate::profile::Profile;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Inputs of one cell: the source, and room for a mezzanine, a watermark and subtitles.
pub const INPUTS_MAX: usize = 4;
/// Bytes of one line of standard output that are kept; ffmpeg's progress lines stay under 100.
pub const STDOUT_LINE_BYTES_MAX: usize = 4096;
/// Bytes kept of each end of standard error. ffmpeg's banner and stream mapping fit in the head, the reason why it
/// gave up in the tail.
pub const STDERR_END_BYTES_MAX: usize = 32 * 1024;
/// Bytes on standard output at which a cell ends. Progress is 300 bytes each second: two days. Whoever prints costs the
/// supervisor time that no limit of the cell counts, and 64 MiB of empty lines are seconds of it.
pub const STDOUT_ALL_BYTES_MAX: u64 = 64 * MIB;
/// Bytes on standard error at which a cell ends. A badly damaged film of four hours complains half as much; hashing this
/// much takes the supervisor half a second.
pub const STDERR_ALL_BYTES_MAX: u64 = 256 * MIB;
/// Bytes of the launcher's one-line report; it is a fixed handful of numbers and at most one sentence.
pub const REPORT_BYTES_MAX: u64 = 16 * 1024;
/// How long the launcher may take to kill and reap a cell before the supervisor kills the launcher itself.
pub const GRACE_SECS: u64 = 5;
/// Soft RLIMIT_CPU sends SIGXCPU, which ffmpeg catches and may ignore; two seconds later the kernel kills.
pub(crate) const CPU_HARD_EXTRA_SECS: u64 = 2;
/// glibc's default main-thread stack.
pub(crate) const STACK_BYTES: u64 = 8 * MIB;
/// Files in `/tmp`: x264's two-pass statistics, libwebp and the like need fewer than ten.
pub(crate) const TMP_FILES_MAX: u32 = 256;

/// Limits of one cell. Zero is a limit of zero, never "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellLimits {
    /// Address space of the payload in bytes (RLIMIT_AS). Counts mapped libraries and thread stacks, so it is above
    /// what the program really touches.
    pub memory_bytes: u64,
    /// Processor seconds (RLIMIT_CPU): SIGXCPU then, SIGKILL two seconds later.
    pub cpu_secs: u64,
    /// Seconds from the start of the cell to SIGKILL of everything in it.
    pub wall_secs: u64,
    /// Largest single file that can be written (RLIMIT_FSIZE), and most bytes in the output folder, counted
    /// ten times a second.
    pub output_bytes: u64,
    /// Open descriptors (RLIMIT_NOFILE).
    pub nofile: u64,
    /// Processes and threads (RLIMIT_NPROC), counted per cell and not per user.
    pub procs: u64,
    /// Size of the `/tmp` of the cell, which lives in memory.
    pub tmp_bytes: u64,
    /// Seconds without progress to SIGKILL of everything in the cell; kept by the supervisor, and only where it can
    /// tell progress.
    pub stall_secs: u64,
    /// Most files in the output folder.
    pub files: u64,
}

impl CellLimits {
    /// A probe reads headers: 512 MiB stops every decompression bomb of our corpus, 10 s is 20 times the slowest honest
    /// file, and it writes nothing.
    pub const PROBE: Self = Self {
        memory_bytes: 512 * MIB,
        cpu_secs: 10,
        wall_secs: 20,
        output_bytes: 0,
        nofile: 32,
        procs: 8,
        tmp_bytes: MIB,
        stall_secs: 20,
        files: 0,
    };

    /// A transcode: 4 GiB holds 2160p in x265 with its look-ahead; an hour of wall clock and four of processor is one
    /// hour on four cores; 256 threads is x265's pools plus decoder on a 64-core host; 64 descriptors is a 6-rung
    /// ladder; five minutes without progress is what moving the index to the front of the largest file can take;
    /// HLS of four hours in 4-second segments for five renditions is 18 000 files.
    pub const TRANSCODE: Self = Self {
        memory_bytes: 4 * GIB,
        cpu_secs: 4 * 3600,
        wall_secs: 3600,
        output_bytes: 16 * GIB,
        nofile: 64,
        procs: 256,
        tmp_bytes: 64 * MIB,
        stall_secs: 300,
        files: 20_000,
    };

    /// The documented defaults of a profile.
    #[must_use]
    pub const fn of(profile: Profile) -> Self {
        match profile {
            Profile::Probe => Self::PROBE,
            Profile::Transcode => Self::TRANSCODE,
        }
    }

    /// The launcher's flags, one for each limit that it keeps.
    pub(crate) const fn flags(&self) -> [(&'static str, u64); 8] {
        [
            ("--memory-bytes", self.memory_bytes),
            ("--cpu-secs", self.cpu_secs),
            ("--wall-secs", self.wall_secs),
            ("--output-bytes", self.output_bytes),
            ("--nofile", self.nofile),
            ("--procs", self.procs),
            ("--tmp-bytes", self.tmp_bytes),
            ("--files", self.files),
        ]
    }

    /// The limit that a flag names.
    pub(crate) fn by_flag(&mut self, flag: &str) -> Option<&mut u64> {
        match flag {
            "--memory-bytes" => Some(&mut self.memory_bytes),
            "--cpu-secs" => Some(&mut self.cpu_secs),
            "--wall-secs" => Some(&mut self.wall_secs),
            "--output-bytes" => Some(&mut self.output_bytes),
            "--nofile" => Some(&mut self.nofile),
            "--procs" => Some(&mut self.procs),
            "--tmp-bytes" => Some(&mut self.tmp_bytes),
            "--files" => Some(&mut self.files),
            _ => None,
        }
    }
}
