//! A set of policies as it is kept.

use crate::{Digest, UnixMs, job::Actor};
use serde::{Deserialize, Serialize};

/// One version of a set: bucket `policies`, key `<tenant>` for the one in force and
/// `<tenant>.<version>` for each that ever was; bucket `platform`, key `platform` and
/// `platform.<version>`, for the operator's. An empty text is no policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecord {
    /// 1, 2, 3.
    pub version: u32,
    /// The text, as it was written.
    pub text: String,
    /// SHA-256 of the text.
    pub digest: Digest,
    /// Who put it; the operator when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
    /// When.
    pub at: UnixMs,
}
