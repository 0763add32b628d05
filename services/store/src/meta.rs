//! What is known about an object, and how it is kept: behind the bytes, in the same file.
//!
//! A file is `body ++ JSON of Meta ++ length of the JSON (u32, little endian) ++ MAGIC`, so bytes
//! and metadata appear, change and vanish in one rename, and a torn file is known by its end.
//!
//! Pure. Names and values are checked here, on the way in.

use std::collections::BTreeMap;

use s3s::path::check_bucket_name;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Ends every object file; the digit is the version of the format.
pub(crate) const MAGIC: [u8; 8] = *b"HOTCELL1";
/// Length of what follows the JSON.
pub(crate) const TAIL_BYTES: u64 = 12;
/// Longest key, in bytes ("Creating object key names", Amazon S3 user guide).
const KEY_BYTES_MAX: usize = 1024;
/// Longest value of one stored header, in bytes.
const HEADER_BYTES_MAX: usize = 1024;
/// All user metadata together, in bytes: the limit of S3.
const USER_BYTES_MAX: usize = 2048;
/// Longest JSON: 8 KiB of text in which JSON may escape each byte sixfold, rounded up.
pub(crate) const META_BYTES_MAX: u64 = 64 * 1024;

/// Everything about an object but its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) key: String,
    pub(crate) size: u64,
    /// SHA-256 of the bytes, lower-case hex. Also the entity tag: same bytes, same tag.
    pub(crate) sha256: String,
    pub(crate) modified_unix_ms: u64,
    pub(crate) headers: Headers,
}

/// Headers of the upload that come back with the object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Headers {
    pub(crate) content_type: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) cache_control: Option<String>,
    pub(crate) user: BTreeMap<String, String>,
}

/// A name or value that is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NameError {
    #[error("the bucket name is not valid")]
    Bucket,
    #[error("the key is empty, too long, or has an empty, dot or control part")]
    Key,
    #[error("the metadata is too large")]
    Metadata,
}

/// S3's rules for bucket names; they also make it safe as a directory name.
pub(crate) fn check_bucket(bucket: &str) -> Result<(), NameError> {
    if check_bucket_name(bucket) { Ok(()) } else { Err(NameError::Bucket) }
}

/// Refuses what some client, proxy, shell or XML parser would read as another key.
pub(crate) fn check_key(key: &str) -> Result<(), NameError> {
    let bad_segment = key.split('/').any(|segment| matches!(segment, "" | "." | ".."));
    if key.len() > KEY_BYTES_MAX || bad_segment || key.chars().any(char::is_control) {
        return Err(NameError::Key);
    }
    Ok(())
}

/// The name of the object's file: tenant text never becomes a path.
pub(crate) fn file_name(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

impl Headers {
    /// Bounds every value.
    pub(crate) fn check(&self) -> Result<(), NameError> {
        let single = [
            &self.content_type,
            &self.content_disposition,
            &self.content_encoding,
            &self.content_language,
            &self.cache_control,
        ];
        let long = |value: &&Option<String>| {
            value.as_ref().is_some_and(|text| text.len() > HEADER_BYTES_MAX)
        };
        let user: usize = self.user.iter().map(|(name, value)| name.len() + value.len()).sum();
        if single.iter().any(long) || user > USER_BYTES_MAX {
            return Err(NameError::Metadata);
        }
        Ok(())
    }
}

impl Meta {
    /// The bytes that follow the body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = serde_json::to_vec(self).expect("strings and numbers always serialize");
        let length = u32::try_from(out.len()).expect("headers are bounded by check()");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out
    }

    /// Length of the JSON that a file of this tail has, if the tail is one of ours.
    pub(crate) fn tail(tail: &[u8; 12], file_bytes: u64) -> Option<u64> {
        let (length, magic) = tail.split_first_chunk::<4>()?;
        let length = u64::from(u32::from_le_bytes(*length));
        let fits = length <= META_BYTES_MAX && length + TAIL_BYTES <= file_bytes;
        (magic == MAGIC && fits).then_some(length)
    }

    /// The metadata, if it describes a file of this size and name.
    pub(crate) fn decode(json: &[u8], file_bytes: u64, name: &str) -> Option<Self> {
        let meta: Self = serde_json::from_slice(json).ok()?;
        let length = u64::try_from(json.len()).ok()? + TAIL_BYTES;
        let whole = meta.size.checked_add(length) == Some(file_bytes);
        (whole && file_name(&meta.key) == name).then_some(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::{Meta, check_key, file_name};

    #[test]
    fn keys() {
        for good in ["a", "a/b", "...", "a/..b", "%2e%2e", "é", &"k".repeat(1024)] {
            assert!(check_key(good).is_ok(), "{good:?}");
        }
        for bad in ["", "/", "a//b", "a/", "/a", ".", "a/..", "a/./b", "a\0", "a\n", "\u{7f}"] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
        assert!(check_key(&"k".repeat(1025)).is_err());
    }

    #[test]
    fn a_torn_or_renamed_file_is_not_an_object() {
        let meta = Meta { key: "a".to_owned(), size: 3, ..Meta::default() };
        let end = meta.encode();
        let file_bytes = 3 + u64::try_from(end.len()).expect("small");
        let (json, tail) = end.split_last_chunk::<12>().expect("longer than a tail");
        let length = u64::try_from(json.len()).expect("small");
        assert_eq!(Meta::tail(tail, file_bytes), Some(length));
        assert_eq!(Meta::tail(&[0; 12], file_bytes), None);
        assert_eq!(Meta::tail(tail, 12), None);
        assert_eq!(Meta::decode(json, file_bytes, &file_name("a")), Some(meta));
        assert_eq!(Meta::decode(json, file_bytes - 1, &file_name("a")), None);
        assert_eq!(Meta::decode(json, file_bytes, &file_name("b")), None);
    }
}
