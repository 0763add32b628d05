//! What a run could leave behind on the machine.

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::up::Up;
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Other tests' folders of control groups go within this; ours are gone already.
const PATIENCE: Duration = Duration::from_secs(60);

/// How names of our control groups begin, and of our folders: the machine makes others meanwhile.
const OURS: &str = "hotcell-";

/// Where folders of installations, workers and cells are.
const PLACES: [&str; 2] = ["/tmp", "/var/tmp"];

/// Users that workers and cells run as (Debian Policy §9.2.2; `services/cli/src/up/cells.rs`).
const USERS: RangeInclusive<u32> = 60_000..=64_999;

/// Mounts and control groups that may be ours, and processes of workers' users without a parent.
#[derive(Debug)]
pub(crate) struct Left {
    orphans: BTreeSet<u32>,
    mounts: BTreeSet<String>,
    groups: BTreeSet<PathBuf>,
}

impl Left {
    /// As of now.
    pub(crate) fn now() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut groups = BTreeSet::new();
        for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
            let place = line.split(' ').nth(4).unwrap();
            folders(Path::new(place), &mut groups);
        }
        groups.retain(|path| path.components().any(|part| begins(part.as_os_str())));
        let may_be_ours = |line: &&str| {
            let Some(place) = line.split(' ').nth(4).map(Path::new) else { return true };
            PLACES.iter().any(|of| place.starts_with(of)) || line.contains(OURS)
        };
        let mounts = mounts.lines().filter(may_be_ours).map(str::to_owned).collect();
        Self { orphans: orphans(), mounts, groups }
    }

    /// Nothing has come to what was there before.
    pub(crate) fn is_all_there_is(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = Self::now();
            let mounts: Vec<_> = now.mounts.difference(&self.mounts).collect();
            let groups: Vec<_> = now.groups.difference(&self.groups).collect();
            let orphans: Vec<_> = now.orphans.difference(&self.orphans).collect();
            if mounts.is_empty() && groups.is_empty() && orphans.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < until, "left: {mounts:?} {groups:?} {orphans:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn begins(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(OURS.as_bytes())
}

fn folders(dir: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders(&entry.path(), into);
            into.insert(entry.path());
        }
    }
}

fn orphans() -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u32>().ok()
        };
        if number("PPid:") == Some(1) && number("Uid:").is_some_and(|uid| USERS.contains(&uid)) {
            found.insert(pid);
        }
    }
    found
}

/// The folder in which a worker makes those of its attempts.
pub(crate) fn work_dir(up: &Up, worker: &str) -> Result<PathBuf> {
    let pid = up.pid(worker).context("a worker")?;
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let config = line.split('\0').nth(1).context("its configuration")?.to_owned();
    let home = Path::new(&config).parent().context("its folder")?;
    Ok(home.join("work").join(worker))
}

/// A folder holds these and nothing else.
pub(crate) fn only(dir: &Path, names: &[&str]) -> Result<()> {
    let found = fs::read_dir(dir)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<String> = found.collect();
    let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    ensure!(found == names, "{} holds {found:?}", dir.display());
    Ok(())
}

/// A process has no child.
pub(crate) fn no_children(pid: u32) -> Result<()> {
    let mut children = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that had nothing to do for long may end while we look.
        children += &fs::read_to_string(task?.path().join("children")).unwrap_or_default();
    }
    ensure!(children.trim().is_empty(), "{pid} has children: {children}");
    Ok(())
}
