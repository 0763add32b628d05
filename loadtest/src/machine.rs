//! What a number was measured on: processor, memory, kernel, disk, commit, load.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::{fs, io::Write as _, path::Path, process::Command, time::Instant};

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// Processors that we may use.
    pub cores: usize,
    /// Memory, rounded down.
    pub memory_gib: u64,
    /// `uname -r`.
    pub kernel: String,
}

/// The source that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The commit, or `unknown` outside a checkout.
    pub commit: String,
    /// Whether tracked files differed from it.
    pub dirty: bool,
}

impl Machine {
    pub(crate) fn read() -> Result<Self> {
        let text = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&text("/proc/meminfo")?, "MemTotal");
        let kib: u64 = memory.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Ok(Self {
            cpu: field(&text("/proc/cpuinfo")?, "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib >> 20,
            kernel: text("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }

    /// A name for files: `amd-epyc-2-cores`.
    pub(crate) fn slug(&self) -> String {
        let words = self.cpu.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).take(4).collect();
        format!("{}-{}-cores", words.join("-").to_lowercase(), self.cores)
    }
}

/// Load average of the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Type of the file system that holds `path`, by the longest mount point above it.
pub(crate) fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let rows = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = rows.filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

pub(crate) fn source() -> Source {
    let git = |args: &[&str]| {
        let ran = Command::new("git").args(args).output().ok().filter(|ran| ran.status.success());
        ran.and_then(|ran| String::from_utf8(ran.stdout).ok()).map(|text| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]).unwrap_or_default();
    Source { commit, dirty: !changes.is_empty() }
}

/// Writes of the probe: enough for a mean, 20 ms on a quiet disk and a second on a busy one.
const SYNCS: u32 = 200;

/// Bytes of each: about a message of ours.
const SYNC_BYTES: usize = 2048;

/// Milliseconds that one appended message and its sync take in `dir` at this moment, on average.
pub(crate) fn sync_ms(dir: &Path) -> Result<f64> {
    let mut file = tempfile::tempfile_in(dir)?;
    let begun = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&[b'x'; SYNC_BYTES])?;
        file.sync_data()?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1000.0 / f64::from(SYNCS))
}
