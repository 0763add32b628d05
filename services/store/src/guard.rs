//! What stands in front of s3s: refuses requests that carry more than their signature covers.
//!
//! Promises: a request that passes has exactly one Signature Version 4, for this region and the
//! service `s3`; every `x-amz-*` header it carries is signed and known; a presigned one does not
//! outlive the cap; its body has a declared length; and its path means the same to every parser.
//!
//! Refuses to decide whether the signature is right (s3s does) and who may do what (`access.rs`
//! does). It exists because s3s checks only the headers that a URL names: an unsigned
//! `x-amz-copy-source` on a presigned PUT is obeyed, ten years of `X-Amz-Expires` are honoured,
//! Signature Version 2 and POST policies are accepted beside Version 4.
//!
//! Sources: "Authenticating Requests: Using Query Parameters" and "Using the Authorization
//! Header" in the Amazon S3 API reference (all `x-amz-*` headers must be signed).

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use s3s::{S3Error, S3ErrorCode};
use thiserror::Error;

/// Most query parameters; a presigned part upload with overrides has 14.
const QUERY_PARAMETERS_MAX: usize = 32;
/// Most names in `SignedHeaders`.
const SIGNED_HEADERS_MAX: usize = 64;

/// The query parameters of a presigned URL; all must be there, once.
const PRESIGN_PARAMETERS: [&str; 6] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
];

/// The `x-amz-*` headers that the backend understands, besides `x-amz-meta-*`. Any other would be
/// ignored silently (an ACL, encryption, a tag), which is worse than an error.
const KNOWN_AMZ_HEADERS: [&str; 12] = [
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-mode",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-trailer",
    "x-amz-user-agent",
];

/// The query parameters that the backend understands, besides the signature's own. s3s ignores
/// others: `PUT key?policy` and `PUT key?partNumber=1` would write the object.
const KNOWN_PARAMETERS: [&str; 16] = [
    "continuation-token",
    "delete",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "list-type",
    "max-keys",
    "prefix",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "start-after",
    "x-id",
];

/// Headers that two parsers could read differently when they come twice.
const SINGLE_HEADERS: [header::HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::RANGE,
    header::EXPECT,
];

/// What every request is measured against.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Region that the credential scope must name.
    pub region: String,
    /// Longest `X-Amz-Expires`, in seconds.
    pub presign_expires_secs_max: u32,
}

/// How a request says who it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthKind {
    /// A signature in the query.
    Presigned,
    /// A signature in the `Authorization` header.
    Header,
    /// None at all.
    None,
}

impl AuthKind {
    /// As it stands in the access log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Presigned => "presigned",
            Self::Header => "header",
            Self::None => "none",
        }
    }
}

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No signature (API-05, API-33).
    #[error("a signature is required")]
    Anonymous,
    /// A signature in the query and one in a header.
    #[error("only one authentication mechanism is allowed")]
    TwoSignatures,
    /// Signature Version 2, a POST policy, or another algorithm.
    #[error("only signature version 4 is supported")]
    SignatureVersion,
    /// A signature parameter is missing, doubled, unknown or malformed.
    #[error("the signature's parameters are malformed")]
    Parameters,
    /// The credential scope is not for this region and service, or not for the request's date.
    #[error("the credential scope is not for this endpoint")]
    Scope,
    /// `X-Amz-Expires` is zero or above the cap (BRK-16, BRK-17).
    #[error("the life of the URL is above this endpoint's cap")]
    Expires,
    /// An `x-amz-*` header that the signature does not cover, or a signed one that is missing.
    #[error("there were headers present in the request which were not signed")]
    UnsignedHeader,
    /// A header that must be there at most once is there twice, or is not ASCII.
    #[error("a header is doubled or malformed")]
    Header,
    /// An `x-amz-*` header that this endpoint does not implement.
    #[error("a header you provided implies functionality that is not implemented")]
    UnknownHeader,
    /// A query parameter that this endpoint does not implement.
    #[error("a query parameter you provided is not implemented")]
    UnknownParameter,
    /// `Transfer-Encoding`: the length that was signed would not be the length that is read.
    #[error("transfer-encoding is not supported")]
    TransferEncoding,
    /// The path holds NUL, a dot segment, or one that appears when it is decoded again.
    #[error("the path is not in normal form")]
    Path,
}

impl Refusal {
    /// As an S3 error.
    #[must_use]
    pub fn to_s3_error(self) -> S3Error {
        let code = match self {
            Self::Anonymous
            | Self::TwoSignatures
            | Self::SignatureVersion
            | Self::Scope
            | Self::Expires
            | Self::UnsignedHeader => S3ErrorCode::AccessDenied,
            Self::Parameters => S3ErrorCode::AuthorizationQueryParametersError,
            Self::Header => S3ErrorCode::InvalidRequest,
            Self::UnknownHeader | Self::UnknownParameter | Self::TransferEncoding => {
                S3ErrorCode::NotImplemented
            }
            Self::Path => S3ErrorCode::InvalidURI,
        };
        let mut error = S3Error::with_message(code, self.to_string());
        if self == Self::Parameters {
            error.set_status_code(StatusCode::FORBIDDEN);
        }
        error
    }
}

/// How the request authenticates itself, right or wrong.
#[must_use]
pub fn auth_kind(parts: &Parts) -> AuthKind {
    if query(parts).any(|(name, _)| name.eq_ignore_ascii_case("X-Amz-Signature")) {
        AuthKind::Presigned
    } else if parts.headers.contains_key(header::AUTHORIZATION) {
        AuthKind::Header
    } else {
        AuthKind::None
    }
}

/// Lets a request through or says why not.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn inspect(parts: &Parts, policy: &Policy) -> Result<AuthKind, Refusal> {
    check_path(parts.uri.path())?;
    let kind = auth_kind(parts);
    let claim = match kind {
        AuthKind::None => return Err(Refusal::Anonymous),
        AuthKind::Presigned => presigned_claim(parts, policy)?,
        AuthKind::Header => header_claim(&parts.headers)?,
    };
    check_form(parts)?;
    claim.check_scope(policy)?;
    check_headers(&parts.headers, &claim.signed_headers)?;
    Ok(kind)
}

/// What a signature says it covers.
struct Claim {
    credential: String,
    date_time: String,
    signed_headers: Vec<String>,
}

impl Claim {
    /// `id/20130524/region/s3/aws4_request`.
    fn check_scope(&self, policy: &Policy) -> Result<(), Refusal> {
        let parts: Vec<&str> = self.credential.split('/').collect();
        let [id, date, region, "s3", "aws4_request"] = parts.as_slice() else {
            return Err(Refusal::Scope);
        };
        let dated = date.len() == 8 && self.date_time.starts_with(date);
        if id.is_empty() || *region != policy.region || !dated {
            return Err(Refusal::Scope);
        }
        Ok(())
    }
}

fn presigned_claim(parts: &Parts, policy: &Policy) -> Result<Claim, Refusal> {
    if parts.headers.contains_key(header::AUTHORIZATION) {
        return Err(Refusal::TwoSignatures);
    }
    let mut values: [Option<String>; PRESIGN_PARAMETERS.len()] = Default::default();
    for (name, value) in query(parts) {
        let slot = PRESIGN_PARAMETERS.iter().zip(values.iter_mut()).find(|(n, _)| **n == name);
        if let Some((_, slot)) = slot {
            if slot.replace(value.into_owned()).is_some() {
                return Err(Refusal::Parameters);
            }
        } else if name.to_ascii_lowercase().starts_with("x-amz-") {
            // AWS reads x-amz-* headers out of the query too; s3s does not, so a bound checksum
            // in the query would bind nothing. Some SDKs put this one constant there.
            let harmless = name == "X-Amz-Content-Sha256" && value == "UNSIGNED-PAYLOAD";
            if !harmless {
                return Err(Refusal::Parameters);
            }
        }
    }
    let [Some(algorithm), Some(credential), Some(date_time), Some(expires), Some(names), Some(_)] =
        values
    else {
        return Err(Refusal::Parameters);
    };
    if algorithm != "AWS4-HMAC-SHA256" {
        return Err(Refusal::SignatureVersion);
    }
    // Only digits: `+5` parses as a number too, and another parser might read it as ` 5`.
    if expires.is_empty() || !expires.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::Parameters);
    }
    let secs: u32 = expires.parse().map_err(|_| Refusal::Expires)?;
    if !(1..=policy.presign_expires_secs_max).contains(&secs) {
        return Err(Refusal::Expires);
    }
    Ok(Claim { credential, date_time, signed_headers: split_names(&names)? })
}

/// `AWS4-HMAC-SHA256 Credential=..., SignedHeaders=..., Signature=...`.
fn header_claim(headers: &HeaderMap) -> Result<Claim, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = text("authorization").ok_or(Refusal::Header)?;
    let fields =
        authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(Refusal::SignatureVersion)?;
    let (mut credential, mut names) = (None, None);
    for field in fields.split(',') {
        let (name, value) = field.trim().split_once('=').ok_or(Refusal::Parameters)?;
        let doubled = match name {
            "Credential" => credential.replace(value).is_some(),
            "SignedHeaders" => names.replace(value).is_some(),
            "Signature" => false,
            _ => true,
        };
        if doubled {
            return Err(Refusal::Parameters);
        }
    }
    let (Some(credential), Some(names)) = (credential, names) else {
        return Err(Refusal::Parameters);
    };
    let date_time = text("x-amz-date").ok_or(Refusal::Parameters)?.to_owned();
    let signed_headers = split_names(names)?;
    Ok(Claim { credential: credential.to_owned(), date_time, signed_headers })
}

fn split_names(names: &str) -> Result<Vec<String>, Refusal> {
    let names: Vec<String> = names.split(';').map(str::to_owned).collect();
    let lower = |name: &String| !name.bytes().any(|b| b.is_ascii_uppercase());
    if names.len() > SIGNED_HEADERS_MAX || !names.iter().all(lower) {
        return Err(Refusal::Parameters);
    }
    Ok(names)
}

/// Signature Version 2 and POST policies, which s3s looks at before Version 4, and parameters that
/// nobody would look at.
fn check_form(parts: &Parts) -> Result<(), Refusal> {
    let mut unknown = false;
    for (number, (name, _)) in query(parts).enumerate() {
        if number >= QUERY_PARAMETERS_MAX {
            return Err(Refusal::Parameters);
        }
        if matches!(&*name, "Signature" | "AWSAccessKeyId") {
            return Err(Refusal::SignatureVersion);
        }
        let ours = name.starts_with("X-Amz-") || KNOWN_PARAMETERS.contains(&&*name);
        unknown = unknown || !ours;
    }
    let content_type = parts.headers.get(header::CONTENT_TYPE).map(|v| v.as_bytes());
    let form = content_type.and_then(|value| value.trim_ascii_start().get(..10));
    let form = form.is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
    if parts.method == Method::POST && form {
        return Err(Refusal::SignatureVersion);
    }
    if unknown { Err(Refusal::UnknownParameter) } else { Ok(()) }
}

fn check_headers(headers: &HeaderMap, signed: &[String]) -> Result<(), Refusal> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::TransferEncoding);
    }
    if SINGLE_HEADERS.iter().any(|name| headers.get_all(name).iter().count() > 1) {
        return Err(Refusal::Header);
    }
    let missing = signed.iter().any(|name| !headers.contains_key(name.as_str()));
    if missing || !signed.iter().any(|name| name == "host") {
        return Err(Refusal::UnsignedHeader);
    }
    for name in headers.keys().filter(|name| name.as_str().starts_with("x-amz-")) {
        let mut values = headers.get_all(name).iter();
        // s3s leaves values that are not UTF-8 out of the signature but not out of the request.
        let ascii = values.next().is_some_and(|value| value.to_str().is_ok());
        if !ascii || values.next().is_some() {
            return Err(Refusal::Header);
        }
        if !signed.iter().any(|other| other == name.as_str()) {
            return Err(Refusal::UnsignedHeader);
        }
        let known = KNOWN_AMZ_HEADERS.contains(&name.as_str());
        if !known && !name.as_str().starts_with("x-amz-meta-") {
            return Err(Refusal::UnknownHeader);
        }
    }
    Ok(())
}

/// RFC 3986 §5.2.4 and §6.2.2: whoever normalises or decodes this path once more (a client, a
/// proxy) must end at the same object.
fn check_path(path: &str) -> Result<(), Refusal> {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..2 {
        bytes = percent_decode(&bytes);
        let dots = |segment: &[u8]| segment == b"." || segment == b"..";
        if bytes.contains(&0) || bytes.split(|b| *b == b'/').any(dots) {
            return Err(Refusal::Path);
        }
    }
    Ok(())
}

fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let pair = (digit(tail.first()), digit(tail.get(1)));
        if let (b'%', (Some(high), Some(low)), [_, _, after @ ..]) = (first, pair, tail) {
            out.push(u8::try_from(high * 16 + low).expect("two hex digits make a byte"));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Decoded as s3s decodes it, so both see the same names.
fn query(parts: &Parts) -> url::form_urlencoded::Parse<'_> {
    url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
}
