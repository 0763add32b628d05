//! What the kernel is told about a cell: the files of its groups.
//!
//! Promises: a limit is in force when this returns. Refuses to give less than was asked for quietly: what cannot be
//! written is an error.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::find::Controller;
use super::{GroupError, set};
use crate::limits::CellLimits;

/// Threads beside the payload's own in its group of version 2: process 1.
const OWN_TASKS_V2: u64 = 1;
/// In version 1 also the launcher, and our thread that starts it.
const OWN_TASKS_V1: u64 = 3;
/// One period of processor time in microseconds, the kernel's default.
const PERIOD_US: u64 = 100_000;
/// How long a slow disk may take for what the last cell wrote and the next has no room for.
const WRITING_BACK: Duration = Duration::from_secs(30);
/// Between two tries.
const LOOK: Duration = Duration::from_millis(10);

/// What a cell touches at most: the payload's own memory, and the files of its `/tmp`.
fn memory(limits: &CellLimits) -> u64 {
    limits.memory_bytes.saturating_add(limits.tmp_bytes)
}

fn quota_us(percent: u32) -> u64 {
    u64::from(percent) * PERIOD_US / 100
}

/// For a cell's own group: Linux's Documentation/admin-guide/cgroup-v2.rst.
pub(super) fn v2(
    dir: &Path,
    controllers: &[Controller],
    limits: &CellLimits,
    cpu_percent: Option<u32>,
) -> Result<(), GroupError> {
    for controller in controllers {
        match (controller, cpu_percent.map(quota_us)) {
            (Controller::Memory, _) => {
                set(dir, "memory.max", memory(limits))?;
                // Absent without swap, and then there is nothing to forbid.
                if dir.join("memory.swap.max").exists() {
                    set(dir, "memory.swap.max", 0)?;
                }
                set(dir, "memory.oom.group", 1)?;
            }
            (Controller::Pids, _) => {
                set(dir, "pids.max", limits.procs.saturating_add(OWN_TASKS_V2))?;
            }
            (Controller::Cpu, Some(quota)) => {
                set(dir, "cpu.max", format_args!("{quota} {PERIOD_US}"))?;
            }
            // The default weight is everybody's: equal shares.
            (Controller::Cpu, None) => {}
        }
    }
    Ok(())
}

/// For a slot's groups, before each cell: Documentation/admin-guide/cgroup-v1. Blocks, with a lower memory limit than
/// the last cell's until the pages of that one's files are on the disk.
pub(super) fn v1(
    dir: &Path,
    controllers: &[Controller],
    limits: &CellLimits,
) -> Result<(), GroupError> {
    if controllers.contains(&Controller::Pids) {
        set(dir, "pids.max", limits.procs.saturating_add(OWN_TASKS_V1))?;
    }
    if controllers.contains(&Controller::Memory) {
        memory_v1(dir, memory(limits))?;
    }
    Ok(())
}

fn memory_v1(dir: &Path, bytes: u64) -> Result<(), GroupError> {
    const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
    // Memory with swap may never be below memory alone, on the way up or down. Absent without swap accounting.
    let swap = dir.join(WITH_SWAP).exists();
    if swap {
        set(dir, WITH_SWAP, -1)?;
    }
    let until = Instant::now() + WRITING_BACK;
    while let Err(error) = set(dir, "memory.limit_in_bytes", bytes) {
        let busy = matches!(&error, GroupError::File(_, error)
            if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()));
        if !busy || Instant::now() > until {
            return Err(error);
        }
        sleep(LOOK);
    }
    if swap {
        set(dir, WITH_SWAP, bytes)?;
    }
    // Any write starts it again.
    set(dir, "memory.max_usage_in_bytes", 0)
}

/// For a slot's group of the processor controller, once.
pub(super) fn quota_v1(dir: &Path, cpu_percent: Option<u32>) -> Result<(), GroupError> {
    let Some(percent) = cpu_percent else { return Ok(()) };
    set(dir, "cpu.cfs_period_us", PERIOD_US)?;
    set(dir, "cpu.cfs_quota_us", quota_us(percent))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Controller, v2};
    use crate::limits::CellLimits;

    const LIMITS: CellLimits =
        CellLimits { memory_bytes: 1000, tmp_bytes: 24, procs: 10, ..CellLimits::PROBE };

    /// In an ordinary folder, what is written is what the kernel would read.
    #[test]
    fn what_version_2_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let text = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap_or_default();
        let check = |expect: &[(&str, &str)]| {
            expect.iter().for_each(|(file, value)| assert_eq!(text(file), *value, "{file}"));
        };
        v2(dir.path(), &Controller::ALL, &LIMITS, None).unwrap();
        check(&[("memory.max", "1024"), ("memory.oom.group", "1"), ("pids.max", "11")]);
        check(&[("memory.swap.max", ""), ("cpu.max", "")]);
        fs::write(dir.path().join("memory.swap.max"), "max").unwrap();
        v2(dir.path(), &Controller::ALL, &LIMITS, Some(150)).unwrap();
        check(&[("memory.swap.max", "0"), ("cpu.max", "150000 100000")]);
        // Only what is there is asked for.
        let other = tempfile::tempdir().unwrap();
        v2(other.path(), &[Controller::Pids], &LIMITS, Some(150)).unwrap();
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    }
}
