//! Files that hold secrets. Promises: a file is readable by its owner only from its first byte on,
//! and is whole or absent (written aside, synced, renamed). What takes the place of another file
//! belongs to that one's owner.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
    },
    path::Path,
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

/// Writes `text` to `path`, replacing what was there.
pub(crate) fn private_file(path: &Path, text: &str) -> io::Result<()> {
    let mut aside = path.to_path_buf().into_os_string();
    aside.push(".new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&aside)?;
    file.write_all(text.as_bytes())?;
    // Who may read it stays who may: an agent that renews a service's login may be another user.
    if let Ok(before) = fs::metadata(path) {
        let own = file.metadata()?;
        if (before.uid(), before.gid()) != (own.uid(), own.gid()) {
            fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
    }
    file.sync_all()?;
    fs::rename(&aside, path)
}

/// The text of `path`, or `None` when there is no such file.
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
