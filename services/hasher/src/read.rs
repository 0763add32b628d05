//! Reading one output again, by presigned URL.

use crate::compare::Comparison;
pub use crate::compare::Difference;
use futures::TryStreamExt as _;
use hotcell_schemas::{Digest, work::SignedUrl};
use hotcell_stage::blob::{BlobError, Blobs};
use std::pin::pin;

/// What the store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The reported bytes.
    Same,
    /// Other bytes.
    Different(Difference),
    /// Nothing.
    Missing,
}

/// Reads `url` and compares; stops at the first byte too many.
///
/// # Errors
/// [`BlobError`], when the store does not answer: no verdict.
pub async fn read(
    blobs: &Blobs,
    url: &SignedUrl,
    size: u64,
    sha256: Digest,
) -> Result<Found, BlobError> {
    let fetched = match blobs.get(url).await {
        Ok(fetched) => fetched,
        Err(BlobError::Missing) => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    let declared = fetched.size.unwrap_or(size);
    if declared > size {
        return Ok(Found::Different(Difference::Longer(size)));
    }
    let mut comparison = Comparison::new(size, sha256);
    let mut stream = pin!(fetched.stream());
    while let Some(chunk) = stream.try_next().await? {
        if let Err(difference) = comparison.take(&chunk) {
            return Ok(Found::Different(difference));
        }
    }
    Ok(comparison.end().map_or_else(Found::Different, |()| Found::Same))
}
