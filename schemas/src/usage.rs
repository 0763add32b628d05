//! What intake asks the signer about a tenant's share of the workers: the signer gives out the
//! work, so it alone knows who waits. Numbers only, no names of other tenants.

use crate::{TenantId, envelope::Message};
use serde::{Deserialize, Serialize};

/// How the work of a tenant stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRequest {
    /// Whose.
    pub tenant: TenantId,
}

/// Jobs that are ready and have no worker, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// Of class `high`.
    pub high: u64,
    /// Of class `normal`.
    pub normal: u64,
    /// Of class `low`.
    pub low: u64,
}

/// How long jobs waited, from `validated` to their first worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueWait {
    /// Half of them at most so long, in milliseconds.
    pub p50_ms: u64,
    /// 95 of 100 at most so long, in milliseconds.
    pub p95_ms: u64,
    /// Jobs counted: the last ones that the asked replica gave out.
    pub jobs: u32,
}

/// The answer to [`UsageRequest`], over all of the tenant's pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageReply {
    /// Jobs that workers hold, or that wait a moment for their next attempt.
    pub running: u64,
    /// Jobs that wait.
    pub waiting: Waiting,
    /// What the tenant is entitled to of the workers while the tenants of now have work, in
    /// thousandths.
    pub share_permille: u32,
    /// How long its last jobs waited; nothing before the first.
    pub queue_wait: Option<QueueWait>,
}

impl Message for UsageRequest {
    const TYPE: &'static str = "usage_request";
    const VERSION: u16 = 1;
}

impl Message for UsageReply {
    const TYPE: &'static str = "usage_reply";
    const VERSION: u16 = 1;
}
