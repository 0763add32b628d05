//! Identifiers as newtypes. The constructor is the only parser, so an id that exists is safe as a
//! subject token, a file name and a log field.
//!
//! Refuses: anything that NATS would read as a wildcard or a separator (`*`, `>`, `.`, space).

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Longest slug, in bytes. The broker expands names into subjects; 40 keeps any subject of ours
/// under 200 bytes.
pub const SLUG_BYTES_MAX: usize = 40;

/// Length of a generated id: 128 bits in lowercase hex.
pub const HEX_ID_CHARS: usize = 32;

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A slug breaks `^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`.
    #[error("{0} must be 1 to 40 characters of a-z, 0-9 and '-', not beginning or ending with '-'")]
    Slug(&'static str),
    /// A generated id breaks `^[0-9a-f]{32}$`.
    #[error("{0} must be 32 lowercase hexadecimal digits")]
    Hex(&'static str),
}

fn is_slug(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= SLUG_BYTES_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_hex_id(text: &str) -> bool {
    text.len() == HEX_ID_CHARS
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// UUID version 7 (RFC 9562 §5.7) as 32 hex digits: 48 bits of Unix milliseconds, then randomness,
/// so ids sort by creation.
fn hex_id(unix_ms: u64, random: [u8; 10]) -> String {
    let [a, b, c, d, e, f, g, h, i, j] = random;
    let [_, _, t0, t1, t2, t3, t4, t5] = unix_ms.to_be_bytes();
    let bytes =
        [t0, t1, t2, t3, t4, t5, 0x70 | (a & 0x0f), b, 0x80 | (c & 0x3f), d, e, f, g, h, i, j];
    hex::encode(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $check:ident, $error:ident, $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text, safe as one subject token and as one path segment.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if $check(text) { Ok(Self(text.to_owned())) } else { Err(IdError::$error($label)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! hex_ids {
    ($($(#[$doc:meta])* $name:ident, $label:literal;)*) => {$(
        id!($(#[$doc])* $name, is_hex_id, Hex, $label);
        impl $name {
            /// A new id from the time of its creation (Unix ms) and 80 random bits.
            #[must_use]
            pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
                Self(hex_id(unix_ms, random))
            }
        }
    )*};
}

id!(/// A tenant's short name, chosen by the operator.
    TenantId, is_slug, Slug, "tenant");
id!(/// A worker's name: the name in its broker login.
    WorkerId, is_slug, Slug, "worker");
id!(/// A pool of workers.
    PoolId, is_slug, Slug, "pool");
id!(/// A place outside of hotcell's store where a tenant's outputs may go.
    DestinationName, is_slug, Slug, "destination");
id!(/// A tenant's own named settings.
    PresetName, is_slug, Slug, "preset name");

hex_ids! {
    /// One transcode.
    JobId, "job";
    /// One upload: the folder that one presigned PUT may write to.
    UploadId, "upload";
    /// One webhook endpoint of a tenant.
    EndpointId, "endpoint";
    /// One delivery of one event to one endpoint; stable over retries.
    DeliveryId, "delivery";
    /// The public half of an API key.
    KeyId, "key";
    /// One approval.
    ApprovalId, "approval";
    /// One block of a principal.
    BlockId, "block";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_one_subject_token() {
        for good in ["a", "acme", "acme-2", "0", &"x".repeat(40)] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "*", ">", "a b", "ä", "_", &"x".repeat(41)] {
            assert_eq!(bad.parse::<TenantId>(), Err(IdError::Slug("tenant")), "{bad}");
        }
    }

    #[test]
    fn generated_ids_sort_by_time_and_are_version_7() {
        let early = JobId::new(1_763_757_131_000, [0xff; 10]);
        let late = JobId::new(1_763_757_131_001, [0; 10]);
        assert!(early < late);
        assert_eq!(early.as_str().get(12..13), Some("7"));
        assert_eq!(early.as_str().parse::<JobId>().as_ref(), Ok(&early));
        assert!("..".parse::<JobId>().is_err());
        assert!(early.as_str().to_uppercase().parse::<JobId>().is_err());
    }
}
