//! An input on its way to the attempt's folder. Promises: the file that is left has the size and
//! the SHA-256 that the order names (ZT-05), and never more bytes than that reach the disk.

use futures::TryStreamExt as _;
use hotcell_schemas::{
    Digest,
    work::{OrderInput, SignedUrl},
};
use hotcell_stage::blob::{BlobError, Blobs};
use sha2::{Digest as _, Sha256};
use std::{io, path::Path, pin::pin};
use tokio::{fs::OpenOptions, io::AsyncWriteExt as _};

/// Read by this user only; the cell gets it by a read-only bind mount.
const FILE_MODE: u32 = 0o600;

/// Why there is no input.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The store did not give it.
    #[error("the input cannot be read from the store")]
    Store(#[source] BlobError),
    /// Another size or another hash.
    #[error("the input in the store is not the one that was pinned")]
    Changed,
    /// The disk is full, or worse.
    #[error("the input cannot be written to the worker's disk")]
    Disk(#[source] io::Error),
}

impl FetchError {
    /// Whether the same URL can work later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}

/// Reads `url` into `path`, which is replaced, and checks it against `input`.
pub(crate) async fn fetch(
    blobs: &Blobs,
    url: &SignedUrl,
    input: &OrderInput,
    path: &Path,
) -> Result<(), FetchError> {
    let fetched = blobs.get(url).await.map_err(FetchError::Store)?;
    if fetched.size.is_some_and(|size| size != input.size) {
        return Err(FetchError::Changed);
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    let mut file = options.open(path).await.map_err(FetchError::Disk)?;
    let mut stream = pin!(fetched.stream());
    let (mut left, mut hash) = (input.size, Sha256::new());
    while let Some(chunk) = stream.try_next().await.map_err(FetchError::Store)? {
        let size = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        left = left.checked_sub(size).ok_or(FetchError::Changed)?;
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(FetchError::Disk)?;
    }
    file.flush().await.map_err(FetchError::Disk)?;
    let same = left == 0 && Digest::from_bytes(hash.finalize().into()) == input.sha256;
    if same { Ok(()) } else { Err(FetchError::Changed) }
}
