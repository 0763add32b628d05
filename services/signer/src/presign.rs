//! Presigned S3 URLs: AWS Signature Version 4 in the query string, with the size of the body bound.
//!
//! Promises: a URL is good for one method on one key of one bucket, for at most [`TTL_SECS_MAX`]
//! seconds, and only with the headers it was bound to. Pure: the time is an argument, there is no
//! I/O, and the same input gives the same URL.
//!
//! Refuses: keys that an HTTP client or a proxy would rewrite (`.`, `..` and empty segments,
//! control characters), header values that canonicalisation would alter, and query parameters
//! that would shadow the signature's own.
//!
//! Why our own: the object store client refuses to sign `content-length`, and without it an upload
//! URL does not bound what a leaked URL may write.
//!
//! Sources: "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)" in the
//! Amazon S3 API reference, `sigv4-query-string-auth.html`, below "S3 query auth"; and "Create a
//! signed AWS API request" in the IAM user guide,
//! `reference_sigv-create-signed-request.html`, below "SigV4 step N".

mod canonical;

use std::fmt::{self, Write as _};

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hotcell_schemas::destination::{self, DestinationRecord};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use canonical::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use canonical::{Slash, Stamp, check_bucket, check_header_value, check_key, encode};

/// Longest life of any URL, in seconds: one hour is what a transfer of one asset needs (BRK-16).
pub const TTL_SECS_MAX: u32 = 3600;
/// Life of a download URL handed to a tenant, in seconds (API-27).
pub const DOWNLOAD_TTL_SECS: u32 = 600;
/// Most query parameters a caller may add: `partNumber` and `uploadId` need two, overrides three.
pub const QUERY_PARAMETERS_MAX: usize = 8;

/// Why a URL was not signed. Carries no key, no URL and no secret, so it may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PresignError {
    /// The access key id, secret or region is empty or has characters a credential cannot have.
    #[error("the storage key is malformed")]
    Credential,
    /// The endpoint is not `http(s)://host[:port]` with nothing behind it.
    #[error("the storage endpoint is not scheme, host and port")]
    Endpoint,
    /// The bucket name is not 3 to 63 of `[a-z0-9.-]`.
    #[error("the bucket name is malformed")]
    Bucket,
    /// The key is empty, too long, or has a segment or character that clients rewrite.
    #[error("the object key is malformed")]
    Key,
    /// The life asked for is zero or longer than [`TTL_SECS_MAX`].
    #[error("the life of the URL is zero or above the cap")]
    Ttl,
    /// A header value would not survive canonicalisation unchanged.
    #[error("a header value cannot be signed")]
    Header,
    /// A query parameter is reserved, too long, given twice, or there are too many.
    #[error("a query parameter cannot be signed")]
    Query,
    /// The time is past year 9999.
    #[error("the time is out of range")]
    Time,
}

/// The secret half of a storage key; prints `[redacted]`.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A storage key: who signs, and the region its signatures are scoped to.
#[derive(Debug, Clone)]
pub struct PresignKey {
    access_key_id: String,
    secret: Secret,
    region: String,
}

impl PresignKey {
    /// A key from its parts.
    ///
    /// # Errors
    /// [`PresignError::Credential`] when a part is empty or could change the credential scope
    /// (`/`, spaces, non-ASCII); the secret only has to be printable ASCII.
    pub fn new(access_key_id: &str, secret: &str, region: &str) -> Result<Self, PresignError> {
        let word = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let secret_ok = !secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic());
        if !word(access_key_id) || !word(region) || !secret_ok {
            return Err(PresignError::Credential);
        }
        Ok(Self {
            access_key_id: access_key_id.to_owned(),
            secret: Secret(secret.to_owned()),
            region: region.to_owned(),
        })
    }
}

/// Where the bucket name goes in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://host/bucket/key`: works with every server.
    Path,
    /// `https://bucket.host/key`: what AWS prefers.
    Virtual,
}

/// The S3 endpoint that the URLs point to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    scheme: &'static str,
    host: String,
    addressing: Addressing,
}

impl TryFrom<&DestinationRecord> for Endpoint {
    type Error = PresignError;

    fn try_from(record: &DestinationRecord) -> Result<Self, PresignError> {
        let addressing = match record.addressing {
            destination::Addressing::Path => Addressing::Path,
            destination::Addressing::Virtual => Addressing::Virtual,
        };
        Self::parse(&record.endpoint, addressing)
    }
}

impl Endpoint {
    /// Parses `http://host[:port]` or `https://host[:port]`; a default port is left out of the
    /// signed `host`, as HTTP clients leave it out.
    ///
    /// # Errors
    /// [`PresignError::Endpoint`] for any other scheme, or when there is a path, query, fragment
    /// or user in it.
    pub fn parse(text: &str, addressing: Addressing) -> Result<Self, PresignError> {
        let url = url::Url::parse(text).map_err(|_| PresignError::Endpoint)?;
        let scheme = match url.scheme() {
            "http" => "http",
            "https" => "https",
            _ => return Err(PresignError::Endpoint),
        };
        let bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let host = url.host_str().filter(|_| bare).ok_or(PresignError::Endpoint)?;
        let host = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(Self { scheme, host, addressing })
    }

    /// Whether both are one server, however a bucket is named there.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.host == other.host
    }

    /// `rest` of `bucket`, unsigned: what a stranger would ask for.
    #[must_use]
    pub fn unsigned_url(&self, bucket: &str, rest: &str) -> String {
        let Self { scheme, host, addressing } = self;
        match addressing {
            Addressing::Path => format!("{scheme}://{host}/{bucket}/{rest}"),
            Addressing::Virtual => format!("{scheme}://{bucket}.{host}/{rest}"),
        }
    }
}

/// What the URL may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Read an object.
    Get,
    /// Read an object's headers.
    Head,
    /// Write an object.
    Put,
    /// Remove an object.
    Delete,
}

impl Method {
    /// The method as it stands in a request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// A life of 1 to [`TTL_SECS_MAX`] seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u32);

impl Ttl {
    /// The longest life there is: [`TTL_SECS_MAX`].
    pub const MAX: Self = Self(TTL_SECS_MAX);
    /// A tenant's download: [`DOWNLOAD_TTL_SECS`].
    pub const DOWNLOAD: Self = Self(DOWNLOAD_TTL_SECS);

    /// A life of so many seconds.
    ///
    /// # Errors
    /// [`PresignError::Ttl`] for zero and for more than [`TTL_SECS_MAX`].
    pub const fn from_secs(secs: u32) -> Result<Self, PresignError> {
        if secs == 0 || secs > TTL_SECS_MAX {
            return Err(PresignError::Ttl);
        }
        Ok(Self(secs))
    }

    /// The life in seconds.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }
}

/// The request headers that the URL insists on, besides `host`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    /// Exact size of the body in bytes (`content-length`).
    pub content_length: Option<u64>,
    /// Exact media type (`content-type`).
    pub content_type: Option<String>,
    /// The object must not exist yet (`if-none-match: *`, RFC 9110 §13.1.2).
    pub create_only: bool,
    /// SHA-256 of the body (`x-amz-checksum-sha256`).
    pub sha256: Option<[u8; 32]>,
}

/// One request to be allowed.
#[derive(Debug, Clone)]
pub struct PresignRequest<'a> {
    /// The method.
    pub method: Method,
    /// The bucket.
    pub bucket: &'a str,
    /// The key in the bucket, not encoded.
    pub key: &'a str,
    /// How long the URL lives from `now`.
    pub ttl: Ttl,
    /// Headers that must be sent as given.
    pub bound: Bound,
    /// More query parameters, not encoded: `partNumber`, `uploadId`, `response-content-*`.
    pub query: Vec<(String, String)>,
}

impl<'a> PresignRequest<'a> {
    /// A request that reads one object.
    #[must_use]
    pub fn get(bucket: &'a str, key: &'a str, ttl: Ttl) -> Self {
        let (bound, query) = (Bound::default(), Vec::new());
        Self { method: Method::Get, bucket, key, ttl, bound, query }
    }

    /// A request that writes one object, with the headers in `bound`.
    #[must_use]
    pub fn put(bucket: &'a str, key: &'a str, ttl: Ttl, bound: Bound) -> Self {
        Self { method: Method::Put, bucket, key, ttl, bound, query: Vec::new() }
    }
}

/// A URL that is a capability: whoever has it may act. Prints `[redacted]` in every format.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The URL itself, for the one message that hands it over. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What [`presign`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresignedUrl {
    /// The URL.
    pub url: SecretUrl,
    /// Headers the client must send exactly so, lower-case names, sorted; `host` is left out.
    pub headers: Vec<(String, String)>,
    /// When the URL dies, in seconds since 1970.
    pub expires_at_unix_secs: u64,
}

/// Signs one request at `now_unix_secs`.
///
/// # Errors
/// The [`PresignError`] of the first part that cannot be signed faithfully.
pub fn presign(
    key: &PresignKey,
    endpoint: &Endpoint,
    request: &PresignRequest<'_>,
    now_unix_secs: u64,
) -> Result<PresignedUrl, PresignError> {
    check_bucket(request.bucket)?;
    check_key(request.key)?;
    let stamp = Stamp::at(now_unix_secs)?;
    let (host, path) = locate(endpoint, request);
    let headers = bound_headers(&request.bound)?;
    let mut canonical_headers = vec![("host".to_owned(), host.clone())];
    canonical_headers.extend(headers.iter().cloned());
    canonical_headers.sort();
    let signed_names = join(canonical_headers.iter().map(|(name, _)| name.as_str()), ";");

    let scope = format!("{}/{}/s3/aws4_request", stamp.date, key.region);
    let query = canonical_query(key, request, &stamp, &scope, &signed_names)?;
    // SigV4 step 1, canonical request; S3 query auth: the payload is the constant
    // UNSIGNED-PAYLOAD, because a presigned URL is made before the body is known.
    let mut canonical = format!("{}\n{path}\n{query}\n", request.method.as_str());
    for (name, value) in &canonical_headers {
        push_line(&mut canonical, name, value);
    }
    canonical.push_str(&format!("\n{signed_names}\nUNSIGNED-PAYLOAD"));
    // SigV4 steps 2 and 3, string to sign.
    let digest = hex::encode(Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}", stamp.date_time);
    let signature = sign(key, &stamp, &to_sign);
    let scheme = endpoint.scheme;
    Ok(PresignedUrl {
        url: SecretUrl(format!("{scheme}://{host}{path}?{query}&X-Amz-Signature={signature}")),
        headers,
        expires_at_unix_secs: now_unix_secs + u64::from(request.ttl.0),
    })
}

/// SigV4 step 4: the signing key is a chain of HMACs over date, region and service, so a signature
/// of one day, region or service says nothing in another.
fn sign(key: &PresignKey, stamp: &Stamp, to_sign: &str) -> String {
    let seed = format!("AWS4{}", key.secret.0);
    let mut mac = hmac(seed.as_bytes(), stamp.date.as_bytes());
    for part in [key.region.as_bytes(), b"s3", b"aws4_request", to_sign.as_bytes()] {
        mac = hmac(&mac, part);
    }
    hex::encode(mac)
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// Host header and percent-encoded path. S3 encodes the path once, unlike other services
/// (SigV4 step 1, "canonical URI").
fn locate(endpoint: &Endpoint, request: &PresignRequest<'_>) -> (String, String) {
    let key = encode(request.key, Slash::Keep);
    match endpoint.addressing {
        Addressing::Path => (endpoint.host.clone(), format!("/{}/{key}", request.bucket)),
        Addressing::Virtual => (format!("{}.{}", request.bucket, endpoint.host), format!("/{key}")),
    }
}

/// Names and values to be signed and sent, sorted by name.
fn bound_headers(bound: &Bound) -> Result<Vec<(String, String)>, PresignError> {
    let mut headers = Vec::new();
    if let Some(bytes) = bound.content_length {
        headers.push(("content-length".to_owned(), bytes.to_string()));
    }
    if let Some(content_type) = &bound.content_type {
        check_header_value(content_type)?;
        headers.push(("content-type".to_owned(), content_type.clone()));
    }
    if bound.create_only {
        headers.push(("if-none-match".to_owned(), "*".to_owned()));
    }
    if let Some(sha256) = &bound.sha256 {
        let value = base64::engine::general_purpose::STANDARD.encode(sha256);
        headers.push(("x-amz-checksum-sha256".to_owned(), value));
    }
    Ok(headers)
}

/// SigV4 step 1, "canonical query string": sorted by encoded name, without the signature.
fn canonical_query(
    key: &PresignKey,
    request: &PresignRequest<'_>,
    stamp: &Stamp,
    scope: &str,
    signed_names: &str,
) -> Result<String, PresignError> {
    if request.query.len() > QUERY_PARAMETERS_MAX {
        return Err(PresignError::Query);
    }
    let credential = format!("{}/{scope}", key.access_key_id);
    let expires = request.ttl.0.to_string();
    let mut pairs = vec![
        ("X-Amz-Algorithm".to_owned(), "AWS4-HMAC-SHA256".to_owned()),
        ("X-Amz-Credential".to_owned(), encode(&credential, Slash::Encode)),
        ("X-Amz-Date".to_owned(), stamp.date_time.clone()),
        ("X-Amz-Expires".to_owned(), expires),
        ("X-Amz-SignedHeaders".to_owned(), encode(signed_names, Slash::Encode)),
    ];
    for (name, value) in &request.query {
        let reserved = name.to_ascii_lowercase().starts_with("x-amz-");
        if name.is_empty() || reserved || name.len() + value.len() > VALUE_BYTES_MAX {
            return Err(PresignError::Query);
        }
        pairs.push((encode(name, Slash::Encode), encode(value, Slash::Encode)));
    }
    pairs.sort();
    if pairs.windows(2).any(|two| matches!(two, [a, b] if a.0 == b.0)) {
        return Err(PresignError::Query);
    }
    Ok(join(pairs.iter().map(|(name, value)| format!("{name}={value}")), "&"))
}

fn push_line(out: &mut String, name: &str, value: &str) {
    writeln!(out, "{name}:{value}").expect("writing to a String cannot fail");
}

fn join(parts: impl Iterator<Item = impl AsRef<str>>, separator: &str) -> String {
    parts.fold(String::new(), |mut out, part| {
        if !out.is_empty() {
            out.push_str(separator);
        }
        out.push_str(part.as_ref());
        out
    })
}

#[cfg(test)]
mod tests {
    use super::{Addressing, Endpoint, PresignKey, PresignRequest, Ttl, presign};

    /// The published example: S3 query auth, "Example". Its life of one day is above our cap,
    /// which is why this test is here and not with the public ones.
    #[test]
    fn the_example_that_aws_published() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let key = PresignKey::new("AKIAIOSFODNN7EXAMPLE", secret, "us-east-1").expect("valid");
        let endpoint = Endpoint::parse("https://s3.amazonaws.com", Addressing::Virtual);
        let request = PresignRequest::get("examplebucket", "test.txt", Ttl(86_400));
        let signed = presign(&key, &endpoint.expect("valid"), &request, 1_369_353_600);
        assert_eq!(
            signed.expect("valid").url.expose(),
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }
}
