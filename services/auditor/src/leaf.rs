//! The leaf: what the tree commits to about one message, in at most 512 bytes of JSON. Pure.
//!
//! Promises: a leaf is a function of the record alone, and every record has one; its stored bytes
//! are kept as they are and never written again from parsed fields. Refuses: other versions,
//! unknown fields, longer leaves.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::record::Record;

/// Bytes in the longest leaf: 256 of them fit one read of 128 KiB.
pub const LEAF_BYTES_MAX: usize = 512;
const VERSION: u8 = 1;
/// Stands in the tenant's place in `audit` subjects that concern no tenant.
const PLATFORM: &str = "_";

/// What the tree commits to about one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    v: u8,
    /// Sequence in the stream.
    pub seq: u64,
    /// Time in the stream, unix ms.
    pub ts: u64,
    /// The subject; if the leaf would be too long, `sha256:` and the hex hash of the subject.
    pub subject: String,
    /// Tenant, if the subject names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Job, if the subject names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The event of `job.<tenant>.<job>.<event>`, the kind of `audit.<tenant>.<kind>`, or the first
    /// token of another subject.
    #[serde(rename = "type")]
    pub kind: String,
    /// `sha256:` and the hex hash of the record's bytes.
    pub rec: String,
    /// Length of the record's bytes.
    pub len: u64,
}

/// Why bytes are not a leaf.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// Over 512 bytes.
    #[error("a leaf of {found_bytes} bytes is over the limit")]
    TooLarge {
        /// Bytes found.
        found_bytes: usize,
    },
    /// Not the JSON of a leaf.
    #[error("the leaf is not the JSON of a leaf")]
    Json(#[source] serde_json::Error),
    /// Written by another version.
    #[error("the leaf is of version {0}")]
    Version(u8),
}

impl Leaf {
    /// The leaf of a record, given the record's encoded bytes.
    #[must_use]
    pub fn of(record: &Record, encoded: &[u8]) -> Self {
        let tokens: Vec<&str> = record.subject().split('.').collect();
        let (tenant, job, kind) = match tokens.as_slice() {
            ["job", tenant, job, kind, ..] => (Some(*tenant), Some(*job), *kind),
            ["audit", PLATFORM, kind] => (None, None, *kind),
            ["audit", tenant, kind] => (Some(*tenant), None, *kind),
            other => (None, None, other.first().copied().unwrap_or_default()),
        };
        let leaf = Self {
            v: VERSION,
            seq: record.seq(),
            ts: record.ts_ms(),
            subject: record.subject().to_owned(),
            tenant: tenant.map(str::to_owned),
            job: job.map(str::to_owned),
            kind: kind.to_owned(),
            rec: sha256_name(encoded),
            len: encoded.len() as u64,
        };
        if leaf.to_bytes().len() <= LEAF_BYTES_MAX {
            return leaf;
        }
        let subject = sha256_name(record.subject().as_bytes());
        Self { subject, tenant: None, job: None, kind: "long_subject".to_owned(), ..leaf }
    }

    /// The leaf's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("integers and strings always serialise")
    }

    /// Reads a leaf's bytes.
    ///
    /// # Errors
    /// Any `LeafError`.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > LEAF_BYTES_MAX {
            return Err(LeafError::TooLarge { found_bytes: bytes.len() });
        }
        let leaf: Self = serde_json::from_slice(bytes).map_err(LeafError::Json)?;
        if leaf.v == VERSION { Ok(leaf) } else { Err(LeafError::Version(leaf.v)) }
    }

    /// Whether these are the record's bytes.
    #[must_use]
    pub fn commits_to(&self, encoded: &[u8]) -> bool {
        self.len == encoded.len() as u64 && self.rec == sha256_name(encoded)
    }
}

/// `sha256:` and lower-case hex.
#[must_use]
pub fn sha256_name(bytes: &[u8]) -> String {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    format!("sha256:{}", hex::encode(hash))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(subject: &str, tenant: Option<&str>, job: Option<&str>, kind: &str) {
        let record = Record::new(u64::MAX, u64::MAX, subject, Vec::new(), "b");
        let encoded = record.encode().unwrap();
        let leaf = Leaf::of(&record, &encoded);
        let bytes = leaf.to_bytes();
        assert!(bytes.len() <= LEAF_BYTES_MAX, "{subject}");
        assert_eq!(Leaf::parse(&bytes).unwrap(), leaf);
        assert!(leaf.commits_to(&encoded));
        let found = (leaf.tenant.as_deref(), leaf.job.as_deref(), leaf.kind.as_str());
        assert_eq!(found, (tenant, job, kind), "{subject}");
    }

    #[test]
    fn every_subject_has_a_leaf() {
        check("job.acme.j1.submitted", Some("acme"), Some("j1"), "submitted");
        check("job.acme.j1.validated.gpu", Some("acme"), Some("j1"), "validated");
        check("audit.acme.grant", Some("acme"), None, "grant");
        check("audit._.admin", None, None, "admin");
        check("audit.acme.j1.denied", None, None, "audit");
        check("security.alert", None, None, "security");
        check("", None, None, "");
        check(&"x".repeat(4000), None, None, "long_subject");
        check(&format!("job.a.b.{}", "\u{1}".repeat(60)), None, None, "long_subject");
        let (tenant, job) = ("t".repeat(40), "j".repeat(36));
        let longest = format!("job.{tenant}.{job}.attempt_failed.{}", "p".repeat(40));
        check(&longest, Some(&tenant), Some(&job), "attempt_failed");
    }

    #[test]
    fn the_bytes_are_fixed() {
        let record = Record::new(5, 1_700_000_000_123, "job.acme.j1.submitted", vec![], "b");
        let leaf = Leaf::of(&record, b"").to_bytes();
        let expect = concat!(
            r#"{"v":1,"seq":5,"ts":1700000000123,"subject":"job.acme.j1.submitted","#,
            r#""tenant":"acme","job":"j1","type":"submitted","#,
            r#""rec":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","#,
            r#""len":0}"#
        );
        assert_eq!(String::from_utf8(leaf).unwrap(), expect);
        assert!(Leaf::parse(&expect.replace(":1,", ":2,").into_bytes()).is_err());
        assert!(Leaf::parse(&expect.replace("len", "lem").into_bytes()).is_err());
    }
}
