//! Users for the workers of one installation, each nobody else's: what one worker runs can neither
//! signal another's nor read its files, whichever installation of this machine that one is of.
//!
//! Promises: a user is held by the kernel's lock on a file until this process ends, and is not taken
//! while a process runs as it or a folder of a worker belongs to it: both can be left by a SIGKILL.
//! Refuses to share one.

use crate::{
    fail::{Context as _, Fail},
    layout::make_dir,
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    ops::RangeInclusive,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// User and group ids of workers: in Debian's range for such use (60000 to 64999, Debian Policy
/// §9.2.2), whose end is free.
const IDS: RangeInclusive<u32> = 64_200..=64_999;

/// Where the locks are: root's own, and gone when the machine starts again.
const LOCKS: &str = "/run/hotcell-users";

/// Looks for users that are free; more than one when what is busy was not known before.
const ROUNDS_MAX: u32 = 4;

/// Users that are held.
#[derive(Debug, Default)]
pub(crate) struct Users(Vec<(u32, File)>);

impl Users {
    /// Takes `count` users of this machine; `own` is the folder of this installation, whose old
    /// files are given to whoever is taken now, and lies beside those of others.
    pub(crate) fn take(count: u16, own: &Path) -> Result<Self, Fail> {
        Self::take_of(IDS, count, own, Path::new(LOCKS))
    }

    /// The user of the worker with this number, counted from 0.
    pub(crate) fn get(&self, number: u16) -> Option<u32> {
        self.0.get(usize::from(number)).map(|(id, _)| *id)
    }

    fn take_of(
        ids: RangeInclusive<u32>,
        count: u16,
        own: &Path,
        locks: &Path,
    ) -> Result<Self, Fail> {
        make_dir(locks, 0o700)?;
        let mut busy = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            let mut held = Vec::new();
            for id in ids.clone().filter(|id| !busy.contains(id)) {
                if held.len() == usize::from(count) {
                    break;
                }
                let file = File::create(locks.join(id.to_string())).or_fail("a user's lock")?;
                if file.try_lock().is_ok() {
                    held.push((id, file));
                }
            }
            if held.len() < usize::from(count) {
                break;
            }
            // Looked at under the locks: from now on nobody else starts anything as one of them.
            let found: BTreeSet<u32> = running().into_iter().chain(owners(own)).collect();
            if held.iter().all(|(id, _)| !found.contains(id)) {
                return Ok(Self(held));
            }
            busy.extend(found);
        }
        Err(Fail::config(format!(
            "of the users {} to {} fewer than {count} are free: end other installations, or remove \
             what ended ones left in {}",
            ids.start(),
            ids.end(),
            own.parent().unwrap_or(own).display()
        )))
    }
}

/// Users that a process runs as. Source: proc_pid_status(5), `Uid`; the entry's owner would not do,
/// which is root's where a process hides from others.
fn running() -> BTreeSet<u32> {
    let status = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("status")).ok();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(status);
    all.flat_map(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        line.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>()
    })
    .collect()
}

/// Users that own a folder of a worker of another installation: its login and its job may be there.
fn owners(own: &Path) -> BTreeSet<u32> {
    let inside = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let others = inside(own.parent().unwrap_or(own)).filter(|entry| {
        let is_ours = entry.file_name().to_string_lossy().starts_with(super::cells::FOLDER);
        is_ours && entry.path() != own
    });
    let folders = others.flat_map(|entry| inside(&entry.path()));
    folders.filter_map(|entry| Some(entry.metadata().ok()?.uid())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{fs::chown, process::CommandExt as _};

    /// Users of these tests alone.
    const OF_TESTS: RangeInclusive<u32> = 64_150..=64_153;

    fn ids(users: &Users) -> Vec<u32> {
        users.0.iter().map(|(id, _)| *id).collect()
    }

    /// Needs root, as giving users away does.
    #[test]
    fn no_two_installations_share_a_user_nor_what_a_sigkill_left() {
        let dir = tempfile::tempdir().unwrap();
        let (own, locks) = (dir.path().join("hotcell-a"), dir.path().join("locks"));
        let take = |count| Users::take_of(OF_TESTS, count, &own, &locks);
        let first = take(2).unwrap();
        let second = take(2).unwrap();
        assert_eq!((ids(&first), ids(&second)), (vec![64_150, 64_151], vec![64_152, 64_153]));
        assert_eq!((first.get(1), first.get(2)), (Some(64_151), None));
        let none = take(1).unwrap_err();
        assert_eq!(none.code, 64);
        assert!(none.message.contains("64150 to 64153 fewer than 1"), "{}", none.message);
        drop((first, second));
        assert!(take(5).is_err());

        // A process that an installation left, and a folder of another; the own folder is no matter.
        let mut left = std::process::Command::new("sleep");
        let mut left = left.arg("1000").uid(64_150).gid(64_150).spawn().unwrap();
        for (installation, id) in [("hotcell-b", 64_151), ("hotcell-a", 64_152)] {
            let worker = dir.path().join(installation).join("worker-1");
            fs::create_dir_all(&worker).unwrap();
            chown(&worker, Some(id), Some(id)).unwrap();
        }
        assert_eq!(ids(&take(2).unwrap()), [64_152, 64_153]);
        assert!(take(3).is_err());
        left.kill().unwrap();
        left.wait().unwrap();
        assert_eq!(ids(&take(3).unwrap()), [64_150, 64_152, 64_153]);
    }
}
