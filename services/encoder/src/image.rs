//! What this worker is, by content: the digest that its operator puts on the signer's list.
//!
//! Promises: the digest changes when the worker, the launcher, FFmpeg or any library of the cell
//! does (ZT-03). Refuses to be a proof: a worker states it, and only the operator's own control of
//! the machine makes it true.

use hotcell_jail::{
    program::{Program, ProgramError},
    root::{Root, RootError},
};
use hotcell_schemas::Digest;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Separates this use of SHA-256 from every other.
const DOMAIN: &str = "hotcell/image/v1";

/// One read of a program.
const CHUNK_BYTES: usize = 64 * 1024;

/// Why an image has no digest.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The worker or the launcher cannot be read.
    #[error("cannot read the program {path}")]
    Read {
        /// The program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// FFmpeg or its prober cannot be used.
    #[error("a program of the cell cannot be used")]
    Program(#[source] ProgramError),
    /// The cells' file tree cannot be made.
    #[error("the cells' file tree cannot be made in root_cache")]
    Root(#[source] RootError),
}

/// The programs of one worker.
#[derive(Debug, Clone)]
pub struct Image {
    /// SHA-256 over all of them: what the signer's list names.
    pub digest: Digest,
    /// SHA-256 over what is in the cell.
    pub root_digest: Digest,
    /// The cells' file tree.
    pub root: Root,
    /// The transcoder.
    pub ffmpeg: Program,
    /// The prober.
    pub ffprobe: Program,
}

impl Image {
    /// Reads the programs and makes the cells' file tree in `root_cache`. Blocks while it hashes
    /// and copies, about a second for Debian's FFmpeg.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn read(
        worker: &Path,
        launcher: &Path,
        ffmpeg: &Path,
        ffprobe: &Path,
        root_cache: &Path,
    ) -> Result<Self, ImageError> {
        let ffmpeg = Program::resolve(ffmpeg).map_err(ImageError::Program)?;
        let ffprobe = Program::resolve(ffprobe).map_err(ImageError::Program)?;
        std::fs::create_dir_all(root_cache)
            .map_err(|source| ImageError::Read { path: root_cache.to_owned(), source })?;
        let root = Root::prepare(root_cache, &[ffmpeg.clone(), ffprobe.clone()])
            .map_err(ImageError::Root)?;
        let root_digest = root.digest().parse().expect("a root's digest is SHA-256 in hex");
        let digest = image_digest(worker, launcher, root_digest)?;
        Ok(Self { digest, root_digest, root, ffmpeg, ffprobe })
    }
}

/// SHA-256 over the worker's and the launcher's program files and the digest of the cells' root.
///
/// # Errors
/// [`ImageError::Read`].
pub fn image_digest(
    worker: &Path,
    launcher: &Path,
    root_digest: Digest,
) -> Result<Digest, ImageError> {
    let hash = |path: &Path| {
        file_digest(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })
    };
    let text = format!(
        "{DOMAIN}\n{}  worker\n{}  launcher\n{root_digest}  root\n",
        hash(worker)?,
        hash(launcher)?
    );
    Ok(Digest::of(text.as_bytes()))
}

fn file_digest(path: &Path) -> io::Result<Digest> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let size = file.read(&mut chunk)?;
        if size == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(chunk.get(..size).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zt_03_every_part_changes_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
        let digest = |root| image_digest(&path("worker"), &path("launcher"), root).unwrap();
        let (root, other) = (Digest::of(b"root"), Digest::of(b"other"));
        write("worker", "1");
        write("launcher", "2");
        let first = digest(root);
        assert_eq!(digest(root), first);
        assert_ne!(digest(other), first);
        write("worker", "2");
        assert_ne!(digest(root), first);
        write("worker", "1");
        write("launcher", "1");
        assert_ne!(digest(root), first);
        assert!(image_digest(&path("none"), &path("launcher"), root).is_err());
    }
}
