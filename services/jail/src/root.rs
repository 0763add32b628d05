//! The file tree of cells: programs, their libraries, and empty mount points. Nothing else, so nothing else to find.
//!
//! Promises: the folder's name is the digest of its content; it appears at once and complete, or not at all; any
//! number of services may share it, one builds and the others wait; what a builder that was killed left behind is removed
//! by the next. Refuses to mix two versions of one library.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::limits::INPUTS_MAX;
use crate::program::{Part, Program, sha256};

/// Part of the digest: change it when the layout below changes.
const LAYOUT: &str = "hotcell root 1";
/// `/etc` and `/usr` are there so that a write to them meets a read-only file system, and nothing else.
const FOLDERS: [&str; 6] = ["bin", "in", "out", "tmp", "etc", "usr"];
/// What the name of an unfinished root begins with. Nothing looks for such a name.
const UNFINISHED: &str = ".root.";
/// How long another service may build: 240 MB take seconds to copy, and a minute on a disk that is busy.
const OTHER_BUILDS_MAX: Duration = Duration::from_secs(120);
/// Pause between two tries of the lock: flock(2) itself would wait without end.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// A root folder that is ready for cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    path: PathBuf,
    digest: String,
}

/// Why a root cannot be made.
#[derive(Debug, Error)]
pub enum RootError {
    /// Two programs need different files in one place: use one root for each.
    #[error("two programs need different versions of {0:?}")]
    Conflict(PathBuf),
    /// A file or folder could not be made.
    #[error("cannot make {0:?}")]
    Make(PathBuf, #[source] io::Error),
    /// A file changed between being listed and being copied.
    #[error("{0:?} changed meanwhile")]
    Changed(PathBuf),
    /// Another process has built for too long.
    #[error("another process builds in {0:?} and does not finish: end it")]
    Busy(PathBuf),
}

impl Root {
    /// Returns the root with exactly these programs, and makes it in `cache_dir` (an absolute path that exists) if it
    /// is not there yet. Blocks while it copies; for start-up. Files are hard links where the file system allows it.
    ///
    /// # Errors
    /// [`RootError`], when programs contradict each other or a file cannot be made.
    pub fn prepare(cache_dir: &Path, programs: &[Program]) -> Result<Self, RootError> {
        let mut parts: BTreeMap<&Path, &Part> = BTreeMap::new();
        for part in programs.iter().flat_map(|program| &program.parts) {
            let other = parts.insert(&part.place, part);
            if other.is_some_and(|other| other.sha256 != part.sha256) {
                return Err(RootError::Conflict(part.place.clone()));
            }
        }
        let mut hash = Sha256::new();
        hash.update(format!("{LAYOUT}\n"));
        for (place, part) in &parts {
            hash.update(format!("{}  {}\n", part.sha256, place.display()));
        }
        let digest = hex::encode(hash.finalize());
        let path = cache_dir.join(&digest);
        if !path.is_dir() {
            // Held until the end of this block, or of this process.
            let _building = lock(cache_dir)?;
            sweep(cache_dir)?;
            if !path.is_dir() {
                build(cache_dir, &path, parts.into_values())?;
            }
        }
        Ok(Self { path, digest })
    }

    /// The folder on the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 over all places and contents, in hex (BRK-58).
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// Whoever has it is the only one that builds here.
fn lock(cache_dir: &Path) -> Result<File, RootError> {
    let folder = File::open(cache_dir).map_err(made(cache_dir))?;
    let deadline = Instant::now() + OTHER_BUILDS_MAX;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(Errno::AGAIN) if Instant::now() < deadline => thread::sleep(TRY_EVERY),
            Err(Errno::AGAIN) => return Err(RootError::Busy(cache_dir.to_owned())),
            Err(errno) => return Err(made(cache_dir)(errno.into())),
        }
    }
}

/// Removes what builders left that were killed: nobody builds but us.
fn sweep(cache_dir: &Path) -> Result<(), RootError> {
    for entry in fs::read_dir(cache_dir).map_err(made(cache_dir))? {
        let entry = entry.map_err(made(cache_dir))?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path()).map_err(made(&entry.path()))?;
        }
    }
    Ok(())
}

fn build<'a>(
    cache_dir: &Path,
    path: &Path,
    parts: impl Iterator<Item = &'a Part>,
) -> Result<(), RootError> {
    let temporary = cache_dir.join(format!("{UNFINISHED}{}", std::process::id()));
    let result =
        fill(&temporary, parts).and_then(|()| fs::rename(&temporary, path).map_err(made(path)));
    if temporary.exists() {
        // The next build tries again.
        drop(fs::remove_dir_all(&temporary));
    }
    result
}

fn fill<'a>(root: &Path, parts: impl Iterator<Item = &'a Part>) -> Result<(), RootError> {
    folder(root)?;
    for name in FOLDERS {
        folder(&root.join(name))?;
    }
    for number in 0..INPUTS_MAX {
        let place = root.join("in").join(number.to_string());
        File::create_new(&place).map_err(made(&place))?;
    }
    for part in parts {
        let place = root.join(part.place.strip_prefix("/").unwrap_or(&part.place));
        if let Some(parent) = place.parent() {
            folder(parent)?;
        }
        put(&part.source, &place).map_err(made(&place))?;
        if sha256(&place).map_err(made(&place))? != part.sha256 {
            return Err(RootError::Changed(part.source.clone()));
        }
    }
    Ok(())
}

/// The cell's user must be able to enter every folder, whatever the umask of the service is.
fn folder(path: &Path) -> Result<(), RootError> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(made(path))?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(made(path))
}

/// A hard link costs nothing, but shares its mode with the original, so it must be one that everybody can read and run.
fn put(source: &Path, place: &Path) -> io::Result<()> {
    const EVERYBODY: u32 = 0o555;
    // Of a symbolic link, as most libraries are, the target is wanted.
    let source = source.canonicalize()?;
    let mode = fs::metadata(&source)?.permissions().mode();
    let readable = if place.parent().is_some_and(|parent| parent.ends_with("bin")) {
        EVERYBODY
    } else {
        0o444
    };
    let shareable = mode & readable == readable && mode & 0o6022 == 0;
    if shareable && fs::hard_link(&source, place).is_ok() {
        return Ok(());
    }
    fs::copy(&source, place)?;
    fs::set_permissions(place, Permissions::from_mode(EVERYBODY))
}

fn made(path: &Path) -> impl FnOnce(io::Error) -> RootError {
    let path = path.to_owned();
    move |error| RootError::Make(path, error)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Root, RootError};
    use crate::program::Program;

    #[test]
    fn a_root_is_named_by_its_content_and_made_once() {
        let cache = tempfile::tempdir().unwrap();
        // Of a builder that was killed.
        std::fs::create_dir_all(cache.path().join(".root.1.0/bin")).unwrap();
        let mut program = Program::resolve(Path::new("/usr/bin/env")).unwrap();
        let root = Root::prepare(cache.path(), std::slice::from_ref(&program)).unwrap();
        assert!(root.path().join("bin/env").is_file() && root.path().join("in/0").is_file());
        assert_eq!(Root::prepare(cache.path(), &[program.clone(), program.clone()]).unwrap(), root);

        let other = Program::resolve(Path::new("/usr/bin/true")).unwrap();
        let both = Root::prepare(cache.path(), &[program.clone(), other.clone()]).unwrap();
        assert_ne!(both.digest(), root.digest());
        let names: Vec<_> = std::fs::read_dir(cache.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "no temporary folder is left");

        program.parts.iter_mut().for_each(|part| part.sha256 = "0".repeat(64));
        let changed = Root::prepare(cache.path(), std::slice::from_ref(&program));
        assert!(matches!(changed, Err(RootError::Changed(_))));
        let conflict = Root::prepare(cache.path(), &[program, other]);
        assert!(matches!(conflict, Err(RootError::Conflict(_))));
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 2);
    }
}
