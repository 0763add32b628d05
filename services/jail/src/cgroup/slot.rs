//! The groups of one slot, and of the cell that is in it.
//!
//! Promises: before a cell starts, nothing of an earlier one is in its groups; when it is over, its own group is gone,
//! or emptied by SIGKILL and gone with the next. Numbers come from the kernel's files. Refuses to run two at once.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, getpid, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use super::bounds;
use super::find::{CgroupVersion, Controller, number};
use super::settle::{make, remove_empty};
use super::spawner::Spawner;
use super::{GroupError, Groups, set};
use crate::Identity;
use crate::limits::CellLimits;
use crate::report::End;

/// How long the kernel may take to let the killed go.
const LEAVING: Duration = Duration::from_secs(2);
/// Between two looks at that; a process is gone within a few scheduler ticks.
const LOOK: Duration = Duration::from_millis(2);
/// With a group, the rlimits are the second wall, of one process and by another measure (address space is not memory):
/// they leave room for the group to be first, because only the group says that it was met.
const RLIMIT_FACTOR: u64 = 2;

/// A place for one cell at a time.
#[derive(Debug)]
pub struct Slot {
    groups: Arc<Groups>,
    identity: Identity,
    /// Folders of this slot in version 1, with their controllers.
    old: Vec<(PathBuf, Vec<Controller>)>,
    /// Folder of version 2 in which each cell gets one, with its controllers.
    unified: Option<(PathBuf, Vec<Controller>)>,
    spawner: Option<Spawner>,
    number: usize,
    cells: AtomicU64,
    busy: Mutex<()>,
}

/// What the groups of a cell counted; before it starts, also what an earlier cell left: in version 1 the cached pages of
/// its files stay with the slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Most memory at once, of all kinds.
    pub(crate) memory_peak: Option<u64>,
    /// User and system time.
    pub(crate) cpu_ms: Option<u64>,
    /// Processes that the kernel killed because the group had no memory left.
    pub(crate) oom_kills: u64,
    /// Forks and threads that it refused.
    pub(crate) pids_refused: u64,
}

impl Used {
    /// What the end of a payload is called, given what the kernel counted. One that ended well despite it, or for
    /// another reason that is known, keeps its end.
    pub(crate) fn name(&self, end: End) -> End {
        let failed = match &end {
            End::Exited(code) => *code != 0,
            End::Signaled(signal) => *signal != Signal::SYS.as_raw(),
            End::WallClock
            | End::OutputLimit
            | End::Stalled
            | End::Memory
            | End::Pids
            | End::Cancelled
            | End::LauncherRefused(_) => false,
        };
        match (failed, self.oom_kills, self.pids_refused) {
            (true, 1.., _) => End::Memory,
            (true, 0, 1..) => End::Pids,
            _ => end,
        }
    }
}

/// The groups while a cell is in them.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    slot: &'a Slot,
    own: Option<PathBuf>,
    before: Used,
    _one_at_a_time: MutexGuard<'a, ()>,
}

impl Slot {
    pub(super) fn open(
        groups: Arc<Groups>,
        number: usize,
        identity: Identity,
    ) -> Result<Self, GroupError> {
        let (mut old, mut unified) = (Vec::new(), None);
        for base in &groups.bases {
            if base.unified {
                share(&base.dir, identity, true)?;
                unified = Some((base.dir.clone(), base.controllers.clone()));
                continue;
            }
            let dir = base.dir.join(format!("slot-{number}"));
            make(&dir)?;
            old.push((dir, base.controllers.clone()));
        }
        let mut slot = Self {
            identity,
            old,
            unified,
            spawner: None,
            number,
            cells: AtomicU64::new(0),
            busy: Mutex::new(()),
            groups,
        };
        for (dir, controllers) in &slot.old {
            if controllers.contains(&Controller::Cpu) {
                bounds::quota_v1(dir, slot.groups.cpu_percent)?;
            }
        }
        if !slot.old.is_empty() {
            let dirs: Vec<PathBuf> = slot.old.iter().map(|(dir, _)| dir.clone()).collect();
            let started = Spawner::start(&format!("cell-slot-{number}"), &dirs);
            slot.spawner = Some(started.map_err(GroupError::Thread)?);
        }
        Ok(slot)
    }

    /// Which kind bounds the cells of this slot.
    #[must_use]
    pub fn version(&self) -> Option<CgroupVersion> {
        self.groups.version()
    }

    /// The launcher's limits: what a group holds, rlimits hold less tightly.
    pub(crate) fn rlimits(&self, limits: CellLimits) -> CellLimits {
        let wider =
            |limit: u64, held| if held { limit.saturating_mul(RLIMIT_FACTOR) } else { limit };
        CellLimits {
            memory_bytes: wider(limits.memory_bytes, self.groups.has(Controller::Memory)),
            procs: wider(limits.procs, self.groups.has(Controller::Pids)),
            ..limits
        }
    }

    /// Starts a program in the version 1 groups of this slot, or as usual when there are none.
    pub(crate) async fn spawn(&self, mut command: Command) -> io::Result<Child> {
        match &self.spawner {
            Some(spawner) => spawner.spawn(command).await,
            None => command.spawn(),
        }
    }

    /// Groups with these limits and nobody in them; waits until the last cell of this slot is over.
    pub(crate) async fn hold(&self, limits: &CellLimits) -> Result<Held<'_>, GroupError> {
        let one_at_a_time = self.busy.lock().await;
        for (dir, _) in &self.old {
            self.alone(dir).await?;
        }
        if let Some(spawner) = &self.spawner {
            let (old, limits) = (self.old.clone(), *limits);
            let bound = move || {
                old.iter().try_for_each(|(dir, controllers)| bounds::v1(dir, controllers, &limits))
            };
            spawner.run(bound).await.map_err(GroupError::Thread)??;
        }
        let own = self.unified.as_ref().map(|(base, controllers)| {
            let count = self.cells.fetch_add(1, Ordering::Relaxed);
            let pid = getpid().as_raw_nonzero();
            let dir = base.join(format!("cell-{pid}-{}-{count}", self.number));
            self.make_v2(&dir, controllers, limits).map(|()| dir)
        });
        let own = own.transpose()?;
        let mut held =
            Held { slot: self, own, before: Used::default(), _one_at_a_time: one_at_a_time };
        held.before = held.read();
        Ok(held)
    }

    /// Waits until our thread is the only one in the group, and kills what is not.
    async fn alone(&self, dir: &Path) -> Result<(), GroupError> {
        let file = dir.join("tasks");
        let us = self.spawner.as_ref().map_or(0, |spawner| spawner.thread_id);
        let until = Instant::now() + LEAVING;
        loop {
            let text = fs::read_to_string(&file);
            let text = text.map_err(|error| GroupError::File(file.clone(), error))?;
            let others = text.lines().filter_map(|line| line.parse::<i32>().ok());
            let others: Vec<Pid> =
                others.filter(|id| *id != us).filter_map(Pid::from_raw).collect();
            if others.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(GroupError::Busy(dir.to_owned()));
            }
            for id in others {
                // Gone by now is fine.
                kill_process(id, Signal::KILL).ok();
            }
            sleep(LOOK).await;
        }
    }

    fn make_v2(
        &self,
        dir: &Path,
        controllers: &[Controller],
        limits: &CellLimits,
    ) -> Result<(), GroupError> {
        make(dir)?;
        share(dir, self.identity, false)?;
        bounds::v2(dir, controllers, limits, self.groups.cpu_percent)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The thread leaves the groups first.
        drop(self.spawner.take());
        for (dir, _) in &self.old {
            remove_empty(dir);
        }
    }
}

impl Held<'_> {
    /// The cell's own group, for the launcher's first child to be born into.
    pub(crate) fn group(&self) -> Option<PathBuf> {
        self.own.clone()
    }

    /// What the groups counted since the start. Kills what is left, and removes the cell's own group.
    pub(crate) async fn end(mut self) -> Result<Used, GroupError> {
        let now = self.read();
        if let Some(dir) = self.own.take() {
            let until = Instant::now() + LEAVING;
            while let Err(error) = fs::remove_dir(&dir) {
                if Instant::now() > until {
                    return Err(GroupError::File(dir, error));
                }
                drop(set(&dir, "cgroup.kill", 1));
                sleep(LOOK).await;
            }
        }
        let there = self.before.memory_peak.unwrap_or(0);
        Ok(Used {
            memory_peak: now.memory_peak.map(|peak| peak.saturating_sub(there)),
            oom_kills: now.oom_kills.saturating_sub(self.before.oom_kills),
            pids_refused: now.pids_refused.saturating_sub(self.before.pids_refused),
            ..now
        })
    }

    fn read(&self) -> Used {
        let mut used = Used::default();
        let unified =
            self.own.iter().zip(&self.slot.unified).map(|(dir, (_, has))| (dir, has, true));
        let old = self.slot.old.iter().map(|(dir, has)| (dir, has, false));
        for (dir, controllers, unified) in unified.chain(old) {
            let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
            if unified {
                used.cpu_ms = number(&text("cpu.stat"), "usage_usec").map(|time| time / 1000);
            }
            if controllers.contains(&Controller::Pids) {
                used.pids_refused = number(&text("pids.events"), "max").unwrap_or(0);
            }
            if controllers.contains(&Controller::Memory) {
                let (events, peak) = match unified {
                    true => ("memory.events", "memory.peak"),
                    false => ("memory.oom_control", "memory.max_usage_in_bytes"),
                };
                used.oom_kills = number(&text(events), "oom_kill").unwrap_or(0);
                // memory.peak came with Linux 5.19.
                used.memory_peak = text(peak).trim().parse().ok();
            }
        }
        used
    }
}

impl Drop for Held<'_> {
    /// The supervisor's interest is gone: everything dies, and an empty group that is left goes with the next tidying.
    fn drop(&mut self) {
        if let Some(dir) = self.own.take() {
            drop(set(&dir, "cgroup.kill", 1));
            drop(fs::remove_dir(&dir));
        }
    }
}

/// When this process is root the launcher becomes somebody else before it forks into the group; the kernel then asks
/// whether that user may move processes into it, and whether its group of users may in the folder above.
fn share(dir: &Path, identity: Identity, above: bool) -> Result<(), GroupError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let file = dir.join("cgroup.procs");
    let uid = if above { None } else { Some(identity.uid) };
    let mode = if above { 0o664 } else { 0o644 };
    chown(&file, uid, Some(identity.gid))
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(mode)))
        .map_err(|error| GroupError::File(file, error))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use rustix::process::{getegid, geteuid};

    use super::{Controller, End, Groups, Held, Slot, Used};
    use crate::Identity;

    /// A slot whose version 2 folder is an ordinary one: what is written is what the kernel would read.
    fn slot(base: &Path) -> Slot {
        let groups =
            Groups { bases: Vec::new(), missing: Vec::new(), why: None, cpu_percent: None };
        let identity = Identity { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        let mut slot = Slot::open(Arc::new(groups), 0, identity).unwrap();
        slot.unified = Some((base.to_owned(), Controller::ALL.to_vec()));
        slot
    }

    #[test]
    fn what_version_2_tells() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n"),
            ("memory.peak", "123456\n"),
            ("pids.events", "max 4\n"),
            ("cpu.stat", "usage_usec 2500\nuser_usec 2000\nsystem_usec 500\n"),
        ];
        let slot = slot(dir.path());
        let held = |own| Held {
            slot: &slot,
            own: Some(own),
            before: Used::default(),
            _one_at_a_time: slot.busy.try_lock().unwrap(),
        };
        assert_eq!(held(dir.path().join("none")).read(), Used::default());
        files.iter().for_each(|(file, text)| fs::write(dir.path().join(file), text).unwrap());
        let expect =
            Used { memory_peak: Some(123_456), cpu_ms: Some(2), oom_kills: 3, pids_refused: 4 };
        assert_eq!(held(dir.path().to_owned()).read(), expect);
    }

    #[test]
    fn only_what_failed_gets_a_name() {
        let used = |oom_kills, pids_refused| Used { oom_kills, pids_refused, ..Used::default() };
        let rows = [
            (used(0, 0), End::Exited(1), End::Exited(1)),
            (used(1, 0), End::Signaled(9), End::Memory),
            (used(1, 1), End::Exited(1), End::Memory),
            (used(0, 1), End::Exited(1), End::Pids),
            (used(0, 1), End::Signaled(6), End::Pids),
            (used(1, 1), End::Exited(0), End::Exited(0)),
            (used(1, 1), End::Signaled(31), End::Signaled(31)),
            (used(1, 1), End::WallClock, End::WallClock),
            (used(1, 1), End::OutputLimit, End::OutputLimit),
            (used(1, 1), End::Cancelled, End::Cancelled),
        ];
        for (used, end, expect) in rows {
            assert_eq!(used.name(end.clone()), expect, "{end:?} {used:?}");
        }
    }
}
