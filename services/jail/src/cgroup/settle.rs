//! The folder of each hierarchy in which a worker makes its groups.
//!
//! Promises: version 2's rule that a group has either processes or groups with controllers is kept by moving this
//! process into a leaf, and undone at the end. Refuses to touch a group that it did not make and was not given, and to
//! kill anything while it tidies up: a group that still has members stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{geteuid, getpid};

use super::find::{Controller, Hierarchy, hierarchies};
use super::{GroupError, set};

/// How long whoever started this process may take to move it into the named folder.
const MOVED_SECS: u64 = 5;
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(20);
/// The leaf of version 2 for the supervisor itself, beside the cells' groups.
pub(super) const LEAF: &str = "supervisor";
/// Start of the name of a folder that a worker makes for itself: process id and start time follow.
const OWN: &str = "hotcell-";

/// One of them.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) unified: bool,
    pub(super) dir: PathBuf,
    /// Those that cells are bounded by.
    pub(super) controllers: Vec<Controller>,
    /// The folder was made here.
    made: bool,
    /// The group that this process was in before.
    came_from: Option<PathBuf>,
}

/// The hierarchies as of now.
pub(super) fn here() -> Result<Vec<Hierarchy>, GroupError> {
    let read = |path| fs::read_to_string(path).map_err(|error| GroupError::Proc(path, error));
    Ok(hierarchies(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
}

impl Base {
    /// The folder for what `here` has of `missing`; `None` when it has nothing of use.
    pub(super) fn settle(
        here: &Hierarchy,
        folders: &[PathBuf],
        missing: &[Controller],
    ) -> Result<Option<Self>, GroupError> {
        let named = folders.iter().find(|folder| folder.starts_with(&here.mount));
        if named.is_none() && !folders.is_empty() {
            return Ok(None);
        }
        let has = match here.unified {
            true => listed(named.unwrap_or(&here.own), "cgroup.controllers")?,
            false => here.controllers.clone(),
        };
        let controllers: Vec<Controller> =
            has.into_iter().filter(|one| missing.contains(one)).collect();
        if controllers.is_empty() && named.is_none() {
            return Ok(None);
        }
        let (dir, made) = match named {
            Some(folder) => (folder.clone(), false),
            None => place(here)?,
        };
        tidy(&dir);
        let mut base = Self { unified: here.unified, dir, controllers, made, came_from: None };
        if base.unified {
            base.settle_in(&here.own)?;
        }
        Ok(Some(base))
    }

    /// Version 2: into the leaf, then the controllers.
    fn settle_in(&mut self, own: &Path) -> Result<(), GroupError> {
        let leaf = self.dir.join(LEAF);
        make(&leaf)?;
        if own != leaf {
            self.came_from = Some(own.to_owned());
            enter(&leaf)?;
        }
        for controller in &self.controllers {
            set(&self.dir, "cgroup.subtree_control", format_args!("+{}", controller.name()))?;
        }
        Ok(())
    }
}

impl Drop for Base {
    /// As far as this process may; whoever gave it the folder removes it.
    fn drop(&mut self) {
        tidy(&self.dir);
        if let Some(own) = &self.came_from {
            for controller in &self.controllers {
                let off = format_args!("-{}", controller.name());
                drop(set(&self.dir, "cgroup.subtree_control", off));
            }
            drop(set(own, "cgroup.procs", 0));
            drop(fs::remove_dir(self.dir.join(LEAF)));
        }
        if self.made {
            drop(fs::remove_dir(&self.dir));
        }
    }
}

/// Where a worker that was given nothing makes its groups. Its own group in version 2 if that is delegated; a folder of
/// its own elsewhere, because other processes are in the group too.
fn place(here: &Hierarchy) -> Result<(PathBuf, bool), GroupError> {
    // The real root has no type, may have processes beside controllers, and cannot be anybody's own.
    let is_root = !here.own.join("cgroup.type").exists();
    if here.unified && !is_root {
        return Ok((here.own.clone(), false));
    }
    for entry in fs::read_dir(&here.own).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(is_of_the_dead) {
            remove_empty(&entry.path());
        }
    }
    let pid = getpid().as_raw_nonzero().get();
    let dir = here.own.join(format!("{OWN}{pid}-{}", start_time(pid).unwrap_or_default()));
    make(&dir)?;
    if here.unified {
        for controller in Controller::ALL {
            // What the root does not hand on is missing in `dir`, which is looked at next.
            drop(set(&here.own, "cgroup.subtree_control", format_args!("+{}", controller.name())));
        }
    }
    Ok((dir, true))
}

/// Waits until this process may be, or is, in the leaf.
fn enter(leaf: &Path) -> Result<(), GroupError> {
    let until = Instant::now() + Duration::from_secs(MOVED_SECS);
    loop {
        let Err(error) = set(leaf, "cgroup.procs", 0) else { return Ok(()) };
        if here()?.iter().any(|one| one.own == leaf) {
            return Ok(());
        }
        if geteuid().is_root() || Instant::now() > until {
            return Err(error);
        }
        sleep(LOOK);
    }
}

pub(super) fn make(dir: &Path) -> Result<(), GroupError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(GroupError::File(dir.to_owned(), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn listed(dir: &Path, file: &str) -> Result<Vec<Controller>, GroupError> {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).map_err(|error| GroupError::File(path, error))?;
    Ok(Controller::listed(text.split_whitespace()))
}

/// Removes the empty groups of earlier cells and slots; the leaf is left.
fn tidy(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != LEAF {
            remove_empty(&entry.path());
        }
    }
}

/// Removes a group with all below it, as far as they have no members.
pub(super) fn remove_empty(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    drop(fs::remove_dir(dir));
}

/// Whether a folder's name is of a worker that is gone. A worker in another pid namespace looks gone too; its groups
/// have members, and stay.
fn is_of_the_dead(name: &str) -> bool {
    let Some((pid, started)) = name.strip_prefix(OWN).and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    pid.parse().is_ok_and(|pid| start_time(pid).as_deref() != Some(started))
}

/// Start time in clock ticks since boot: proc_pid_stat(5), field 22; fields are counted after the last `)`.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{is_of_the_dead, start_time};

    #[test]
    fn folders_of_the_dead() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let started = start_time(pid).unwrap();
        assert!(!is_of_the_dead(&format!("hotcell-{pid}-{started}")));
        assert!(is_of_the_dead(&format!("hotcell-{pid}-{started}0")));
        assert!(is_of_the_dead("hotcell-4194304-1"));
        for other in ["hotcell", "hotcell-", "hotcell-x-1", "hotcell-abcdef", "docker", "slot-1"] {
            assert!(!is_of_the_dead(other), "{other}");
        }
    }
}
