//! A program on the host and the libraries that it needs, by content.
//!
//! Promises: the digest changes when any of these files does. Refuses to run the program: libraries are listed by its
//! dynamic loader, and its version is asked for inside a cell.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::capture::Stdout;
use crate::cell::{Cell, CellError, End, run};
use crate::elf;
use crate::profile::Profile;
use crate::root::Root;

/// Debian's ffmpeg lists 215 libraries in 15 KiB.
const LISTING_BYTES_MAX: u64 = 1 << 20;
/// `ffmpeg -version` prints about 2 KiB, `ffmpeg -filters` of Debian's 38 KiB.
const ANSWER_BYTES_MAX: usize = 128 * 1024;

/// One file of the cell's root, with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// Absolute path in the cell.
    pub place: PathBuf,
    /// Path on the host.
    pub source: PathBuf,
    /// SHA-256 of the content, in hex.
    pub sha256: String,
}

/// A program that can be put into a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name in the cell, where it is `/bin/NAME`.
    pub name: String,
    /// The program itself, its loader, its libraries.
    pub parts: Vec<Part>,
    /// SHA-256 over places and contents of all parts, in hex (BRK-58).
    pub manifest_digest: String,
}

/// What a program says about itself (BRK-58).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// First line of `-version`.
    pub line: String,
    /// SHA-256 of the line that starts with `configuration:`, in hex; of nothing if there is none.
    pub configuration_sha256: String,
}

/// Why a program cannot be used.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// No file name, or one with other characters than letters, digits, `.`, `_`, `-` and `+`.
    #[error("{0:?} is not a usable program name")]
    Name(PathBuf),
    /// Missing, unreadable, or not a 64-bit ELF file.
    #[error("cannot read {0:?} as a program")]
    Read(PathBuf, #[source] io::Error),
    /// The loader could not be run.
    #[error("cannot list the libraries of {0:?}")]
    List(PathBuf, #[source] io::Error),
    /// A library is missing on this host.
    #[error("the library {0} is not found: install it")]
    LibraryMissing(String),
    /// The loader answered something else than a list.
    #[error("the loader of {0:?} did not list its libraries")]
    Listing(PathBuf),
}

/// Why a program's version is unknown.
#[derive(Debug, Error)]
pub enum VersionError {
    /// The cell could not be run.
    #[error("cannot ask for the version")]
    Cell(#[from] CellError),
    /// It ran, and did not exit with code 0.
    #[error("the program ended with {0:?} when asked for its version")]
    Failed(End),
    /// It printed nothing.
    #[error("the program did not say its version")]
    Silent,
}

impl Program {
    /// Finds a program's parts. Blocks while it hashes (240 MB for Debian's ffmpeg); for start-up.
    ///
    /// # Errors
    /// [`ProgramError`], when a file is missing or not what it should be.
    pub fn resolve(path: &Path) -> Result<Self, ProgramError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(ProgramError::Name(path.to_owned()));
        }
        let unreadable = |error| ProgramError::Read(path.to_owned(), error);
        let source = path.canonicalize().map_err(unreadable)?;
        let mut parts = vec![part(Path::new("/bin").join(name), source.clone())?];
        if let Some(loader) = elf::interpreter(&source).map_err(unreadable)? {
            let listing = list(&loader, &source)?;
            for (place, source) in places(&loader, &listing)? {
                parts.push(part(place, source)?);
            }
            parts.push(part(loader.clone(), loader)?);
        }
        parts.sort();
        parts.dedup();
        let manifest_digest = manifest(&parts);
        Ok(Self { name: name.to_owned(), parts, manifest_digest })
    }

    /// Asks `-version` in a cell with the probe profile.
    ///
    /// # Errors
    /// [`VersionError`], when the cell fails or the program is not one that answers.
    pub async fn version(&self, launcher: &Path, root: &Root) -> Result<Version, VersionError> {
        self.version_in(Cell::new(launcher, root, &self.name, Profile::Probe)).await
    }

    /// The same in this cell, whose arguments are replaced: one that is degraded, on a host that lacks a layer.
    ///
    /// # Errors
    /// As [`Self::version`].
    pub async fn version_in(&self, cell: Cell) -> Result<Version, VersionError> {
        let text = ask(Cell { args: vec!["-version".to_owned()], ..cell }).await?;
        let line =
            text.lines().next().filter(|line| !line.is_empty()).ok_or(VersionError::Silent)?;
        let configuration = text.lines().find(|line| line.starts_with("configuration:"));
        let configuration_sha256 = hex::encode(Sha256::digest(configuration.unwrap_or_default()));
        Ok(Version { line: line.to_owned(), configuration_sha256 })
    }

    /// What the program prints on standard output when it is started with `args` in a cell with the probe profile and
    /// without files; cut at 128 KiB.
    ///
    /// # Errors
    /// [`VersionError`], when the cell fails or the program does not exit with code 0.
    pub async fn answer(
        &self,
        launcher: &Path,
        root: &Root,
        args: &[String],
    ) -> Result<String, VersionError> {
        let cell = Cell::new(launcher, root, &self.name, Profile::Probe);
        ask(Cell { args: args.to_vec(), ..cell }).await
    }
}

/// What a cell's program prints on standard output.
async fn ask(cell: Cell) -> Result<String, VersionError> {
    let outcome = run(&cell, &CancellationToken::new(), Stdout::Bytes(ANSWER_BYTES_MAX)).await?;
    if outcome.end != End::Exited(0) {
        return Err(VersionError::Failed(outcome.end));
    }
    Ok(String::from_utf8_lossy(&outcome.stdout.bytes).into_owned())
}

/// `LOADER --list PROGRAM` maps the libraries and prints where they are; it runs no code of theirs (ld.so(8)).
fn list(loader: &Path, program: &Path) -> Result<String, ProgramError> {
    let failed = |error| ProgramError::List(program.to_owned(), error);
    let mut child = Command::new(loader)
        .arg("--list")
        .arg(program)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LISTING_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if status.success() { Ok(text) } else { Err(ProgramError::Listing(program.to_owned())) }
}

/// Pairs of place and source. All libraries go where the C library is, which the loader always searches, so that the
/// cell needs no loader cache and no search paths.
fn places(loader: &Path, listing: &str) -> Result<Vec<(PathBuf, PathBuf)>, ProgramError> {
    let mut found = Vec::new();
    for line in listing.lines() {
        let Some((name, target)) = line.trim().split_once(" => ") else { continue };
        if target.starts_with("not found") {
            return Err(ProgramError::LibraryMissing(name.to_owned()));
        }
        let path = target.rsplit_once(" (").map_or(target, |(path, _)| path);
        if Path::new(name).file_name() != loader.file_name() {
            found.push((name, PathBuf::from(path)));
        }
    }
    let libc = found.iter().find(|(name, _)| name.starts_with("libc.so"));
    let folder = libc.and_then(|(_, path)| path.parent()).map(Path::to_owned);
    let place = |name: &str, path: &Path| match (&folder, name.contains('/')) {
        (Some(folder), false) => folder.join(name),
        _ => path.to_owned(),
    };
    Ok(found.iter().map(|(name, path)| (place(name, path), path.clone())).collect())
}

fn part(place: PathBuf, source: PathBuf) -> Result<Part, ProgramError> {
    match sha256(&source) {
        Ok(sha256) => Ok(Part { place, source, sha256 }),
        Err(error) => Err(ProgramError::Read(source, error)),
    }
}

/// SHA-256 of a file, in hex.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut HashWriter(&mut hash))?;
    Ok(hex::encode(hash.finalize()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn manifest(parts: &[Part]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(format!("{}  {}\n", part.sha256, part.place.display()));
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Program, ProgramError, places};

    #[test]
    fn libraries_gather_where_libc_is() {
        let listing = "\tlinux-vdso.so.1 (0x1)\n\tliba.so.1 => /opt/deep/liba.so.1 (0x2)\n\
            \tlibc.so.6 => /lib/t/libc.so.6 (0x3)\n\t/lib64/ld.so.2 => /lib64/ld.so.2 (0x4)\n";
        let found = places(Path::new("/lib64/ld.so.2"), listing).unwrap();
        let pair = |a: &str, b: &str| (PathBuf::from(a), PathBuf::from(b));
        let expect = [
            pair("/lib/t/liba.so.1", "/opt/deep/liba.so.1"),
            pair("/lib/t/libc.so.6", "/lib/t/libc.so.6"),
        ];
        assert_eq!(found, expect);
        let missing = places(Path::new("/l"), "\tlibx.so => not found\n");
        assert!(matches!(missing, Err(ProgramError::LibraryMissing(name)) if name == "libx.so"));
    }

    #[test]
    fn resolves_ffmpeg() {
        let program = Program::resolve(Path::new("/usr/bin/ffmpeg")).unwrap();
        let has = |name: &str| program.parts.iter().any(|part| part.place.ends_with(name));
        assert!(has("bin/ffmpeg") && has("libc.so.6"));
        assert_eq!(program, Program::resolve(Path::new("/usr/bin/ffmpeg")).unwrap());
        assert!(matches!(Program::resolve(Path::new("/")), Err(ProgramError::Name(_))));
        assert!(matches!(Program::resolve(Path::new("/etc/passwd")), Err(ProgramError::Read(..))));
    }
}
