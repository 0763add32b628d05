//! Control groups: what a cell may use as a whole, where rlimits bound one process at a time.
//!
//! Version 2: a group for each cell, into which its first process is born. Version 1: a group for each slot and
//! controller, which one thread of the supervisor joins once and starts every launcher from. Controllers may be spread
//! over both. Promises: what is used is what the kernel of this host really gives this process, tried and not assumed;
//! what is missing is listed; groups that are made here are removed here, and those of a process that is gone by the
//! next one. Refuses to go on with less when [`Choice::Required`] was said.

mod bounds;
mod estate;
mod find;
mod settle;
mod slot;
mod spawner;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::Identity;

pub use estate::{Estate, Lot, remove};
pub use find::{CgroupVersion, Controller};
use settle::Base;
pub use slot::Slot;
pub(crate) use slot::Used;

/// Whether to use groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// As many as this host gives.
    Auto,
    /// None.
    Off,
    /// All of memory, pids and cpu, or no start.
    Required,
}

impl FromStr for Choice {
    type Err = UnknownChoice;
    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "required" => Ok(Self::Required),
            _ => Err(UnknownChoice),
        }
    }
}

/// Neither `auto`, `off` nor `required`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be `auto`, `off` or `required`")]
pub struct UnknownChoice;

/// What the configuration says about groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Whether to use them.
    pub choice: Choice,
    /// Folders that were delegated to this process, at most one in each hierarchy. Empty: look below the groups that it
    /// is in.
    pub folders: Vec<PathBuf>,
    /// Most processor time of one cell, in hundredths of one processor; `None` for no bound but its share.
    pub cpu_percent: Option<u32>,
}

/// Why there are no groups, or not those that were asked for.
#[derive(Debug, Error)]
pub enum GroupError {
    /// The kernel's own list could not be read.
    #[error("cannot read {0}: mount /proc")]
    Proc(&'static str, #[source] io::Error),
    /// [`Choice::Required`], and something is missing.
    #[error(
        "the cgroup controllers {missing} cannot be used ({why}): give this process a group of its own (`hotcell up` as \
         root does; systemd: Delegate=yes; a container: a writable /sys/fs/cgroup), or set cgroup = \"auto\" to go on \
         with rlimits alone"
    )]
    Missing {
        /// Their names.
        missing: String,
        /// What was tried first and failed.
        why: String,
    },
    /// A named folder is in no mounted hierarchy.
    #[error("{0} is not a folder of a cgroup hierarchy: name one below /sys/fs/cgroup")]
    NoHierarchy(PathBuf),
    /// A file of a group could not be used.
    #[error("cannot use the group file {0}")]
    File(PathBuf, #[source] io::Error),
    /// Processes of an earlier cell do not go.
    #[error("processes of an earlier cell do not leave the group {0}")]
    Busy(PathBuf),
    /// The thread of a slot.
    #[error("cannot start the thread of a slot, or move it into its groups")]
    Thread(#[source] io::Error),
}

/// The groups of one worker.
#[derive(Debug)]
pub struct Groups {
    bases: Vec<Base>,
    missing: Vec<Controller>,
    why: Option<String>,
    cpu_percent: Option<u32>,
}

impl Groups {
    /// Tries every hierarchy. Blocks, with named folders up to five seconds, until somebody has moved this process
    /// there; for start-up.
    ///
    /// # Errors
    /// [`GroupError`]; with [`Choice::Auto`] only for folders that are none.
    pub fn open(wish: &Wish) -> Result<Arc<Self>, GroupError> {
        let mut groups = Self {
            bases: Vec::new(),
            missing: Controller::ALL.to_vec(),
            why: None,
            cpu_percent: wish.cpu_percent,
        };
        if wish.choice == Choice::Off {
            return Ok(Arc::new(groups));
        }
        let here = settle::here()?;
        for folder in &wish.folders {
            if !here.iter().any(|one| folder.starts_with(&one.mount)) {
                return Err(GroupError::NoHierarchy(folder.clone()));
            }
        }
        for one in here {
            match Base::settle(&one, &wish.folders, &groups.missing) {
                Ok(Some(base)) => {
                    groups.missing.retain(|missing| !base.controllers.contains(missing));
                    groups.bases.push(base);
                }
                Ok(None) => {}
                Err(error) => {
                    groups.why.get_or_insert_with(|| crate::launcher::sentence(&error));
                }
            }
        }
        match (wish.choice, groups.missing.is_empty()) {
            (Choice::Required, false) => Err(GroupError::Missing {
                missing: names(&groups.missing),
                why: groups.why.take().unwrap_or_else(|| "no hierarchy has them".to_owned()),
            }),
            _ => Ok(Arc::new(groups)),
        }
    }

    /// A place for one cell at a time, which will have this identity.
    ///
    /// # Errors
    /// [`GroupError`], when its groups cannot be made or joined.
    pub fn slot(self: &Arc<Self>, number: usize, identity: Identity) -> Result<Slot, GroupError> {
        Slot::open(Arc::clone(self), number, identity)
    }

    /// Which kind is used; `None` when there is none.
    #[must_use]
    pub fn version(&self) -> Option<CgroupVersion> {
        let unified = self.bases.iter().any(|base| base.unified);
        let old = self.bases.iter().any(|base| !base.unified);
        match (unified, old) {
            (true, true) => Some(CgroupVersion::Both),
            (true, false) => Some(CgroupVersion::V2),
            (false, true) => Some(CgroupVersion::V1),
            (false, false) => None,
        }
    }

    /// The controllers that cells go without.
    #[must_use]
    pub fn missing(&self) -> &[Controller] {
        &self.missing
    }

    /// Why, in one sentence, if anything was tried.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    fn has(&self, controller: Controller) -> bool {
        self.bases.iter().any(|base| base.controllers.contains(&controller))
    }
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, base) in self.bases.iter().enumerate() {
            let (comma, version) =
                (if at == 0 { "" } else { ", " }, if base.unified { 2 } else { 1 });
            write!(f, "{comma}{} (v{version})", names(&base.controllers))?;
        }
        if self.bases.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

fn names(controllers: &[Controller]) -> String {
    controllers.iter().map(|one| one.name()).collect::<Vec<_>>().join(" ")
}

/// Writes to a file of a group.
fn set(dir: &Path, file: &str, value: impl fmt::Display) -> Result<(), GroupError> {
    let path = dir.join(file);
    std::fs::write(&path, value.to_string()).map_err(|error| GroupError::File(path, error))
}
