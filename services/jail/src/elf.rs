//! The one thing that is needed of an ELF file: the path of its dynamic loader (PT_INTERP).
//!
//! Promises: reads at most the header and the program headers of a 64-bit little-endian file, each read bounded.
//! Refuses everything else. Source: System V ABI, chapters 4 and 5; elf(5).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// Real programs have about 13.
const PROGRAM_HEADERS_MAX: u16 = 64;
/// PATH_MAX.
const INTERPRETER_BYTES_MAX: u64 = 4096;
const PT_INTERP: u64 = 3;

/// The loader that the kernel starts for this program; `None` when it is static.
///
/// # Errors
/// What reading says; `InvalidData` when it is not a 64-bit little-endian ELF file.
pub(crate) fn interpreter(path: &Path) -> io::Result<Option<PathBuf>> {
    let file = File::open(path)?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (offset, count) = (number(&header, 32, 8), number(&header, 56, 2));
    if count > u64::from(PROGRAM_HEADERS_MAX) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    for index in 0..count {
        let mut entry = [0; PROGRAM_HEADER_BYTES];
        let at =
            index.checked_mul(PROGRAM_HEADER_BYTES as u64).and_then(|at| at.checked_add(offset));
        file.read_exact_at(&mut entry, at.ok_or(io::ErrorKind::InvalidData)?)?;
        if number(&entry, 0, 4) == PT_INTERP {
            let (start, len) = (number(&entry, 8, 8), number(&entry, 32, 8));
            if len > INTERPRETER_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut name = vec![0; usize::try_from(len).unwrap_or(0)];
            file.read_exact_at(&mut name, start)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            return Ok(Some(PathBuf::from(OsStr::from_bytes(name))));
        }
    }
    Ok(None)
}

/// `len` little-endian bytes at `at`; 0 outside, which the callers' constants exclude.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let field = bytes.get(at..at + len).unwrap_or_default();
    field.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::interpreter;

    #[test]
    fn finds_the_loader_of_this_test() {
        let own = std::env::current_exe().unwrap();
        let loader = interpreter(&own).unwrap().unwrap();
        assert!(loader.is_absolute() && loader.exists());
        assert_eq!(interpreter(&loader).unwrap(), None, "the loader itself is static");
    }

    #[test]
    fn refuses_what_is_not_a_program() {
        assert!(
            interpreter(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))).is_err()
        );
        assert!(interpreter(Path::new("/dev/null")).is_err());
    }
}
