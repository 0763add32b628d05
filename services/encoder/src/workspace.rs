//! The worker's folder on the host, and one fresh folder in it for each attempt (ZT-07).
//!
//! Promises: only this process uses the worker's folder; what a killed process left is gone before
//! the first attempt; an attempt's folder is gone when its value is dropped, however that ends.

use hotcell_schemas::{JobId, WorkerId};
use hotcell_stage::clock;
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};
use tracing::error;

/// Only this user enters: cells get single files and folders of it by bind mount.
const FOLDER_MODE: u32 = 0o700;

/// Name of the lock; everything else in the folder is an attempt.
const LOCK: &str = "lock";

/// Why there is no workspace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkspaceError {
    /// The folder cannot be made or emptied.
    #[error("cannot prepare the folder {path}: check work_dir, its owner and its free space")]
    Prepare {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Two processes run with one login.
    #[error("another process works in {0}: give each worker a login of its own")]
    Taken(PathBuf),
}

/// The worker's folder, locked.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    _lock: File,
}

impl Workspace {
    /// Takes `work_dir/<worker>` and empties it.
    pub(crate) fn open(work_dir: &Path, worker: &WorkerId) -> Result<Self, WorkspaceError> {
        let path = work_dir.join(worker.as_str());
        let failed = |source| WorkspaceError::Prepare { path: path.clone(), source };
        folder(work_dir, true).map_err(failed)?;
        folder(&path, true).map_err(failed)?;
        let lock = File::options().write(true).create(true).truncate(false).open(path.join(LOCK));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WorkspaceError::Taken(path)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        clear(&path).map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    /// A new folder for one attempt.
    pub(crate) fn fresh(&self, job: &JobId, attempt: u32) -> io::Result<JobDir> {
        let random = hex::encode(clock::random::<8>());
        let path = self.path.join(format!("{job}-{attempt}-{random}"));
        folder(&path, false)?;
        let dir = JobDir(path);
        folder(&dir.out(), false)?;
        Ok(dir)
    }
}

fn folder(path: &Path, may_exist: bool) -> io::Result<()> {
    DirBuilder::new().mode(FOLDER_MODE).recursive(may_exist).create(path)
}

fn clear(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        // `remove_dir_all` follows no link, so a link that was left leads nowhere.
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The folder of one attempt.
#[derive(Debug)]
pub(crate) struct JobDir(PathBuf);

impl JobDir {
    /// Where input `number` goes.
    pub(crate) fn input(&self, number: usize) -> PathBuf {
        self.0.join(format!("in{number}"))
    }

    /// The folder that the cell writes to.
    pub(crate) fn out(&self) -> PathBuf {
        self.0.join("out")
    }
}

impl Drop for JobDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            error!(%error, "the folder of an attempt is not removed; the next start removes it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn zt_07_folders_are_fresh_private_and_gone_afterwards() {
        let (temp, worker) = (tempfile::tempdir().unwrap(), "w1".parse().unwrap());
        let outside = temp.path().join("outside");
        fs::write(&outside, "keep").unwrap();
        let left = temp.path().join("work/w1/old-1");
        fs::create_dir_all(left.join("out")).unwrap();
        fs::write(left.join("in0"), "bytes of a killed process").unwrap();
        symlink(&outside, temp.path().join("work/w1/link")).unwrap();

        let space = Workspace::open(&temp.path().join("work"), &worker).unwrap();
        assert!(!left.exists() && !temp.path().join("work/w1/link").exists());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "keep");

        let job = JobId::new(1, [2; 10]);
        let (one, two) = (space.fresh(&job, 1).unwrap(), space.fresh(&job, 1).unwrap());
        assert_ne!(one.out(), two.out());
        for path in [one.0.clone(), one.out()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, FOLDER_MODE);
        }
        fs::write(one.input(0), "x").unwrap();
        fs::write(one.out().join("y"), "y").unwrap();
        let gone = one.0.clone();
        drop(one);
        assert!(!gone.exists() && two.out().exists());
    }

    #[test]
    fn one_process_for_each_worker() {
        let (temp, worker) = (tempfile::tempdir().unwrap(), "w1".parse().unwrap());
        let first = Workspace::open(temp.path(), &worker).unwrap();
        let second = Workspace::open(temp.path(), &worker);
        assert!(matches!(second, Err(WorkspaceError::Taken(_))));
        assert!(Workspace::open(temp.path(), &"w2".parse().unwrap()).is_ok());
        drop(first);
        assert!(Workspace::open(temp.path(), &worker).is_ok());
    }
}
