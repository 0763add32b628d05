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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, body::Body, http::StatusCode, routing::get};
    use bytes::Bytes;
    use futures::stream;
    use hotcell_schemas::{UnixMs, work::SecretUrl};
    use hotcell_stage::retry::{Policy, retry};
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    /// Chunked, so without a size: what a store that lies could do.
    fn chunked(chunks: &'static [&'static str]) -> Body {
        let chunks =
            chunks.iter().map(|chunk| Ok::<_, io::Error>(Bytes::from_static(chunk.as_bytes())));
        Body::from_stream(stream::iter(chunks))
    }

    /// Fails twice, then serves.
    async fn flaky(calls: Arc<AtomicU64>) -> Result<&'static str, StatusCode> {
        if calls.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        Ok("abcd")
    }

    async fn store() -> String {
        let calls = Arc::new(AtomicU64::new(0));
        let app = Router::new()
            .route("/good", get(async || "abcd"))
            .route("/chunked", get(async || chunked(&["ab", "cd"])))
            .route("/changed", get(async || "abce"))
            .route("/longer", get(async || "abcde"))
            .route("/longer-chunked", get(async || chunked(&["ab", "cd", "e"])))
            .route("/shorter", get(async || "abc"))
            .route("/shorter-chunked", get(async || chunked(&["ab"])))
            .route("/denied", get(async || StatusCode::FORBIDDEN))
            .route("/down", get(async || StatusCode::BAD_GATEWAY))
            .route("/elsewhere", get(async || (StatusCode::FOUND, [("location", "/good")])))
            .route("/flaky", get(move || flaky(Arc::clone(&calls))));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        format!("http://{address}")
    }

    fn input(url: String) -> OrderInput {
        let get =
            SignedUrl { url: SecretUrl::new(url), headers: Vec::new(), expires_at: UnixMs(0) };
        OrderInput { get, size: 4, sha256: Digest::of(b"abcd") }
    }

    #[tokio::test]
    async fn zt_05_only_the_pinned_bytes_pass() {
        let (base, blobs, dir) = (store().await, Blobs::new(), tempfile::tempdir().unwrap());
        let path = dir.path().join("in0");
        let get = async |from: &str| {
            let input = input(format!("{base}{from}"));
            fetch(&blobs, &input.get, &input, &path).await
        };
        for good in ["/good", "/chunked"] {
            get(good).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"abcd", "{good}");
        }
        for bad in ["/changed", "/longer", "/longer-chunked", "/shorter", "/shorter-chunked"] {
            assert!(matches!(get(bad).await, Err(FetchError::Changed)), "{bad}");
            assert!(std::fs::metadata(&path).unwrap().len() <= 4, "{bad}");
        }
        let store = |result: Result<(), FetchError>| match result {
            Err(FetchError::Store(error)) => error,
            other => panic!("{other:?}"),
        };
        assert!(matches!(store(get("/nothing").await), BlobError::Missing));
        assert!(matches!(store(get("/denied").await), BlobError::Denied(403)));
        assert!(matches!(store(get("/down").await), BlobError::Unreachable(_)));
        // A redirect could lead anywhere, so it is not followed.
        assert!(get("/elsewhere").await.is_err());
    }

    #[tokio::test]
    async fn a_store_that_comes_back_is_waited_for() {
        let (base, blobs, dir) = (store().await, Blobs::new(), tempfile::tempdir().unwrap());
        let (input, path) = (input(format!("{base}/flaky")), dir.path().join("in0"));
        let once = || fetch(&blobs, &input.get, &input, &path);
        retry(Policy::REQUEST, FetchError::is_transient, once).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abcd");
    }
}
