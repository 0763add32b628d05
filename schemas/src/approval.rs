//! Approvals: one person asks, others agree, and exactly what was asked may then be done.

use crate::{ApprovalId, Digest, TenantId, UnixMs, identity::Action, job::Actor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What one approver said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voice {
    /// Who.
    pub actor: Actor,
    /// Groups that it spoke for, of those that the approval names.
    pub groups: BTreeSet<String>,
    /// Whether it agreed.
    pub approves: bool,
    /// Why, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: UnixMs,
}

/// An approval; bucket `approvals`, key `<tenant>.<approval id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRecord {
    /// Its id.
    pub id: ApprovalId,
    /// Whose.
    pub tenant: TenantId,
    /// Who asked.
    pub requester: Actor,
    /// Everyone whose voice does not count: the requester, and who made the requester's key.
    pub interested: Vec<Actor>,
    /// For what.
    pub action: Action,
    /// SHA-256 of the canonical request: any other request is not approved.
    pub request: Digest,
    /// The request, as approvers are shown it.
    pub shown: String,
    /// Voices needed.
    pub approvers_min: u32,
    /// Groups of which each must have spoken.
    pub groups: BTreeSet<String>,
    /// When it was asked.
    pub created_at: UnixMs,
    /// When it ends.
    pub expires_at: UnixMs,
    /// What was said, oldest first.
    pub voices: Vec<Voice>,
    /// What it was used for: a job's id, or the route. It is used once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_for: Option<String>,
}
