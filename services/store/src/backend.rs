//! The S3 operations over [`Disk`]: objects, one listing, one bucket call. Everything else answers
//! `NotImplemented`, above all `CopyObject`, which would let one URL read another key.
//!
//! Promises: an object is served with the SHA-256 it was stored with; a failed precondition, a
//! wrong length or a wrong checksum changes nothing. Who may call what was decided in `access.rs`.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt as _;
use s3s::dto::{
    BucketName, ChecksumMode, CommonPrefix, CreateBucketInput, CreateBucketOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    ETag, ETagCondition, EncodingType, GetObjectInput, GetObjectOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object, PutObjectInput, PutObjectOutput, Range, StreamingBlob, Timestamp,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use tracing::Dispatch;

use crate::disk::{Bucket, Committed, Disk, DiskError, Precondition};
use crate::index::{LIST_KEYS_MAX, Query};
use crate::meta::{Headers, Meta, NameError, check_bucket, check_key};
use crate::upload::{Expected, UploadError, blocking, receive};

/// Bytes that are read from disk at a time.
const READ_BYTES: usize = 256 * 1024;
/// Most keys of one `DeleteObjects`, as S3 has it.
const DELETE_KEYS_MAX: usize = 1000;

/// The backend that s3s calls.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    disk: Arc<Disk>,
    /// s3s is run without a subscriber (`server.rs`), so our own errors need theirs.
    log: Dispatch,
}

impl Backend {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        Self { disk, log: tracing::dispatcher::get_default(Dispatch::clone) }
    }

    fn bucket(&self, name: &str) -> S3Result<Arc<Bucket>> {
        self.disk.bucket(name).ok_or_else(|| s3_error!(NoSuchBucket, "The bucket does not exist"))
    }

    /// A failure of ours: the client learns nothing of it, the operator everything.
    fn internal(&self, error: &DiskError) -> S3Error {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::dispatcher::with_default(&self.log, || {
            tracing::error!(%error, source, "storage failed");
        });
        s3_error!(InternalError, "The storage failed")
    }

    async fn disk<T, F>(&self, work: F) -> S3Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Disk) -> Result<T, DiskError> + Send + 'static,
    {
        let disk = Arc::clone(&self.disk);
        blocking(move || work(&disk)).await.map_err(|error| self.internal(&error))
    }

    async fn open(&self, bucket: &str, key: String) -> S3Result<(std::fs::File, Meta)> {
        check_key(&key)?;
        let bucket = self.bucket(bucket)?;
        let found = self.disk(move |_| bucket.open(&key)).await?;
        found.ok_or_else(|| s3_error!(NoSuchKey, "The key does not exist"))
    }

    async fn put(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let (headers, trailers, input) = (req.headers, req.trailing_headers, req.input);
        check_key(&input.key)?;
        let bucket = self.bucket(&input.bucket)?;
        let precondition = precondition(input.if_match, input.if_none_match)?;
        let stored = Headers {
            content_type: input.content_type,
            content_disposition: input.content_disposition,
            content_encoding: input.content_encoding.and_then(|text| without_aws_chunked(&text)),
            content_language: input.content_language,
            cache_control: input.cache_control,
            user: input.metadata.unwrap_or_default().into_iter().collect(),
        };
        stored.check()?;
        let expected = Expected::new(&headers, input.content_length, trailers)?;
        let body = input.body.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
        let body = body.map_err(|_| UploadError::Body);
        let received = receive(&self.disk, body, &expected).await;
        let (temp, sums) = received.map_err(|error| {
            if let UploadError::Disk(disk) = &error { self.internal(disk) } else { error.into() }
        })?;
        let sha256 = sums.sha256().to_owned();
        let meta = Meta {
            key: input.key,
            size: expected.bytes,
            sha256: hex::encode(STANDARD.decode(&sha256).unwrap_or_default()),
            modified_unix_ms: hotcell_stage::clock::now().0,
            headers: stored,
        };
        let e_tag = Some(ETag::Strong(meta.sha256.clone()));
        let commit = move |disk: &Disk| disk.commit(&bucket, temp, &meta, &precondition);
        if self.disk(commit).await? == Committed::No {
            return Err(s3_error!(PreconditionFailed, "The precondition does not hold"));
        }
        let checksum_sha256 = Some(sha256);
        Ok(S3Response::new(PutObjectOutput { e_tag, checksum_sha256, ..Default::default() }))
    }

    async fn get(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        whole_object(input.part_number.is_some() || input.version_id.is_some())?;
        let (file, meta) = self.open(&input.bucket, input.key).await?;
        check_conditions(
            &meta,
            &Conditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            },
        )?;
        let (from, length, content_range) = span(input.range, meta.size)?;
        let mut file = tokio::fs::File::from_std(file);
        let io = |source| DiskError::Io { what: "read an object", source };
        file.seek(std::io::SeekFrom::Start(from)).await.map_err(|e| self.internal(&io(e)))?;
        file.set_max_buf_size(READ_BYTES);
        let stream = ReaderStream::with_capacity(file.take(length), READ_BYTES);
        // The checksum is of the whole object; clients would hold it against the part.
        let whole = content_range.is_none();
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(stream)),
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(signed(length)),
            content_range,
            checksum_sha256: checksum(&meta, input.checksum_mode.as_ref()).filter(|_| whole),
            e_tag: Some(ETag::Strong(meta.sha256)),
            last_modified: Some(time_of(meta.modified_unix_ms)),
            content_type: media_type(meta.headers.content_type.as_deref()),
            content_disposition: meta.headers.content_disposition,
            content_encoding: meta.headers.content_encoding,
            content_language: meta.headers.content_language,
            cache_control: meta.headers.cache_control,
            metadata: Some(meta.headers.user.into_iter().collect()),
            ..Default::default()
        }))
    }

    async fn head(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        whole_object(input.part_number.is_some() || input.version_id.is_some())?;
        let (_, meta) = self.open(&input.bucket, input.key).await?;
        check_conditions(
            &meta,
            &Conditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            },
        )?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(signed(meta.size)),
            checksum_sha256: checksum(&meta, input.checksum_mode.as_ref()),
            e_tag: Some(ETag::Strong(meta.sha256)),
            last_modified: Some(time_of(meta.modified_unix_ms)),
            content_type: media_type(meta.headers.content_type.as_deref()),
            content_disposition: meta.headers.content_disposition,
            content_encoding: meta.headers.content_encoding,
            content_language: meta.headers.content_language,
            cache_control: meta.headers.cache_control,
            metadata: Some(meta.headers.user.into_iter().collect()),
            ..Default::default()
        }))
    }

    async fn delete(&self, bucket: Arc<Bucket>, keys: Vec<String>) -> S3Result<()> {
        self.disk(move |disk| keys.iter().try_for_each(|key| disk.delete(&bucket, key))).await
    }

    fn list(&self, input: ListObjectsV2Input) -> S3Result<S3Response<ListObjectsV2Output>> {
        let keys_max = input.max_keys.unwrap_or(i32::MAX);
        let keys_max = usize::try_from(keys_max)
            .map_err(|_| s3_error!(InvalidArgument, "max-keys is negative"))?
            .min(LIST_KEYS_MAX);
        let bucket = self.bucket(&input.bucket)?;
        let page = bucket.list(&Query {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: input.delimiter.as_deref(),
            token: input.continuation_token.as_deref(),
            start_after: input.start_after.as_deref(),
            keys_max,
        });
        let page =
            page.map_err(|_| s3_error!(InvalidArgument, "The continuation token is not valid"))?;
        let url = input.encoding_type.as_ref().is_some_and(|e| e.as_str() == EncodingType::URL);
        let show = |text: String| if url { url_encode(&text) } else { text };
        let count = page.objects.len() + page.common_prefixes.len();
        let contents = page.objects.into_iter().map(|(key, entry)| Object {
            key: Some(show(key)),
            size: Some(signed(entry.size)),
            e_tag: Some(ETag::Strong(entry.sha256)),
            last_modified: Some(time_of(entry.modified_unix_ms)),
            ..Default::default()
        });
        let common = page.common_prefixes.into_iter();
        let common = common.map(|prefix| CommonPrefix { prefix: Some(show(prefix)) });
        let narrow = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(show(input.prefix.unwrap_or_default())),
            delimiter: input.delimiter.map(show),
            start_after: input.start_after.map(show),
            encoding_type: input.encoding_type,
            continuation_token: input.continuation_token,
            max_keys: Some(narrow(keys_max)),
            key_count: Some(narrow(count)),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next,
            contents: Some(contents.collect()),
            common_prefixes: Some(common.collect()),
            ..Default::default()
        }))
    }

    async fn create(&self, name: BucketName) -> S3Result<()> {
        check_bucket(&name)?;
        if self.disk(move |disk| disk.create_bucket(&name)).await? {
            return Ok(());
        }
        Err(s3_error!(BucketAlreadyOwnedByYou, "The bucket exists"))
    }
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.put(req).await
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.get(req).await
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.head(req).await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        whole_object(input.if_match.is_some() || input.version_id.is_some())?;
        check_key(&input.key)?;
        self.delete(self.bucket(&input.bucket)?, vec![input.key]).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let delete = req.input.delete;
        if delete.objects.len() > DELETE_KEYS_MAX {
            return Err(s3_error!(MalformedXML, "Too many keys"));
        }
        whole_object(delete.objects.iter().any(|o| o.version_id.is_some() || o.e_tag.is_some()))?;
        let keys: Vec<String> = delete.objects.into_iter().map(|object| object.key).collect();
        keys.iter().try_for_each(|key| check_key(key))?;
        self.delete(self.bucket(&req.input.bucket)?, keys.clone()).await?;
        let quiet = delete.quiet.unwrap_or_default();
        let deleted =
            keys.into_iter().map(|key| DeletedObject { key: Some(key), ..Default::default() });
        let deleted = (!quiet).then(|| deleted.collect());
        Ok(S3Response::new(DeleteObjectsOutput { deleted, ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.list(req.input)
    }

    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let location = Some(format!("/{}", req.input.bucket));
        self.create(req.input.bucket).await?;
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }
}

/// RFC 9110 §13.1; `If-None-Match` on a write is only useful as `*`, and S3 allows only that.
fn precondition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> S3Result<Precondition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Precondition::None),
        (None, Some(ETagCondition::Any)) => Ok(Precondition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Precondition::Present(None)),
        (Some(ETagCondition::ETag(ETag::Strong(tag))), None) => {
            Ok(Precondition::Present(Some(tag)))
        }
        _ => Err(s3_error!(NotImplemented, "This precondition is not implemented")),
    }
}

struct Conditions {
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
}

/// RFC 9110 §13.2.2, in its order. HTTP dates have no fraction, so neither has the comparison.
fn check_conditions(meta: &Meta, asked: &Conditions) -> S3Result<()> {
    let tag = ETag::Strong(meta.sha256.clone());
    let modified = time_of(meta.modified_unix_ms / 1000 * 1000);
    let matches = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(other) => tag.weak_cmp(other),
    };
    let failed = match (&asked.if_match, &asked.if_unmodified_since) {
        (Some(condition), _) => !matches(condition),
        (None, Some(since)) => modified > *since,
        (None, None) => false,
    };
    if failed {
        return Err(s3_error!(PreconditionFailed, "The precondition does not hold"));
    }
    let unchanged = match (&asked.if_none_match, &asked.if_modified_since) {
        (Some(condition), _) => matches(condition),
        (None, Some(since)) => modified <= *since,
        (None, None) => false,
    };
    if !unchanged {
        return Ok(());
    }
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    let value = tag.to_http_header();
    let headers = value.into_iter().map(|value| (http::header::ETAG, value));
    error.set_headers(headers.collect());
    Err(error)
}

/// First byte, length and `Content-Range` (RFC 9110 §14.2 and §14.4).
fn span(range: Option<Range>, size: u64) -> S3Result<(u64, u64, Option<String>)> {
    let Some(range) = range else { return Ok((0, size, None)) };
    match range.check(size) {
        Ok(span) if span.start < span.end => {
            let content_range = format!("bytes {}-{}/{size}", span.start, span.end - 1);
            Ok((span.start, span.end - span.start, Some(content_range)))
        }
        _ => {
            let mut error = s3_error!(InvalidRange, "The range is not satisfiable");
            let value = http::HeaderValue::try_from(format!("bytes */{size}"));
            let headers = value.into_iter().map(|value| (http::header::CONTENT_RANGE, value));
            error.set_headers(headers.collect());
            Err(error)
        }
    }
}

/// Versions, parts and conditional deletes do not exist here.
fn whole_object(asked_for_more: bool) -> S3Result<()> {
    if asked_for_more {
        return Err(s3_error!(NotImplemented, "This parameter is not implemented"));
    }
    Ok(())
}

fn checksum(meta: &Meta, mode: Option<&ChecksumMode>) -> Option<String> {
    mode.filter(|mode| mode.as_str() == ChecksumMode::ENABLED)?;
    hex::decode(&meta.sha256).ok().map(|bytes| STANDARD.encode(bytes))
}

/// What S3 says when the upload said nothing.
fn media_type(content_type: Option<&str>) -> Option<String> {
    Some(content_type.unwrap_or("binary/octet-stream").to_owned())
}

/// `aws-chunked` is how the body travelled, not what it is.
fn without_aws_chunked(encoding: &str) -> Option<String> {
    let real = encoding.split(',').map(str::trim);
    let real = real.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("aws-chunked"));
    let real: Vec<&str> = real.collect();
    (!real.is_empty()).then(|| real.join(","))
}

fn time_of(unix_ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(unix_ms))
}

/// Sizes are far below 2^63.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// `encoding-type=url`: all but RFC 3986 §2.3 unreserved and `/`.
fn url_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

impl From<NameError> for S3Error {
    fn from(error: NameError) -> Self {
        let code = match error {
            NameError::Bucket => S3ErrorCode::InvalidBucketName,
            NameError::Key => S3ErrorCode::InvalidURI,
            NameError::Metadata => S3ErrorCode::MetadataTooLarge,
        };
        S3Error::with_message(code, error.to_string())
    }
}
