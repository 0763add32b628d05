//! Receives the bytes of one object into a temporary file and says whether they are the right ones.
//!
//! Promises: memory is one buffer whatever the size; nothing is visible until length and every
//! checksum that the client named are verified; a client that goes away leaves nothing behind.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::{S3Error, S3ErrorCode, TrailingHeaders};
use thiserror::Error;

use crate::disk::{Disk, DiskError, TempFile};

/// Bytes that are hashed and written at a time.
const BUFFER_BYTES: usize = 256 * 1024;
/// Largest object: the limit of one PUT in S3, 5 GiB.
pub(crate) const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Longest wait for the next bytes of a body: a client that stalls must not hold a file for ever.
const STALL_MAX: Duration = Duration::from_secs(30);

/// The checksum headers of S3, in the order of [`Sums::named`].
const CHECKSUM_HEADERS: [&str; 5] = [
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
];

/// Why the bytes are not taken.
#[derive(Debug, Error)]
pub(crate) enum UploadError {
    #[error("the length of the body must be declared")]
    NoLength,
    #[error("the object is too large")]
    TooLarge,
    #[error("the body does not have the declared length")]
    Length,
    #[error("a checksum does not match the body")]
    Checksum,
    #[error("the body could not be read to its end")]
    Body,
    #[error("no bytes came for 30 seconds")]
    Stalled,
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl UploadError {
    pub(crate) fn code(&self) -> S3ErrorCode {
        match self {
            Self::NoLength => S3ErrorCode::MissingContentLength,
            Self::TooLarge => S3ErrorCode::EntityTooLarge,
            Self::Length | Self::Body => S3ErrorCode::IncompleteBody,
            Self::Checksum => S3ErrorCode::BadDigest,
            Self::Stalled => S3ErrorCode::RequestTimeout,
            Self::Disk(_) => S3ErrorCode::InternalError,
        }
    }
}

/// What the client says about the bytes.
pub(crate) struct Expected {
    pub(crate) bytes: u64,
    checksums: [Option<String>; 5],
    md5: Option<String>,
    /// Checksums that come after the body (`x-amz-trailer`).
    trailing: Vec<String>,
    trailers: Option<TrailingHeaders>,
}

impl Expected {
    /// From the headers of the request.
    pub(crate) fn new(
        headers: &HeaderMap,
        content_length: Option<i64>,
        trailers: Option<TrailingHeaders>,
    ) -> Result<Self, UploadError> {
        let bytes = content_length.ok_or(UploadError::NoLength)?;
        let bytes = u64::try_from(bytes).map_err(|_| UploadError::NoLength)?;
        if bytes > OBJECT_BYTES_MAX {
            return Err(UploadError::TooLarge);
        }
        let text =
            |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let names = text("x-amz-trailer").unwrap_or_default();
        let names = names.split(',').map(|name| name.trim().to_ascii_lowercase());
        Ok(Self {
            bytes,
            checksums: CHECKSUM_HEADERS.map(text),
            md5: text("content-md5"),
            trailing: names.filter(|name| !name.is_empty()).collect(),
            trailers,
        })
    }

    fn names(&self, header: &str) -> bool {
        let in_header = CHECKSUM_HEADERS.iter().zip(&self.checksums);
        let in_header = in_header.filter(|(name, _)| **name == header).any(|(_, v)| v.is_some());
        in_header || self.trailing.iter().any(|name| name == header)
    }

    /// Every checksum that was named, in a header or behind the body, must be there and match.
    fn check(&self, sums: &Sums) -> Result<(), UploadError> {
        let trailers = self.trailers.as_ref().and_then(TrailingHeaders::take).unwrap_or_default();
        for ((name, header), actual) in
            CHECKSUM_HEADERS.iter().zip(&self.checksums).zip(sums.named())
        {
            let promised = self.trailing.iter().any(|trailing| trailing == name);
            let trailer = trailers.get(*name).and_then(|value| value.to_str().ok());
            let header_ok = header.as_ref().is_none_or(|value| Some(value) == actual);
            let trailer_ok = !promised || (trailer.is_some() && trailer == actual.map(|s| &**s));
            if !header_ok || !trailer_ok {
                return Err(UploadError::Checksum);
            }
        }
        if self.md5.is_some() && self.md5 != sums.md5 {
            return Err(UploadError::Checksum);
        }
        Ok(())
    }
}

/// The checksums of what was received, base64.
pub(crate) struct Sums {
    checksum: s3s::dto::Checksum,
    md5: Option<String>,
}

impl Sums {
    fn named(&self) -> [Option<&String>; 5] {
        let sums = &self.checksum;
        [
            sums.checksum_crc32.as_ref(),
            sums.checksum_crc32c.as_ref(),
            sums.checksum_crc64nvme.as_ref(),
            sums.checksum_sha1.as_ref(),
            sums.checksum_sha256.as_ref(),
        ]
    }

    /// SHA-256, base64.
    pub(crate) fn sha256(&self) -> &str {
        self.checksum.checksum_sha256.as_deref().unwrap_or_default()
    }
}

/// The file and the hashers, moved to a blocking thread for each buffer.
struct Sink {
    temp: TempFile,
    hasher: ChecksumHasher,
    md5: Option<Md5>,
}

impl Sink {
    fn open(disk: &Disk, expected: &Expected) -> Result<Self, DiskError> {
        let hasher = ChecksumHasher {
            crc32: expected.names("x-amz-checksum-crc32").then(Crc32::new),
            crc32c: expected.names("x-amz-checksum-crc32c").then(Crc32c::new),
            crc64nvme: expected.names("x-amz-checksum-crc64nvme").then(Crc64Nvme::new),
            sha1: expected.names("x-amz-checksum-sha1").then(Sha1::new),
            sha256: Some(Sha256::new()),
        };
        Ok(Self { temp: disk.temp()?, hasher, md5: expected.md5.is_some().then(Md5::new) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.hasher.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        let what = "write an object";
        self.temp.file.write_all(bytes).map_err(|source| DiskError::Io { what, source })
    }

    fn finish(self) -> (TempFile, Sums) {
        use base64::Engine as _;
        let encode = |sum| base64::engine::general_purpose::STANDARD.encode(sum);
        let md5 = self.md5.map(|md5| encode(md5.finalize()));
        (self.temp, Sums { checksum: self.hasher.finalize(), md5 })
    }
}

/// Reads the body to its end and verifies it; the file is still invisible.
pub(crate) async fn receive<S, E>(
    disk: &Arc<Disk>,
    body: S,
    expected: &Expected,
) -> Result<(TempFile, Sums), UploadError>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
{
    let mut sink = Sink::open(disk, expected)?;
    let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
    let mut received: u64 = 0;
    let mut body = std::pin::pin!(body);
    loop {
        let next = tokio::time::timeout(STALL_MAX, body.next()).await;
        let Some(bytes) = next.map_err(|_| UploadError::Stalled)? else { break };
        let bytes = bytes.map_err(|_| UploadError::Body)?;
        received = received.saturating_add(bytes.len() as u64);
        if received > expected.bytes {
            return Err(UploadError::Length);
        }
        buffer.extend_from_slice(&bytes);
        if buffer.len() >= BUFFER_BYTES {
            (sink, buffer) = flush(sink, buffer).await?;
        }
    }
    if received != expected.bytes {
        return Err(UploadError::Length);
    }
    (sink, _) = flush(sink, buffer).await?;
    let (temp, sums) = sink.finish();
    expected.check(&sums)?;
    Ok((temp, sums))
}

async fn flush(mut sink: Sink, mut buffer: BytesMut) -> Result<(Sink, BytesMut), DiskError> {
    blocking(move || {
        sink.write(&buffer)?;
        buffer.clear();
        Ok((sink, buffer))
    })
    .await
}

/// Runs file system work on a blocking thread.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, DiskError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, DiskError> + Send + 'static,
{
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| {
        let what = "finish a file operation";
        Err(DiskError::Io { what, source: std::io::Error::other(error) })
    })
}

impl From<UploadError> for S3Error {
    fn from(error: UploadError) -> Self {
        S3Error::with_message(error.code(), error.to_string())
    }
}
