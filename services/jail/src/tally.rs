//! How much a cell has written to its output folder, as RLIMIT_FSIZE limits one file but not their number.
//!
//! Promises: counts blocks on disk, so that a sparse file costs what it costs. Refuses to follow links, and to look
//! into folders, which the payload cannot make.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, statat};
use rustix::io::Errno;

use crate::limits::OUTPUT_FILES_MAX;

/// Unit of `st_blocks`, whatever the file system's own block size is: inode(7).
const BLOCK_BYTES: u64 = 512;

/// The output folder, held open.
#[derive(Debug)]
pub(crate) struct Tally {
    folder: OwnedFd,
    bytes_max: u64,
}

impl Tally {
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { folder: open(folder, flags, Mode::empty())?, bytes_max })
    }

    /// Whether there are more bytes or more files than allowed.
    pub(crate) fn exceeded(&self) -> Result<bool, Errno> {
        let (mut bytes, mut files) = (0_u64, 0_usize);
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            files += 1;
            match statat(&self.folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let blocks = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX);
                    bytes = bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
                }
                // Renamed or removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            if bytes > self.bytes_max || files > OUTPUT_FILES_MAX {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn counts_blocks_of_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let tally = Tally::open(dir.path(), 64 * 1024).unwrap();
        assert_eq!(tally.exceeded(), Ok(false));
        let sparse = std::fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/proc/kcore", dir.path().join("link")).unwrap();
        assert_eq!(tally.exceeded(), Ok(false), "a gigabyte of nothing");
        for name in ["a", "b"] {
            assert_eq!(tally.exceeded(), Ok(false));
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            std::io::Write::write_all(&mut &file, &[1; 40 * 1024]).unwrap();
            // Blocks are allocated late on some file systems.
            file.sync_all().unwrap();
        }
        assert_eq!(tally.exceeded(), Ok(true));
    }
}
