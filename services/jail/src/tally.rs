//! How much a cell has written to its output folder, as RLIMIT_FSIZE limits one file but not their number.
//!
//! Promises: counts what each file costs here and what it would cost whoever reads it, whichever is more, so that
//! neither preallocated blocks nor the holes of a sparse file are free. Refuses to follow links, and to look into
//! folders, which the payload cannot make.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, statat};
use rustix::io::Errno;

/// Unit of `st_blocks`, whatever the file system's own block size is: inode(7).
const BLOCK_BYTES: u64 = 512;

/// The output folder, held open, and what may be in it.
#[derive(Debug)]
pub(crate) struct Tally {
    folder: OwnedFd,
    bytes_max: u64,
    files_max: u64,
}

/// What is in it. Once a limit is passed the count stops, and is "at least".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Sizes of the files, as their reader sees them.
    pub(crate) bytes: u64,
    /// What they cost: at least that, and at least the space that is taken.
    costs: u64,
    files: u64,
}

impl Tally {
    pub(crate) fn open(folder: &Path, bytes_max: u64, files_max: u64) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { folder: open(folder, flags, Mode::empty())?, bytes_max, files_max })
    }

    /// Whether that is more bytes or more files than allowed.
    pub(crate) fn is_over(&self, held: Held) -> bool {
        held.costs > self.bytes_max || held.files > self.files_max
    }

    /// Counts.
    pub(crate) fn count(&self) -> Result<Held, Errno> {
        let mut held = Held::default();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            held.files += 1;
            match statat(&self.folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let blocks = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX);
                    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
                    let costs = blocks.saturating_mul(BLOCK_BYTES).max(size);
                    held.bytes = held.bytes.saturating_add(size);
                    held.costs = held.costs.saturating_add(costs);
                }
                // Renamed or removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            if self.is_over(held) {
                break;
            }
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::Tally;

    #[test]
    fn counts_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let tally = Tally::open(dir.path(), 64 * 1024, 3).unwrap();
        let over = || tally.is_over(tally.count().unwrap());
        symlink("/proc/kcore", dir.path().join("link")).unwrap();
        for name in ["a", "b"] {
            assert!(!over());
            let file = File::create(dir.path().join(name)).unwrap();
            (&file).write_all(&[1; 40 * 1024]).unwrap();
            // Blocks are allocated late on some file systems.
            file.sync_all().unwrap();
        }
        assert!(over());
    }

    #[test]
    fn a_hole_counts_as_what_its_reader_would_get() {
        let dir = tempfile::tempdir().unwrap();
        let tally = Tally::open(dir.path(), 1 << 20, 9).unwrap();
        let sparse = File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        assert!(!tally.is_over(tally.count().unwrap()));
        sparse.set_len((1 << 20) + 1).unwrap();
        assert!(tally.is_over(tally.count().unwrap()));
    }

    #[test]
    fn empty_files_count_too() {
        let dir = tempfile::tempdir().unwrap();
        let tally = Tally::open(dir.path(), 1 << 20, 3).unwrap();
        for name in ["a", "b", "c"] {
            assert!(!tally.is_over(tally.count().unwrap()));
            File::create(dir.path().join(name)).unwrap();
        }
        assert!(!tally.is_over(tally.count().unwrap()));
        File::create(dir.path().join("d")).unwrap();
        assert!(tally.is_over(tally.count().unwrap()));
    }
}
