//! The order of a tenant's jobs: ids in pages of bounded length, and what is asked of them.
//!
//! Promises: a page only grows, and only the last one; so a place in the list stays that place.
//! Refuses: states. What a job is stands in its own last event; an id here may have none yet.

use crate::{EventKind, JobId};
use serde::{Deserialize, Serialize};

/// Ids of one page at most: 128 of 34 bytes are 4.4 KiB, written once for each group of
/// submissions, and far below the 1024 subjects that one read of the broker may meet.
pub const PAGE_JOBS_MAX: usize = 128;

/// Jobs that one answer lists at most.
pub const LIST_MAX: usize = 100;

/// Jobs that one answer lists when the request names no number.
pub const LIST_DEFAULT: usize = 20;

/// Longest cursor, in bytes: two numbers in base64url.
pub const CURSOR_BYTES_MAX: usize = 64;

/// One page of the list; bucket `listing`, key `<tenant>.<page>`, pages from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobPage {
    /// Ids in the order of their submission.
    pub jobs: Vec<JobId>,
}

/// `GET /v1/transcodes`, and `api.list` over the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListRequest {
    /// Jobs at most, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the last answer ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only jobs in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<EventKind>,
}
