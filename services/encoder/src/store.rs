//! Outputs on their way to the store: taken from the cell's folder with suspicion, hashed, sent by
//! presigned URL. Standard error goes along, compressed.
//!
//! Promises: what is sent was opened beneath the folder, is a regular file of one name, and has the
//! size that was reported.

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use hotcell_jail::{
    capture::Stderr,
    output::{OutputError, open_beneath},
};
use hotcell_schemas::{
    Digest,
    limits::STDERR_BYTES_MAX,
    plan::OutputPlan,
    report::{ProducedFile, StderrFile},
    work::SignedUrl,
};
use hotcell_stage::{
    blob::{BlobError, Blobs},
    retry::{Policy, retry},
};
use sha2::{Digest as _, Sha256};
use std::{io, path::Path, pin::pin, time::Duration};
use tokio::{fs::File, io::AsyncReadExt as _};

/// One read of an output.
const CHUNK_BYTES: usize = 256 * 1024;

/// zstd's default: logs shrink tenfold, and at most 64 KiB are kept of one.
const ZSTD_LEVEL: i32 = 3;

/// Tries of one upload: a store that restarts is back within half a minute.
const PUT: Policy = Policy { delay_ms_min: 200, delay_ms_max: 2000, elapsed_ms_max: 30_000 };

/// Silence of a tenant's own bucket after which an upload is given up: half of what hotcell's store has,
/// because it holds a place that other tenants' jobs wait for. Stores answer within seconds.
pub(crate) const ELSEWHERE: Duration = Duration::from_secs(15);

/// Tries of an upload to it: as long, so that one which was silent is not tried again.
const PUT_ELSEWHERE: Policy =
    Policy { delay_ms_min: 200, delay_ms_max: 2000, elapsed_ms_max: 15_000 };

/// Why an output is not taken from the cell's folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// Missing, empty, a link, a device, or of more than one name.
    #[error("the output is not there as planned")]
    Open(#[source] OutputError),
    /// No bytes.
    #[error("the output is empty")]
    Empty,
    /// It cannot be read.
    #[error("the output cannot be read")]
    Read(#[source] io::Error),
}

/// Opens and hashes one planned output in `out`.
pub(crate) async fn take(
    out: &Path,
    plan: &OutputPlan,
    bytes_max: u64,
) -> Result<ProducedFile, TakeError> {
    let (file, size) = open_beneath(out, plan.name.as_str(), bytes_max).map_err(TakeError::Open)?;
    if size == 0 {
        return Err(TakeError::Empty);
    }
    let (mut hash, mut read) = (Sha256::new(), 0_u64);
    let mut chunks = pin!(chunks(File::from_std(file), size));
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(TakeError::Read)?;
        read = read.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        hash.update(&chunk);
    }
    if read != size {
        return Err(TakeError::Read(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(ProducedFile {
        name: plan.name.clone(),
        size,
        content_type: plan.content_type.clone(),
        sha256: Digest::from_bytes(hash.finalize().into()),
    })
}

/// At most `left` bytes of a file.
fn chunks(file: File, left: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((file, left), |(mut file, left)| async move {
        let want = CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES));
        let mut chunk = vec![0; want];
        let size = file.read(&mut chunk).await?;
        chunk.truncate(size);
        let left = left.saturating_sub(u64::try_from(size).unwrap_or(u64::MAX));
        Ok((size > 0).then(|| (Bytes::from(chunk), (file, left))))
    })
}

/// Sends one output. A name that is taken is success: the URL is bound to this attempt, this size
/// and this hash, so what is there came from an earlier try, and the hasher looks in any case.
/// `silence` is the longest that is borne; nothing where hotcell's own store is written to.
pub(crate) async fn put_file(
    blobs: &Blobs,
    url: &SignedUrl,
    out: &Path,
    file: &ProducedFile,
    silence: Option<Duration>,
) -> Result<(), BlobError> {
    let send = || async {
        // What was hashed a moment ago is still there: the cell is gone and the folder is ours.
        let opened = open_beneath(out, file.name.as_str(), file.size);
        let (opened, size) = opened.map_err(|_| BlobError::Refused(0))?;
        let chunks = chunks(File::from_std(opened), size);
        match silence {
            None => blobs.put(url, size, chunks).await,
            Some(silence) => blobs.put_unless_silent(url, size, chunks, silence).await,
        }
    };
    let tries = if silence.is_some() { PUT_ELSEWHERE } else { PUT };
    taken_is_sent(retry(tries, BlobError::is_transient, send).await)
}

/// Sends the compressed standard error.
pub(crate) async fn put_bytes(
    blobs: &Blobs,
    url: &SignedUrl,
    bytes: &Bytes,
) -> Result<(), BlobError> {
    let send = || async {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let body = bytes.clone();
        blobs.put(url, size, stream::once(async move { Ok(body) })).await
    };
    taken_is_sent(retry(PUT, BlobError::is_transient, send).await)
}

fn taken_is_sent(sent: Result<(), BlobError>) -> Result<(), BlobError> {
    match sent {
        Err(BlobError::Exists) => Ok(()),
        other => other,
    }
}

/// Standard error, compressed, with what the report says of it.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    /// The compressed bytes.
    pub(crate) bytes: Bytes,
    /// SHA-256 of the compressed bytes.
    pub(crate) sha256: Digest,
    /// For the report.
    pub(crate) file: StderrFile,
}

/// Compresses what was kept of standard error; `None` when there is nothing.
pub(crate) fn pack(stderr: &Stderr) -> io::Result<Option<Packed>> {
    if stderr.bytes == 0 {
        return Ok(None);
    }
    let gap = match stderr.dropped {
        0 => String::new(),
        bytes => format!("\n[{bytes} bytes are not kept]\n"),
    };
    let mut text = format!("{}{gap}{}", stderr.head, stderr.tail).into_bytes();
    text.truncate(usize::try_from(STDERR_BYTES_MAX).unwrap_or(usize::MAX));
    let bytes = Bytes::from(zstd::encode_all(text.as_slice(), ZSTD_LEVEL)?);
    let file = StderrFile {
        bytes: stderr.bytes,
        sha256: Digest::of(&text),
        stored_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
    };
    Ok(Some(Packed { sha256: Digest::of(&bytes), bytes, file }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn plan(name: &str) -> OutputPlan {
        OutputPlan {
            name: name.parse().unwrap(),
            format: hotcell_schemas::request::Format::Mp3,
            content_type: "audio/mpeg".to_owned(),
            video: None,
            audio: None,
            raw: None,
        }
    }

    #[tokio::test]
    async fn only_real_files_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let bytes = vec![7_u8; CHUNK_BYTES + 1];
        fs::write(path("good"), &bytes).unwrap();
        fs::write(path("empty"), "").unwrap();
        fs::write(path("one"), "1").unwrap();
        fs::hard_link(path("one"), path("two")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("link")).unwrap();

        let max = u64::try_from(bytes.len()).unwrap();
        let good = take(dir.path(), &plan("good"), max).await.unwrap();
        assert_eq!((good.size, good.sha256), (max, Digest::of(&bytes)));
        let large = take(dir.path(), &plan("good"), max - 1).await;
        assert!(matches!(large, Err(TakeError::Open(OutputError::TooLarge { .. }))));
        assert!(matches!(take(dir.path(), &plan("empty"), max).await, Err(TakeError::Empty)));
        for name in ["one", "two", "link", "none"] {
            let taken = take(dir.path(), &plan(name), max).await;
            assert!(matches!(taken, Err(TakeError::Open(_))), "{name}");
        }
    }

    #[test]
    fn stderr_is_packed() {
        assert!(pack(&Stderr::default()).unwrap().is_none());
        let stderr = Stderr {
            head: "head".to_owned(),
            tail: "tail".to_owned(),
            bytes: 1000,
            dropped: 992,
            sha256: String::new(),
        };
        let packed = pack(&stderr).unwrap().unwrap();
        let text = zstd::decode_all(packed.bytes.as_ref()).unwrap();
        assert_eq!(text, b"head\n[992 bytes are not kept]\ntail");
        assert_eq!(packed.file.sha256, Digest::of(&text));
        assert_eq!(packed.sha256, Digest::of(&packed.bytes));
        assert_eq!(
            (packed.file.bytes, packed.file.stored_bytes),
            (1000, packed.bytes.len() as u64)
        );
    }
}
