//! URLs and the grants that record them. A grant is made with its URL, so that none can be
//! handed out without the other.

use crate::presign::{Bound, Endpoint, PresignError, PresignKey, PresignRequest, Ttl, presign};
use hotcell_schemas::{
    BlobKey, Digest, UnixMs,
    job::Grant,
    limits::{DOWNLOAD_TTL_SECS, SERVICE_URL_TTL_SECS, URL_TTL_SECS},
    work::{SecretUrl, SignedUrl},
};
use hotcell_stage::clock;

/// The storage key and where it opens.
pub(crate) struct Mint {
    key: PresignKey,
    endpoint: Endpoint,
    bucket: String,
}

/// A URL with its record.
pub(crate) struct Granted {
    pub(crate) url: SignedUrl,
    pub(crate) grant: Grant,
}

/// Who a GET is for; it fixes the URL's life.
#[derive(Clone, Copy)]
pub(crate) enum ReadFor {
    /// A worker: the whole attempt.
    Worker,
    /// A service, at once.
    Service,
    /// A tenant's download.
    Tenant,
}

impl Mint {
    pub(crate) fn new(key: PresignKey, endpoint: Endpoint, bucket: String) -> Self {
        Self { key, endpoint, bucket }
    }

    /// A GET of one object.
    pub(crate) fn get(
        &self,
        key: &BlobKey,
        reader: ReadFor,
        now: UnixMs,
    ) -> Result<Granted, PresignError> {
        let ttl = Ttl::from_secs(match reader {
            ReadFor::Worker => URL_TTL_SECS,
            ReadFor::Service => SERVICE_URL_TTL_SECS,
            ReadFor::Tenant => DOWNLOAD_TTL_SECS,
        })?;
        let mut request = PresignRequest::get(&self.bucket, key.as_str(), ttl);
        if matches!(reader, ReadFor::Tenant) {
            // Each download URL is a URL of its own, also within one second (API-29). S3 ignores
            // the value of `x-id`, but the signature covers it.
            request.query.push(("x-id".to_owned(), hex::encode(clock::random::<8>())));
        }
        self.sign(key, request, now)
    }

    /// A create-only PUT of exactly these bytes. The digest is absent only for uploads, whose
    /// bytes nobody has seen yet.
    pub(crate) fn put(
        &self,
        key: &BlobKey,
        size: u64,
        content_type: &str,
        digest: Option<Digest>,
        now: UnixMs,
    ) -> Result<Granted, PresignError> {
        let bound = Bound {
            content_length: Some(size),
            content_type: Some(content_type.to_owned()),
            create_only: true,
            sha256: digest.map(|digest| *digest.as_bytes()),
        };
        let ttl = Ttl::from_secs(URL_TTL_SECS)?;
        self.sign(key, PresignRequest::put(&self.bucket, key.as_str(), ttl, bound), now)
    }

    fn sign(
        &self,
        key: &BlobKey,
        request: PresignRequest<'_>,
        now: UnixMs,
    ) -> Result<Granted, PresignError> {
        let signed = presign(&self.key, &self.endpoint, &request, now.secs())?;
        let grant = Grant {
            method: request.method.as_str().to_owned(),
            key_digest: key.digest(),
            ttl_secs: request.ttl.as_secs(),
        };
        let url = SignedUrl {
            url: SecretUrl::new(signed.url.expose().to_owned()),
            headers: signed.headers,
            expires_at: UnixMs(signed.expires_at_unix_secs.saturating_mul(1000)),
        };
        Ok(Granted { url, grant })
    }
}
