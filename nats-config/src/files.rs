//! Files that hold secrets. Promises: a file is readable by its owner only from its first byte on,
//! and is whole or absent, whoever else writes it at the moment (written aside under a name of its
//! own, synced, renamed). What takes the place of another file belongs to that one's owner.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
    },
    path::{Path, PathBuf},
};

/// Owner only.
const DIR_MODE: u32 = 0o700;
/// Owner only.
const FILE_MODE: u32 = 0o600;

/// Makes `path` and its parents, closed to everybody else.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(DIR_MODE))
}

/// Writes `text` to `path`, replacing what was there. Several may write it at the same moment.
pub(crate) fn private_file(path: &Path, text: &str) -> io::Result<()> {
    let aside = aside(path)?;
    let written = write_aside(path, &aside, text).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _gone = fs::remove_file(&aside);
    }
    written?;
    sync_folder(path)
}

/// Writes `text` to `path` if there is no such file; whether it did. Of several one does.
pub(crate) fn new_private_file(path: &Path, text: &str) -> io::Result<bool> {
    let aside = aside(path)?;
    let written = write_aside(path, &aside, text).and_then(|()| fs::hard_link(&aside, path));
    let _gone = fs::remove_file(&aside);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        other => other?,
    }
    sync_folder(path)?;
    Ok(true)
}

/// A name beside `path` that nobody else uses. Numbers of processes do not tell containers apart.
fn aside(path: &Path) -> io::Result<PathBuf> {
    let mut own = [0; 8];
    getrandom::fill(&mut own)?;
    let mut aside = path.to_path_buf().into_os_string();
    aside.push(format!(".{:016x}.new", u64::from_ne_bytes(own)));
    Ok(PathBuf::from(aside))
}

/// A new name is in the folder, not in the file.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

fn write_aside(path: &Path, aside: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(aside)?;
    file.write_all(text.as_bytes())?;
    // Who may read it stays who may: an agent that renews a service's login may be another user.
    if let Ok(before) = fs::metadata(path) {
        let own = file.metadata()?;
        if (before.uid(), before.gid()) != (own.uid(), own.gid()) {
            fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
    }
    file.sync_all()
}

/// The text of `path`, or `None` when there is no such file.
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, thread};

    // A command, `up` and an agent may write one file at the same moment.
    #[test]
    fn a_file_that_two_write_is_always_one_of_the_two() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let texts = ["a", "b", "c"].map(|letter| letter.repeat(1 << 16));
        private_file(&path, &texts[0]).unwrap();
        thread::scope(|scope| {
            let write = |text: &'_ String| (0..100).try_for_each(|_| private_file(&path, text));
            let writers: Vec<_> =
                texts.iter().map(|text| scope.spawn(move || write(text))).collect();
            while !writers.iter().all(thread::ScopedJoinHandle::is_finished) {
                let read = read(&path).unwrap().unwrap();
                assert!(texts.contains(&read), "{} bytes", read.len());
            }
            writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
        });
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<BTreeSet<_>>(), BTreeSet::from(["x.json".into()]));
    }

    // Commands in containers that share the folder are all process 1.
    #[test]
    fn what_another_process_of_the_same_number_writes_aside_is_let_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.nk");
        let id = std::process::id();
        let others: Vec<_> =
            (0..100).map(|n| dir.path().join(format!("x.nk.{id}.{n}.new"))).collect();
        others.iter().for_each(|other| fs::write(other, "of another").unwrap());
        assert!(new_private_file(&path, "first").unwrap());
        assert!(!new_private_file(&path, "second").unwrap());
        private_file(&path, "third").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), "third");
        for other in &others {
            assert_eq!(read(other).unwrap().as_deref(), Some("of another"), "{}", other.display());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), others.len() + 1);
    }
}
