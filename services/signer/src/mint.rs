//! URLs and the grants that record them. A grant is made with its URL, so that none can be
//! handed out without the other, and says where the URL leads.

use crate::presign::{Bound, Endpoint, PresignError, PresignKey, PresignRequest, Ttl, presign};
use hotcell_schemas::{
    BlobKey, Digest, UnixMs,
    destination::DestinationRecord,
    job::Grant,
    limits::{DOWNLOAD_TTL_SECS, SERVICE_URL_TTL_SECS, URL_TTL_SECS},
    work::{SecretUrl, SignedUrl},
};
use hotcell_stage::clock;

/// A storage key and where it opens: hotcell's own store, or a tenant's destination.
pub(crate) struct Mint {
    key: PresignKey,
    endpoint: Endpoint,
    bucket: String,
    destination: Option<DestinationRecord>,
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
        Self { key, endpoint, bucket, destination: None }
    }

    /// The mint of a destination: an object has the key that it would have in the store, below the
    /// destination's prefix.
    pub(crate) fn elsewhere(
        key: PresignKey,
        endpoint: Endpoint,
        destination: DestinationRecord,
    ) -> Self {
        let bucket = destination.bucket.clone();
        Self { key, endpoint, bucket, destination: Some(destination) }
    }

    /// Whether it opens a tenant's destination.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.destination.is_some()
    }

    /// Whether both are the same bucket.
    pub(crate) fn is_at(&self, endpoint: &Endpoint, bucket: &str) -> bool {
        self.endpoint.is_same(endpoint) && self.bucket == bucket
    }

    /// An object's key in the bucket.
    fn place(&self, key: &BlobKey) -> String {
        match &self.destination {
            Some(destination) => destination.object_key(key),
            None => key.as_str().to_owned(),
        }
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
        let place = self.place(key);
        let mut request = PresignRequest::get(&self.bucket, &place, ttl);
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
        self.sign(key, PresignRequest::put(&self.bucket, &self.place(key), ttl, bound), now)
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
            destination: self.destination.as_ref().map(|destination| destination.name.clone()),
        };
        let url = SignedUrl {
            url: SecretUrl::new(signed.url.expose().to_owned()),
            headers: signed.headers,
            expires_at: UnixMs(signed.expires_at_unix_secs.saturating_mul(1000)),
        };
        Ok(Granted { url, grant })
    }
}
