//! What the launcher tells the supervisor: one line of JSON on its control socket.
//!
//! Promises: numbers come from the kernel (wait4), never from the payload, which cannot reach the socket. Refuses to
//! carry anything that the payload wrote.

use serde::{Deserialize, Serialize};

use crate::layers::Layer;

/// How a cell ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The payload called exit with this code.
    Exited(i32),
    /// The payload died of this signal; 31 (SIGSYS) is a call that the profile refuses.
    Signaled(i32),
    /// The wall-clock limit passed and everything in the cell was killed.
    WallClock,
    /// The output folder held more bytes or files than allowed, or more was printed, and everything in the cell was killed.
    OutputLimit,
    /// Nothing that the supervisor counts as progress came for the limit's time, and everything in the cell was killed.
    Stalled,
    /// The kernel killed a process of the cell because its group was out of memory.
    Memory,
    /// The kernel refused the cell a thread or process, and the payload did not end well after that.
    Pids,
    /// The supervisor asked for the end, or died, and everything in the cell was killed.
    Cancelled,
    /// The launcher did not start the payload; one sentence saying what to change.
    LauncherRefused(String),
}

impl End {
    /// Whether it was our side that ended the cell.
    pub(crate) fn was_ours(&self) -> bool {
        matches!(self, Self::WallClock | Self::OutputLimit | Self::Stalled | Self::Cancelled)
    }
}

/// The launcher's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// How the cell ended.
    pub end: End,
    /// User and system time of everything in the cell.
    pub cpu_ms: u64,
    /// The largest resident set of one process in the cell.
    pub max_rss_kib: u64,
    /// From the start of the first process of the cell to the end of the last.
    pub wall_ms: u64,
    /// What the output folder held at the end, in bytes.
    pub bytes_out: u64,
    /// Name of the system call that ended the payload; `unknown` when only the signal is known.
    pub violation: Option<String>,
    /// [`Profile::hash`](crate::profile::Profile::hash) of the rules in force.
    pub profile_hash: String,
    /// 0 if the launcher refused before it asked.
    pub landlock_abi: u32,
    /// Layers that were off; empty in production.
    pub degraded: Vec<Layer>,
}

impl Report {
    /// Nothing was started.
    pub(crate) fn refused(why: String) -> Self {
        Self {
            end: End::LauncherRefused(why),
            cpu_ms: 0,
            max_rss_kib: 0,
            wall_ms: 0,
            bytes_out: 0,
            violation: None,
            profile_hash: String::new(),
            landlock_abi: 0,
            degraded: Vec::new(),
        }
    }
}
