//! Handing groups to workers: what root does before it starts them.
//!
//! Promises: one folder for each worker in each hierarchy of use, which its user owns; all of them can be named before
//! they are made, so that a note of them outlives a crash. Refuses to remove a group that has members.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use super::find::Controller;
use super::settle::{LEAF, here, make, remove_empty};
use super::{GroupError, set};

/// The folders of one installation, one in each hierarchy.
#[derive(Debug, Clone)]
pub struct Estate(Vec<Plot>);

#[derive(Debug, Clone)]
struct Plot {
    dir: PathBuf,
    unified: bool,
}

/// What one worker gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lot {
    /// Its folders, for [`Wish::folders`](super::Wish::folders).
    pub folders: Vec<PathBuf>,
    /// Files to write its process id to when it was started.
    pub join: Vec<PathBuf>,
}

impl Estate {
    /// Finds the hierarchies for an installation of this name; makes nothing.
    ///
    /// # Errors
    /// [`GroupError::Proc`].
    pub fn find(name: &str) -> Result<Self, GroupError> {
        let mut plots = Vec::new();
        for one in here()? {
            // Below this process's own group, except where version 2 does not allow groups beside processes.
            let above = if one.unified { one.mount } else { one.own };
            plots.push(Plot { dir: above.join(name), unified: one.unified });
        }
        Ok(Self(plots))
    }

    /// Every folder that [`Self::lot`] makes, or makes folders in.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|plot| plot.dir.as_path())
    }

    /// Makes the folders of one worker. Hierarchies that do not allow it, or have no controller to give, are left out.
    #[must_use]
    pub fn lot(&self, worker: &str, uid: u32, gid: u32) -> Lot {
        let mut lot = Lot::default();
        for plot in &self.0 {
            // The worker sees what is missing, and decides by its own configuration.
            let Ok(Some(folder)) = plot.give(worker, uid, gid) else { continue };
            if plot.unified {
                lot.join.push(folder.join(LEAF).join("cgroup.procs"));
            }
            lot.folders.push(folder);
        }
        lot
    }
}

impl Plot {
    fn give(&self, worker: &str, uid: u32, gid: u32) -> Result<Option<PathBuf>, GroupError> {
        let folder = self.dir.join(worker);
        if self.unified {
            let above = self.dir.parent().unwrap_or(&self.dir);
            if hand_on(above) == 0 {
                return Ok(None);
            }
            make(&self.dir)?;
            hand_on(&self.dir);
        }
        make(&self.dir)?;
        make(&folder)?;
        let own = |path: PathBuf| {
            chown(&path, Some(uid), Some(gid)).map_err(|error| GroupError::File(path, error))
        };
        own(folder.clone())?;
        if self.unified {
            let leaf = folder.join(LEAF);
            make(&leaf)?;
            own(leaf.clone())?;
            // cgroups(7), "Delegation": these, and not the limits, which belong to whoever is above.
            for dir in [&folder, &leaf] {
                own(dir.join("cgroup.procs"))?;
                own(dir.join("cgroup.subtree_control"))?;
            }
        }
        Ok(Some(folder))
    }
}

/// Gives the groups below a folder every controller of use; returns how many it could.
fn hand_on(dir: &Path) -> usize {
    let on = |one: &Controller| {
        set(dir, "cgroup.subtree_control", format_args!("+{}", one.name())).is_ok()
    };
    Controller::ALL.iter().filter(|one| on(one)).count()
}

/// Removes a folder that [`Estate::folders`] named, of this run or an earlier one, with all groups in it that have no
/// members. Returns whether it is gone.
#[must_use]
pub fn remove(folder: &Path) -> bool {
    remove_empty(folder);
    !fs::exists(folder).unwrap_or(false)
}
