//! What a tenant may use, and what it has used.

use crate::{JobId, TenantId, UnixMs};
use serde::{Deserialize, Serialize};

/// Whether a tenant is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// Served.
    #[default]
    Active,
    /// No request is served and no new work is given out; what runs may end.
    Suspended,
    /// Gone: its bytes are erased, its evidence stays, its name is not given again.
    Removed,
}

impl TenantState {
    /// Whether requests are served.
    #[must_use]
    pub fn is_active(self) -> bool {
        self == Self::Active
    }
}

/// What a plan grants beside pools, concurrency, retention and stored bytes, which the tenant's
/// record holds itself. A zero means nothing of it, never "no limit".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// Name of the plan that this came from: `free`, `starter`, `pro` or one's own.
    pub plan: String,
    /// Share of the workers relative to other tenants.
    pub weight: u32,
    /// Requests a second, over all of its keys.
    pub requests_per_sec: u32,
    /// Jobs a minute.
    pub jobs_per_min: u32,
    /// Jobs that may wait.
    pub queue_depth: u32,
    /// Largest input, in bytes.
    pub input_bytes_max: u64,
    /// Minutes of output in a calendar month (UTC).
    pub output_minutes_per_month: u64,
    /// CPU seconds of cells in a calendar month (UTC).
    pub cpu_secs_per_month: u64,
    /// Webhook endpoints.
    pub webhooks_max: u32,
}

impl Default for Quotas {
    /// The plan `starter`.
    fn default() -> Self {
        Self {
            plan: "starter".to_owned(),
            weight: 10,
            requests_per_sec: 200,
            jobs_per_min: 6000,
            queue_depth: 100_000,
            input_bytes_max: crate::limits::UPLOAD_BYTES_MAX,
            output_minutes_per_month: 100_000,
            cpu_secs_per_month: 10_000_000,
            webhooks_max: 16,
        }
    }
}

/// Priority of a job among those of its own tenant.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others.
    High,
    /// As they come.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    /// Every class, the first to be served first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The wire name; one token of a subject.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Whether it is the one that nobody needs to name.
    #[must_use]
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

/// What a tenant used in one calendar month; bucket `usage`, key `<tenant>.<YYYY-MM>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRecord {
    /// Sequence of the last event of stream `JOBS` that is counted here: later ones are new.
    pub seq: u64,
    /// CPU time of cells, in milliseconds.
    pub cpu_ms: u64,
    /// Presentation time of outputs, in milliseconds.
    pub output_ms: u64,
    /// Attempts that ended.
    pub attempts: u64,
    /// Jobs that ended with outputs.
    pub completed: u64,
    /// When it was last changed.
    pub at: UnixMs,
}

impl UsageRecord {
    /// The calendar month (UTC) of an instant, as `2026-11`.
    #[must_use]
    pub fn month(at: UnixMs) -> String {
        at.rfc3339().chars().take("YYYY-MM".len()).collect()
    }

    /// The key of a tenant's record of the month of `at`, in bucket `usage`.
    #[must_use]
    pub fn key(tenant: &TenantId, at: UnixMs) -> String {
        format!("{tenant}.{}", Self::month(at))
    }
}

/// A job in [`SlotRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The job.
    pub job: JobId,
    /// When it was listed.
    pub at: UnixMs,
}

/// What the broker does not know of a tenant's cap in one pool; bucket `slots`, key
/// `<tenant>.<pool>`. Jobs that have ended since may still be listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotRecord {
    /// Jobs of classes `high` and `low` that are out, at most as many as the tenant's cap.
    pub slots: Vec<Slot>,
    /// Jobs of class `normal` that were given back, because the cap was reached, and not taken since:
    /// the broker counts them as out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parked: Vec<Slot>,
}
