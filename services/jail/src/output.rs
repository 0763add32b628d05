//! Opening what a cell left in its output folder. A hostile payload may leave links, devices, fifos, or huge files.
//!
//! Promises: the returned file is a regular file directly in the folder, has one name, and is not larger than asked.
//! Refuses to follow any link, to leave the folder, and to block on a fifo.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;
use thiserror::Error;

/// NAME_MAX.
const NAME_BYTES_MAX: usize = 255;

/// Why an output is not taken.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OutputError {
    /// Empty, too long, with a slash or a control character, or a dot name.
    #[error("the output's name is not a plain file name")]
    Name,
    /// The folder cannot be opened.
    #[error("cannot open the output folder")]
    Folder(#[source] Errno),
    /// ENOENT: never written. ELOOP: a link. Others as openat2(2) says.
    #[error("cannot open the output")]
    Open(#[source] Errno),
    /// A folder, fifo, socket or device.
    #[error("the output is not a regular file")]
    NotRegular,
    /// Has another name, in the folder or elsewhere.
    #[error("the output has more than one name")]
    Linked,
    /// Larger than asked.
    #[error("the output has {bytes} bytes, and {bytes_max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The size that was asked for.
        bytes_max: u64,
    },
}

/// Opens `dir/name` for reading; returns it with its size in bytes.
///
/// # Errors
/// [`OutputError`], one variant per check.
pub fn open_beneath(dir: &Path, name: &str, bytes_max: u64) -> Result<(File, u64), OutputError> {
    let plain = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !matches!(name, "." | "..");
    if !plain || name.contains(|character: char| character == '/' || character.is_control()) {
        return Err(OutputError::Name);
    }
    let folder_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(dir, folder_flags, Mode::empty()).map_err(OutputError::Folder)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(&folder, name, flags, Mode::empty(), resolve).map_err(OutputError::Open)?;
    let stat = fstat(&file).map_err(OutputError::Open)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OutputError::NotRegular);
    }
    if stat.st_nlink != 1 {
        return Err(OutputError::Linked);
    }
    let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if bytes > bytes_max {
        return Err(OutputError::TooLarge { bytes, bytes_max });
    }
    Ok((File::from(file), bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use rustix::io::Errno;

    use super::{OutputError, open_beneath};

    #[test]
    fn only_plain_files_of_one_name_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let open = |name: &str| open_beneath(dir.path(), name, 5).map(|(_, bytes)| bytes);
        fs::write(path("good"), "12345").unwrap();
        assert_eq!(open("good"), Ok(5));

        symlink("good", path("link")).unwrap();
        symlink("/etc/passwd", path("escape")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        fs::write(path("large"), "123456").unwrap();
        fs::write(path("one"), "1").unwrap();
        fs::hard_link(path("one"), path("two")).unwrap();
        assert_eq!(open("link"), Err(OutputError::Open(Errno::LOOP)));
        assert_eq!(open("escape"), Err(OutputError::Open(Errno::LOOP)));
        assert_eq!(open("folder"), Err(OutputError::NotRegular));
        assert_eq!(open("fifo"), Err(OutputError::NotRegular));
        assert_eq!(open("large"), Err(OutputError::TooLarge { bytes: 6, bytes_max: 5 }));
        assert_eq!(open("one"), Err(OutputError::Linked));
        assert_eq!(open("none"), Err(OutputError::Open(Errno::NOENT)));
        for name in ["", ".", "..", "../good", "a/b", "/etc/passwd", "a\0b", "a\nb"] {
            assert_eq!(open(name), Err(OutputError::Name), "{name:?}");
        }
    }
}
