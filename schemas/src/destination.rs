//! Places outside of hotcell's own store where a tenant's outputs are put: a bucket that the operator
//! entered for the tenant. The signer signs for it as for its own store, so a worker still sees
//! nothing but a URL.
//!
//! Refuses, by [`DestinationRecord::check`]: an address with two spellings. What a policy compares,
//! [`DestinationRecord::location`], is put together from checked parts, so `like "https://host/*"`
//! means that host and no other.

use crate::{BlobKey, DestinationName, TenantId, UnixMs};
use core::net::{Ipv4Addr, Ipv6Addr};
use serde::{Deserialize, Serialize};

/// What policies, approvals and records call hotcell's own store.
pub const STORE: &str = "store";

/// Longest host name, in bytes (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// Longest prefix, in bytes: with a key of ours it stays well below the 1,024 bytes of an S3 key.
pub const PREFIX_BYTES_MAX: usize = 256;

/// Longest region, in bytes; the longest of AWS has 14.
const REGION_BYTES_MAX: usize = 64;

/// Longest access key id, in bytes (AWS: `AccessKeyId`, 16 to 128).
const ACCESS_KEY_ID_BYTES_MAX: usize = 128;

/// Longest sealed secret, in bytes: a secret of some hundred bytes with nonce and tag.
const SEALED_BYTES_MAX: usize = 1024;

/// What a bucket must be.
const BUCKET_RULE: &str =
    "must be 3 to 63 characters of a-z, 0-9, '.' and '-' by the naming rules of S3";

/// What a prefix must be.
const PREFIX_RULE: &str = "must be empty, or segments of A-Z, a-z, 0-9, '.', '_' and '-' with \
     single slashes between them, none of them '.' or '..', at most 256 bytes";

/// Why a destination may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct DestinationError {
    /// The field of the record.
    pub field: &'static str,
    /// What it must be; never its value.
    pub rule: &'static str,
}

/// How a bucket is addressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressing {
    /// `https://host/bucket/key`: any server.
    #[default]
    Path,
    /// `https://bucket.host/key`: what AWS prefers.
    Virtual,
}

/// A destination; bucket `destinations`, key `<tenant>.<name>`. It is made and removed, and nothing of
/// it changes but its key: a job goes where the name led when it was decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationRecord {
    /// Whose.
    pub tenant: TenantId,
    /// Its name in requests.
    pub name: DestinationName,
    /// Base URL of the store's S3 API: `https://s3.eu-central-1.amazonaws.com`, without a path.
    pub endpoint: String,
    /// Region of its signatures.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What its keys begin with, without slashes at its ends; empty for none.
    pub prefix: String,
    /// How the bucket is addressed.
    #[serde(default)]
    pub addressing: Addressing,
    /// The access key's public half.
    pub access_key_id: String,
    /// Its secret, sealed under the signer's own key for [`Self::owner`].
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: UnixMs,
}

impl DestinationRecord {
    /// Key of the record.
    #[must_use]
    pub fn key(tenant: &TenantId, name: &DestinationName) -> String {
        format!("{tenant}.{name}")
    }

    /// Whom its secret is sealed for: all that says where it would be used, so that a record whose
    /// address was changed opens nothing.
    #[must_use]
    pub fn owner(&self) -> String {
        let Self { tenant, name, endpoint, region, bucket, prefix, access_key_id, .. } = self;
        let addressing = match self.addressing {
            Addressing::Path => "path",
            Addressing::Virtual => "virtual",
        };
        let parts: [&str; 8] = [
            tenant.as_str(),
            name.as_str(),
            endpoint,
            region,
            bucket,
            prefix,
            addressing,
            access_key_id,
        ];
        format!("destination\0{}", parts.join("\0"))
    }

    /// Whether every part is in the one spelling that it can have. Whoever enters a record asks, and
    /// so does every node that reads one.
    ///
    /// # Errors
    /// [`DestinationError`]: the first field that breaks its rule.
    pub fn check(&self) -> Result<(), DestinationError> {
        let plain = |text: &str, max: usize, further: &[u8]| {
            let good = |b: u8| b.is_ascii_alphanumeric() || further.contains(&b);
            !text.is_empty() && text.len() <= max && text.bytes().all(good)
        };
        rule(self.name.as_str() != STORE, "name", "must not be `store`, which is hotcell's own")?;
        let host = check_address(&self.endpoint, &self.bucket, &self.prefix)?;
        let named = matches!(host, Host::Name) && !self.bucket.contains('.');
        rule(
            self.addressing == Addressing::Path || named,
            "addressing",
            "must be `path` where the endpoint is an IP address or the bucket's name has a dot",
        )?;
        rule(
            plain(&self.region, REGION_BYTES_MAX, b"-"),
            "region",
            "must be 1 to 64 letters, digits and '-'",
        )?;
        rule(
            plain(&self.access_key_id, ACCESS_KEY_ID_BYTES_MAX, b"._-"),
            "access_key_id",
            "must be 1 to 128 letters, digits, '.', '_' and '-'",
        )?;
        rule(
            !self.sealed.is_empty() && self.sealed.len() <= SEALED_BYTES_MAX,
            "sealed",
            "must be a sealed secret of at most 1024 bytes",
        )
    }

    /// What policies are asked about: endpoint, bucket and prefix as one URL, however the bucket is
    /// addressed.
    #[must_use]
    pub fn location(&self) -> String {
        let (endpoint, bucket) = (self.endpoint.trim_end_matches('/'), &self.bucket);
        match self.prefix.as_str() {
            "" => format!("{endpoint}/{bucket}"),
            prefix => format!("{endpoint}/{bucket}/{prefix}"),
        }
    }

    /// Where an object is, in the form of [`Self::location`].
    #[must_use]
    pub fn object_location(&self, key: &BlobKey) -> String {
        format!("{}/{key}", self.location())
    }

    /// An object's key in the bucket: that in hotcell's own store, below the prefix.
    #[must_use]
    pub fn object_key(&self, key: &BlobKey) -> String {
        match self.prefix.as_str() {
            "" => key.as_str().to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }
}

/// Whether `text` is a location that a destination can have.
///
/// # Errors
/// [`DestinationError`]: the first part that breaks its rule.
pub fn check_location(text: &str) -> Result<(), DestinationError> {
    // https://host/bucket/prefix: the third slash ends the endpoint.
    let ends = text.match_indices('/').nth(2).map_or(text.len(), |(at, _)| at);
    let (endpoint, rest) = text.split_at(ends);
    let rest = rest.strip_prefix('/').unwrap_or_default();
    let (bucket, prefix) = match rest.split_once('/') {
        None => (rest, None),
        Some((bucket, prefix)) => (bucket, Some(prefix)),
    };
    rule(prefix != Some(""), "prefix", PREFIX_RULE)?;
    check_address(endpoint, bucket, prefix.unwrap_or_default()).map(|_| ())
}

fn rule(good: bool, field: &'static str, rule: &'static str) -> Result<(), DestinationError> {
    if good { Ok(()) } else { Err(DestinationError { field, rule }) }
}

/// What a location is made of.
fn check_address(endpoint: &str, bucket: &str, prefix: &str) -> Result<Host, DestinationError> {
    let host = host(endpoint)?;
    rule(is_bucket(bucket), "bucket", BUCKET_RULE)?;
    rule(is_prefix(prefix), "prefix", PREFIX_RULE)?;
    Ok(host)
}

/// What an endpoint's host is.
enum Host {
    /// A DNS name.
    Name,
    /// An address.
    Address,
}

/// The host of an endpoint in its one spelling.
fn host(endpoint: &str) -> Result<Host, DestinationError> {
    let refuse = |rule| Err(DestinationError { field: "endpoint", rule });
    let (tls, rest) = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return refuse("must begin with https://"),
    };
    if rest.contains(['/', '?', '#', '@', '\\']) {
        return refuse("must be https://host or https://host:port and nothing else");
    }
    // The colons of an IPv6 address stand in brackets.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    if !port.is_none_or(|port| is_port(port, if tls { 443 } else { 80 })) {
        return refuse("must have no port, or one of 1 to 65535 that is not its scheme's own");
    }
    let (kind, loopback) = if let Ok(ip) = host.parse::<Ipv4Addr>() {
        (Host::Address, ip.is_loopback())
    } else if let Some(text) = host.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        match text.parse::<Ipv6Addr>() {
            // One spelling: RFC 5952, and an IPv4 address is written as one.
            Ok(ip) if ip.to_string() == text && ip.to_ipv4_mapped().is_none() => {
                (Host::Address, ip.is_loopback())
            }
            Ok(_) | Err(_) => return refuse("must have an IPv6 address in its shortest form"),
        }
    } else if is_host_name(host) {
        (Host::Name, host == "localhost")
    } else {
        return refuse("must have a host name in lower case, without a dot at its end");
    };
    if tls || loopback { Ok(kind) } else { refuse("must begin with https:// beyond loopback") }
}

/// Decimal, without zeros before it, and not what goes without saying.
fn is_port(text: &str, default: u16) -> bool {
    let port = text.parse::<u16>().ok().filter(|port| *port != 0 && *port != default);
    port.is_some_and(|port| port.to_string() == text)
}

/// RFC 1123 §2.1 in lower case. A last label that begins with a digit is refused: URL parsers read
/// `127.1` and `0x7f000001` as addresses (WHATWG URL, "ends in a number").
fn is_host_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= HOST_BYTES_MAX
        && text.split('.').all(label)
        && text.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_alphabetic()))
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
fn is_bucket(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&text.len())
        && text.bytes().all(inner)
        && text.starts_with(end)
        && text.ends_with(end)
        && !text.contains("..")
        && text.parse::<Ipv4Addr>().is_err()
        && !["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|it| text.starts_with(it))
        && !["-s3alias", "--ol-s3", ".mrap", "--x-s3"].iter().any(|it| text.ends_with(it))
}

fn is_prefix(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let segment = |it: &str| !it.is_empty() && !matches!(it, "." | "..") && it.bytes().all(inner);
    text.is_empty() || text.len() <= PREFIX_BYTES_MAX && text.split('/').all(segment)
}

#[cfg(test)]
#[path = "destination_tests.rs"]
mod tests;
